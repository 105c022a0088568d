"""Commands in a cell (`!command`): they write to a terminal, as in Jupyter, but nothing can be typed at it."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from select import select

_POLL = 0.05  # seconds between checks whether a command has ended whose own children keep the terminal open
_SIZE = 24, 80  # rows and columns
# Elsewhere, pagers write everything without waiting, as their output is not a terminal.
_PAGERS = "".join(
    f'if command -v {name} >/dev/null; then {name}() {{ command {name} "$@" | cat; }}; fi; '
    for name in ("more", "less")
)
_GRACE = 1.0  # seconds for an interrupted command to end by itself


def run(command: str, write: Callable[[str], object]) -> int:
    """Run a command in a shell, and pass on its output as it arrives.

    Its standard input is at its end, and it cannot read from a terminal, so nothing waits for input. Pagers, which
    would wait for a key, write everything.

    Returns:
        Its exit code, negative if it was ended by a signal.
    """
    reader, writer = _terminal()
    shell = os.environ.get("SHELL", "/bin/sh")
    try:
        process = subprocess.Popen(
            [shell, "-c", _PAGERS + command],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        _copy(process, reader, lambda data: write(decoder.decode(data)))
        write(decoder.decode(b"", final=True))
    except BaseException:
        _end(process)
        with contextlib.suppress(OSError):
            _copy(process, reader, lambda data: write(decoder.decode(data)))
        raise
    finally:
        os.close(reader)
    code = process.wait()
    return 128 - code if code > 128 else code  # a shell reports a signal as 128 plus its number


def _terminal() -> tuple[int, int]:
    """Return both ends of a terminal that can only be written to; if no more terminals are available, of a pipe."""
    try:
        reader, terminal = pty.openpty()
    except OSError:
        return os.pipe()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *_SIZE, 0, 0))
        os.fchmod(terminal, 0o200)  # a pager would open it by its name
        return reader, os.open(os.ttyname(terminal), os.O_WRONLY | os.O_NOCTTY)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(terminal)


def _copy(process: subprocess.Popen[bytes], reader: int, write: Callable[[bytes], object]) -> None:
    """Copy a process's output until it has ended, or no more can come."""
    ended = False
    while True:
        if select([reader], [], [], 0 if ended else _POLL)[0]:
            try:
                data = os.read(reader, 1 << 16)
            except OSError:  # EIO: every process has closed the terminal
                break
            if not data:
                break
            write(data)
        elif ended:
            break
        ended = ended or process.poll() is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the processes of a command, and kill those that do not end."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + _GRACE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
