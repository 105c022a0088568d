"""Show an execution on standard output and error, save its files, and return its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable
from contextlib import closing
from enum import IntEnum
from pathlib import Path
from typing import TextIO

from rich.console import Console

from greenroom.cli.progress import Display
from greenroom.errors import GreenroomError, PoolFull, SandboxLost, ServiceFailed
from greenroom.local_files import writing
from greenroom.models import Event, Execution, Image, Output, StreamText
from greenroom.sessions import Session
from greenroom.untrusted import printable, without_controls


class ExitCode(IntEnum):
    """Exit codes, other than those that code chooses with `sys.exit`."""

    FAILED = 1
    """The code raised an exception, or its process ended."""
    REFUSED = 2
    """Nothing ran: an argument is wrong, or no sandbox can be created."""
    LOST = 70
    """The sandbox or the service failed while the code ran."""
    POOL_FULL = 75
    TIMED_OUT = 124
    INTERRUPTED = 130
    OUT_OF_MEMORY = 137


def code_of_error(error: GreenroomError) -> ExitCode:
    """Return the exit code for a Greenroom error."""
    match error:
        case PoolFull():
            return ExitCode.POOL_FULL
        case SandboxLost() | ServiceFailed():
            return ExitCode.LOST
        case _:
            return ExitCode.REFUSED


def code_of(execution: Execution) -> int:
    """Return the exit code of an execution; `sys.exit` works as in Python."""
    error = execution.error
    match execution.status:
        case "succeeded":
            return 0
        case "timed_out":
            return ExitCode.TIMED_OUT
        case "cancelled":
            return ExitCode.INTERRUPTED
        case "failed":
            if ended_itself(execution):
                return _chosen_code(execution) or 0
            killed = error is not None and error.name == "MemoryError" and execution.state_lost
            return ExitCode.OUT_OF_MEMORY if killed else ExitCode.FAILED


def exit_code_of(execution: Execution) -> int:
    """Return the exit code of a shell command: the command's own, if it ended by itself."""
    return code_of(execution) if execution.exit_code is None else execution.exit_code


def ended_itself(execution: Execution) -> bool:
    """Whether the code ended with `sys.exit`, `exit` or `SystemExit`."""
    return execution.error is not None and execution.error.name == "SystemExit"


def _chosen_code(execution: Execution) -> int | None:
    """The argument of `sys.exit`: a number, 1 for a message, `None` without an argument."""
    value = execution.error.value if execution.error is not None else ""
    if value in {"", "None"}:
        return None
    try:
        return int(value) & 0xFF
    except ValueError:
        return ExitCode.FAILED


def print_events(events: Generator[Event, None, None]) -> Execution:
    """Print the output of an execution as it arrives, then its error; return the execution."""
    last = "\n"
    with closing(events):  # interrupting this interrupts the code
        for event in events:
            match event:
                case StreamText("stdout", text):
                    write(sys.stdout, last := text)
                case StreamText(_, text):
                    write(sys.stderr, last := text)
                case Output():
                    if event.text:
                        write(sys.stdout, last := f"{event.text}\n")
                case execution:
                    if sys.stdout.isatty() and not last.endswith("\n"):
                        print()
                    _print_end(execution)
                    return execution
    raise AssertionError("a stream ends with its execution")


def _print_end(execution: Execution) -> None:
    error = execution.error
    if error is not None and ended_itself(execution):
        if not error.value.removeprefix("-").isdecimal() and error.value not in {"", "None"}:
            write(sys.stderr, f"{error.value}\n")
    elif error is not None:
        if error.traceback:
            write(sys.stderr, f"{error.traceback}\n")
        if execution.status != "failed":
            print_line(error.value)
        elif not error.traceback and error.name != "ExitCode":  # a failed command has printed its own message
            write(sys.stderr, f"{error.name}: {error.value}\n")
    if execution.truncated:
        print_line(f"{execution.truncated} bytes of output exceeded the limit and were dropped.")


class Directory:
    """The directory for a session's figures and files. Existing files are kept unless `overwrite` is set.

    The code chooses the file names, which could be those of files that other programs trust.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        self._own: set[Path] = set()

    def save(self, execution: Execution, session: Session, images: Iterable[Image]) -> None:
        """Save pictures, and the files that the execution wrote.

        Raises:
            GreenroomError: one of them cannot be written.
        """
        for image in images:
            if (target := self._target(image.name)) is not None:
                self._saved(image.save(target))
        for file in execution.files:
            if (target := self._target(file.name)) is not None:
                with Display() as display:
                    saved = session.download(file.path, target, on_progress=display.on_progress)
                self._saved(saved)
        if execution.files_omitted:
            print_line(f"left out {execution.files_omitted} more files")

    def _target(self, name: str) -> Path | None:
        target = self._path / name
        if not self._overwrite and target not in self._own and os.path.lexists(target):
            print_line(f"left out {printable(str(target))}: the file exists (use --overwrite)")
            return None
        with writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _saved(self, target: Path) -> None:
        self._own.add(target)
        print_line(f"saved {printable(str(target))}")


def write(stream: TextIO, text: str) -> None:
    """Write the code's output; on a terminal, without control sequences."""
    stream.write(without_controls(text) if stream.isatty() else text)
    stream.flush()


def print_line(text: str, *, style: str = "") -> None:
    """Print a message from Greenroom on standard error."""
    Console(stderr=True).print(without_controls(text), style=style, markup=False, highlight=False, soft_wrap=True)


def print_error(error: GreenroomError) -> None:
    """Print an error from Greenroom on standard error."""
    print_line(str(error), style="red")
