"""Run an installer on this machine. It ends with this process, and its output is read and limited."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from greenroom.errors import EngineUnavailable
from greenroom.untrusted import without_controls

_TIMEOUT = 1800.0
_KEPT = 256 << 10
_SHOWN = 600

_DIES_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.getppid() == int(sys.argv[1]) or sys.exit(1)
"""
_PROGRAM = _DIES_WITH_PARENT + "os.execv(sys.argv[2], sys.argv[2:])"

# pip starts programs for setup scripts, build backends and version control, but not for wheels.
_PIP = (
    _DIES_WITH_PARENT
    + """
import runpy
del sys.argv[1]
def refuse(event, arguments):
    if event in {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}:
        raise PermissionError(1, "nothing is built outside a sandbox")
sys.addaudithook(refuse)
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
)

# These would change where or what is installed.
_NOT_FOR_PIP = {"NO_BINARY", "PREFIX", "REPORT", "REQUIREMENT", "ROOT", "SRC", "TARGET", "USER", "LOG", "PYTHON"}
_NOT_FOR_UV = {"BUILD", "NO_BINARY", "NO_BINARY_PACKAGE", "PYTHON", "SYSTEM_PYTHON", "TARGET", "PREFIX", "PROJECT"}


def pip(python: Path, *arguments: str) -> list[str]:
    """The command of an interpreter's own pip, which cannot start other programs and so cannot build."""
    return [str(python), "-I", "-c", _PIP, str(os.getpid()), *arguments]


def program(executable: Path | str, *arguments: str) -> list[str]:
    """The command of another installer."""
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), str(executable), *arguments]


async def run(
    command: Sequence[str], directory: Path, temporary: Path, on_line: Callable[[str], object] | None = None
) -> tuple[int, str]:
    """Run an installer to completion; return its exit code and the end of its output, without control characters.

    Args:
        command: the result of `pip` or `program`.
        directory: its working directory, so that relative paths are those of a requirements file.
        temporary: a directory for its temporary files.
        on_line: called with each line of output.

    Raises:
        EngineUnavailable: it cannot be started, or takes too long.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            env={**environment(os.environ), "TMPDIR": str(temporary)},
            start_new_session=True,
            umask=0o022,  # code in a sandbox may run as another user
        )
    except OSError as error:
        raise EngineUnavailable(f"The package installer cannot be started: {error}.") from error
    output = bytearray()
    try:
        async with asyncio.timeout(_TIMEOUT):
            await _read(process, output, on_line)
            code = await process.wait()
    except TimeoutError:
        raise EngineUnavailable(f"The packages were not installed within {_TIMEOUT:g} seconds.") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
    return code, without_controls(output.decode("utf-8", "replace"))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of installers: this process's, without variables that change where or what is installed."""
    dropped = {f"PIP_{name}" for name in _NOT_FOR_PIP} | {f"UV_{name}" for name in _NOT_FOR_UV}
    return {
        **{name: value for name, value in variables.items() if name.upper() not in dropped},
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_NO_COLOR": "1",
        "PIP_PROGRESS_BAR": "off",
        "NO_COLOR": "1",
    }


def ending(output: str) -> str:
    """Return the last lines of an output, for a message."""
    lines = [
        line.strip() for line in output.splitlines() if line.strip() and not line.startswith(("WARNING", "[notice"))
    ]
    errors = [line for line in lines if re.match("error|npm err", line, re.IGNORECASE)]
    text = " ".join(errors or lines[-3:])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


async def _read(
    process: asyncio.subprocess.Process, output: bytearray, on_line: Callable[[str], object] | None
) -> None:
    assert process.stdout is not None  # noqa: S101  a pipe by construction
    rest = b""
    while data := await process.stdout.read(1 << 16):
        output += data
        del output[:-_KEPT]
        if on_line is not None:
            *lines, rest = (rest + data)[-_KEPT:].split(b"\n")
            for line in lines:
                on_line(line.decode("utf-8", "replace"))
