"""The import rules of pyproject.toml hold, and notice an import that breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(sources: Path) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(map(str, [sources, *ROOT.glob("packages/*/src")]))
    return subprocess.run(
        [LINT, "--no-logo", "--no-cache", "--config", ROOT / "pyproject.toml"],
        env={**os.environ, "PYTHONPATH": search},
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "upward"),
    [
        ("engines/base.py", "greenroom.local"),
        ("models.py", "greenroom.sessions"),
        ("runner/protocol.py", "greenroom.errors"),
        ("local/plan.py", "greenroom.azure"),
        ("azure/codecs/shared.py", "httpx"),
    ],
)
def test_an_import_that_runs_upward_is_refused(tmp_path: Path, module: str, upward: str) -> None:
    shutil.copytree(ROOT / "packages/core/src/greenroom", tmp_path / "greenroom")
    assert lint(tmp_path).returncode == 0
    with (tmp_path / "greenroom" / module).open("a", encoding="utf-8") as file:
        file.write(f"import {upward}\n")
    broken = lint(tmp_path)
    assert broken.returncode == 1
    assert f"greenroom.{module.removesuffix('.py').replace('/', '.')}" in broken.stdout
    assert upward in broken.stdout
