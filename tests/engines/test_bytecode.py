"""Packages without bytecode are compiled once, on the host."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from greenroom.engines.bubblewrap.bytecode import command_to_compile
from greenroom.testing import engine_pool


def compilers(packages: Path) -> str:
    found = subprocess.run(["pgrep", "-f", f"compileall.*{packages}"], capture_output=True, text=True, check=False)
    return found.stdout


@pytest.mark.timeout(900)
def test_an_environment_without_bytecode_is_compiled_while_a_pool_is_open(python_without_bytecode: Path) -> None:
    python = str(python_without_bytecode)
    engine_pool("bubblewrap:", ready_session_instances=0).close()  # skips, or fails, if there is no such engine
    command = command_to_compile(python)
    assert command is not None
    packages = Path(command[-1])
    with engine_pool("bubblewrap:", python=python, ready_session_instances=0):
        pass  # closing it ends what it has begun
    assert compilers(packages) == ""
    with engine_pool("bubblewrap:", python=python, ready_session_instances=0) as pool, pool.session() as session:
        assert session.execute("1 + 1").result == "2"
        for _ in range(6000):
            if command_to_compile(python) is None:
                break
            for compiler in compilers(packages).split():
                with contextlib.suppress(OSError):  # it has ended, or its lowest priority must not be raised
                    os.setpriority(os.PRIO_PROCESS, int(compiler), 0)
            time.sleep(0.1)
        assert command_to_compile(python) is None
    assert compilers(packages) == ""


def test_an_environment_of_another_user_is_left_alone(
    python_without_bytecode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command_to_compile(str(python_without_bytecode)) is not None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert command_to_compile(str(python_without_bytecode)) is None
