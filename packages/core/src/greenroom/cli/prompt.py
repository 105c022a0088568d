"""A prompt for one session, like Python's own."""

from __future__ import annotations

import ast
import codeop
import contextlib
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from greenroom.cli.output import Directory, code_of, ended_itself, exit_code_of, print_error, print_events, print_line
from greenroom.errors import GreenroomError
from greenroom.models import Execution, Image
from greenroom.sessions import Session
from greenroom.text import loss

_compile = codeop.CommandCompiler()
_compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def converse(session: Session, directory: Directory | None, timeout: float | None) -> int:
    """Run typed code until Ctrl-D or `exit()`; returns the code. Ctrl-C interrupts the code; the session continues."""
    _edit_lines()
    print_line("Python in a sandbox. Ctrl-C interrupts the code, Ctrl-D ends the session.")
    figures = itertools.count(1)
    while True:
        try:
            source = _read()
            if not source.strip():
                continue
            execution = print_events(session.stream(source, timeout=timeout))
            if ended_itself(execution):
                return code_of(execution)
            if lost := loss(execution):
                print_line(lost)
            _keep(execution, session, directory, figures)
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print("\nKeyboardInterrupt")
        except GreenroomError as error:
            print_error(error)


def converse_in_shell(session: Session, timeout: float | None) -> int:
    """Run typed commands until Ctrl-D or `exit`; return the exit code of the last one."""
    _edit_lines()
    print_line(
        "A new shell for each line, in /mnt/data. Ctrl-C stops the command, Ctrl-D leaves; the session continues."
    )
    ended = 0
    while True:
        try:
            line = input("$ ").strip()
            if line in {"exit", "logout"}:
                return ended
            if line:
                execution = print_events(session.stream_shell(line, timeout=timeout))
                ended = exit_code_of(execution)
        except EOFError:
            print()
            return ended
        except KeyboardInterrupt:
            print()
        except GreenroomError as error:
            print_error(error)


def _edit_lines() -> None:
    """Enable line editing and history for `input`, where available."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: PLC0415  not on Windows

        readline.parse_and_bind("tab: tab-insert")  # the tab key indents; by default it completes file names


def _read() -> str:
    lines = [input(">>> ")]
    while not _is_complete("\n".join(lines)):
        lines.append(input("... "))
    return "\n".join(lines)


def _is_complete(source: str) -> bool:
    """Whether Python would run this. Text that is not Python is complete, except a cell magic before its empty line."""
    if source.startswith("%%"):
        return source.endswith("\n")
    try:
        return _compile(source, symbol="single") is not None
    except (SyntaxError, ValueError, OverflowError):
        return True


def _keep(execution: Execution, session: Session, directory: Directory | None, figures: Iterable[int]) -> None:
    """Save the figures and files of an execution; figures are numbered over the whole session."""
    if directory is not None:
        directory.save(
            execution, session, [_renumbered(image, n) for image, n in zip(execution.images, figures, strict=False)]
        )
    elif execution.images:
        print_line("Figures are saved with -o DIRECTORY.")


def _renumbered(image: Image, number: int) -> Image:
    return replace(image, name=f"figure-{number}{Path(image.name).suffix}")
