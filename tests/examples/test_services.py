"""The services of `examples`: each is a project of its own, whose tests run in a copy of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from greenroom.testing import engine_pool

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["web_service", "notebook_service"])
def test_the_projects_own_tests_pass(name: str, tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    for service in ("web_service", "notebook_service"):  # the one uses modules of the other
        shutil.copytree(EXAMPLES / service, tmp_path / service, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GREENROOM_", "PYTEST_"))}
    required = {"GREENROOM_REQUIRE_ENGINES": "bubblewrap"}  # it is there
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300"],
        cwd=tmp_path / name,
        env={**environment, **required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "skipped" not in ended.stdout
