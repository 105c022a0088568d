"""The report of `greenroom doctor` about a sandbox."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from greenroom.azure import credentials
from greenroom.cli.app import app
from greenroom.errors import EngineUnavailable
from greenroom.testing import engine_pool


def doctor() -> dict[str, dict[str, str | bool]]:
    result = CliRunner().invoke(app, ["doctor", "--output", "json"])
    assert result.exit_code == 0, result.output
    return {row["check"]: row for row in json.loads(result.stdout)}


@pytest.fixture(autouse=True)
def _without_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str | None) -> NoReturn:
        raise EngineUnavailable("Azure credentials need azure-identity.")

    monkeypatch.setattr(credentials, "default_credential", refuse)


def test_an_environment_without_bytecode_is_reported_with_the_fix(
    python_without_bytecode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()  # skips, or fails, if there is no such engine
    monkeypatch.setenv("GREENROOM_PYTHON", str(python_without_bytecode))
    packages = next(python_without_bytecode.parent.parent.glob("lib/python3*/site-packages"))
    packages.chmod(0o555)  # otherwise a pool compiles them itself
    if os.geteuid() == 0:
        os.chown(packages, 65534, 65534)
    try:
        found = doctor()
    finally:
        packages.chmod(0o755)
        os.chown(packages, os.geteuid(), os.getegid())
    assert str(found["bubblewrap"]["detail"]).startswith("Python 3.")
    assert str(found["bubblewrap: limits"]["detail"]).startswith("control groups: ")
    assert found["bubblewrap: system calls"]["detail"] == "filtered"
    assert found["bubblewrap: packages"]["detail"] == "missing: jinja2, matplotlib, numpy, openpyxl, pandas"
    assert "pip install 'greenroom[data]'" in str(found["bubblewrap: packages"]["next"])
    assert found["Azure"]["detail"] == "not installed"
    missing = str(found["bubblewrap: bytecode"]["next"])
    command = re.search(r"no bytecode: .* starts slowly\. Fix this with: (.+?) \(uv ", missing)
    assert command is not None, missing
    subprocess.run(shlex.split(command[1]), check=False)  # it may find a file for another version of Python
    assert doctor()["bubblewrap: bytecode"]["works"]
