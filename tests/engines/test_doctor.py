"""The report of `greenroom doctor` about a sandbox."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from greenroom.cli.app import app
from greenroom.testing import engine_pool


def doctor() -> str:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    return result.output


def test_an_environment_without_bytecode_is_reported_with_the_fix(
    bare_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()  # skips, or fails, where there is no such engine
    monkeypatch.setenv("GREENROOM_PYTHON", str(bare_python))
    packages = next(bare_python.parent.parent.glob("lib/python3*/site-packages"))
    packages.chmod(0o555)  # else a pool compiles them by itself
    if os.geteuid() == 0:
        os.chown(packages, 65534, 65534)
    said = doctor()
    packages.chmod(0o755)
    assert re.search(r"✓ bubblewrap: works, with Python 3\.\S+, limited by control groups: (version|none)", said)
    command = re.search(r"no bytecode: .* starts slowly\. Fix that with: (.+?) \(uv ", said)
    assert command is not None, said
    subprocess.run(shlex.split(command[1]), check=False)  # it may find a file for another version of Python
    assert "no bytecode" not in doctor()
