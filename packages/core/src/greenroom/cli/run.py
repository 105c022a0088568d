"""`greenroom run`: run code from a file, an argument, standard input or a prompt in a new sandbox."""

from __future__ import annotations

import contextlib
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from greenroom.cli import prompt
from greenroom.cli.output import Directory, ExitCode, exit_code_of, print_events, print_line
from greenroom.cli.progress import Display
from greenroom.connecting import session as one_session
from greenroom.sessions import Session
from greenroom.untrusted import printable

Pool = Annotated[
    str | None, typer.Option("--pool", help='Where to run, such as "docker:".', envvar="GREENROOM_POOL", metavar="URL")
]

# The next cell counts as the first, so that errors name it correctly.
_BE_A_SCRIPT = """
__import__("sys").argv = {arguments}
if {file} is not None:
    __file__ = {file}
if "get_ipython" in globals():
    get_ipython().execution_count -= 1
"""


@dataclass(frozen=True, slots=True)
class _Program:
    code: str
    arguments: list[str]
    """The arguments in `sys.argv`."""
    file: bytes | None = None
    """The content of the script, if there is one."""

    def prepare(self, session: Session) -> None:
        """Provide what Python gives to a script: its arguments and its own file."""
        path = None
        if self.file is not None:
            path = session.upload(self.file, Path(self.arguments[0]).name).path
        if path is not None or len(self.arguments) > 1:
            session.execute(_BE_A_SCRIPT.format(arguments=ascii(self.arguments), file=ascii(path))).raise_for_error()


def run(
    source: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A Python file, or - for standard input.")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="The program's arguments, in sys.argv.")
    ] = None,
    *,
    code: Annotated[str | None, typer.Option("--code", "-c", help="The code itself, instead of a file.")] = None,
    upload: Annotated[
        list[Path] | None, typer.Option("--upload", "-u", help="A file to upload to /mnt/data first. Repeatable.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A directory for figures and new files.", metavar="DIRECTORY"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Whether these can replace existing files.")] = False,
    timeout: Annotated[float | None, typer.Option(help="The time limit of the code in seconds.")] = None,
    pool: Pool = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="A package or a requirements file; installed once, like a pool's option packages. Repeatable.",
            metavar="PACKAGE|FILE",
        ),
    ] = None,
) -> None:
    """Run Python in a new sandbox. Without a file, a terminal gets a prompt.

    Options must precede the file; arguments after it are the program's.

    The exit code is 0, or the argument of sys.exit; 1 after an exception, 2 if nothing could run, 70 if the sandbox was
    lost, 75 if the pool is full, 124 after the time limit, 130 after Ctrl-C, 137 if the code ran out of memory.

    The code's output is written unchanged to a file or a pipe. On a terminal, control sequences (colours, titles,
    cursor movements) are removed, as they could alter the output of other programs or simulate input.
    """
    directory = None if output is None else Directory(output, overwrite=overwrite)
    at_prompt = source is None and code is None and sys.stdin.isatty() and sys.stdout.isatty()
    program = None if at_prompt else _program([*([] if source is None else [source]), *(arguments or [])], code)
    try:
        with contextlib.ExitStack() as stack:
            with Display("Starting a sandbox") as display:
                options: dict[str, Any] = {"packages": with_} if with_ else {}
                session = stack.enter_context(one_session(pool, on_progress=display.on_progress, **options))
                for path in upload or []:
                    session.upload(path, on_progress=display.on_progress)
            if program is None:
                ended = prompt.converse(session, directory, timeout)
            else:
                ended = _run(program, session, directory, timeout)
    except KeyboardInterrupt:
        print_line("Interrupted.")
        ended = ExitCode.INTERRUPTED
    raise typer.Exit(ended)


def _run(program: _Program, session: Session, directory: Directory | None, timeout: float | None) -> int:
    program.prepare(session)
    execution = print_events(session.stream(program.code, timeout=timeout))
    if directory is not None:
        directory.save(execution, session, execution.images)
    return exit_code_of(execution)


def _program(source: list[str], code: str | None) -> _Program:
    if code is not None:  # all remaining ones are arguments
        return _Program(code, ["-c", *source])
    if not source or source[0] == "-":
        try:
            return _Program(sys.stdin.read(), source or [""])
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"-: {error}") from None
    try:
        content = Path(source[0]).read_bytes()  # only once, as it can be a pipe
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return _Program(content.decode(encoding), source, content)
    except (OSError, SyntaxError, ValueError) as error:
        raise typer.BadParameter(f"{printable(source[0])}: {error}") from None
