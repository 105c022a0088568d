"""The commands, their output and their exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import AsyncGenerator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

from greenroom.cli import image, serve
from greenroom.config import sources
from greenroom.connecting import session as one_session
from greenroom.engines import registry
from greenroom.engines.base import ControlGroups, Engine
from greenroom.errors import EngineUnavailable, GreenroomError
from greenroom.local_files import writing
from greenroom.models import Execution, Output, StreamText
from greenroom.sessions import Session
from greenroom.untrusted import printable, without_controls

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(image.app, name="image")

_GROUP_NOTES = {
    ControlGroups.VERSION_1: (
        "Version 1 does not count the buffers of UDP sockets towards a sandbox's memory; version 2 does."
    ),
    ControlGroups.NONE: (
        "Without them, the limits on memory and processes hold for each process and not for the whole sandbox. Run as "
        "root, or in a delegated group: systemd-run --user --scope -p Delegate=yes …"
    ),
}
"""Notes on each version of control groups."""

_Pool = Annotated[
    str | None, typer.Option("--pool", help='Where to run, such as "docker:".', envvar="GREENROOM_POOL", metavar="URL")
]


def main() -> None:
    """Run the command line; an error is one line on standard error and the exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding can lack characters that code prints
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except GreenroomError as error:
        text = without_controls(str(error))
        Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("greenroom"))
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Agents write code; Greenroom runs it, in isolated sessions."""
    del version


@app.command()
def run(
    source: Annotated[str, typer.Argument(help="A Python file, or - for standard input.")] = "-",
    *,
    code: Annotated[str | None, typer.Option("--code", "-c", help="The code itself, instead of a file.")] = None,
    upload: Annotated[
        list[Path] | None, typer.Option("--upload", "-u", help="A file to put into /mnt/data first. Repeatable.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where figures and new files go.", metavar="DIRECTORY")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Whether those may replace existing files.")] = False,
    timeout: Annotated[float | None, typer.Option(help="The time limit of the code in seconds.")] = None,
    pool: _Pool = None,
) -> None:
    """Run Python in a new sandbox: its output here, its exit code 1 if the code failed.

    What the code writes goes to a file or a pipe as it is. To a terminal it goes without control sequences (colours,
    titles, movements of the cursor), as these could change what you see of other programs, or type for you.
    """
    program = code if code is not None else _read(source)
    with one_session(pool) as session:
        for path in upload or []:
            session.upload(path)
        for event in session.stream(program, timeout=timeout):
            match event:
                case StreamText("stdout", text):
                    _write(sys.stdout, text)
                case StreamText(_, text):
                    _write(sys.stderr, text)
                case Output():
                    if event.text:
                        _write(sys.stdout, f"{event.text}\n")
                case execution:
                    if execution.error is not None:
                        error = execution.error
                        _write(sys.stderr, f"{error.traceback or f'{error.name}: {error.value}'}\n")
                    if output is not None:
                        _save(execution, session, output, overwrite=overwrite)
                    if not execution.succeeded:
                        raise typer.Exit(1)


def _save(execution: Execution, session: Session, directory: Path, *, overwrite: bool) -> None:
    def save(target: Path, write: Callable[[Path], Path]) -> None:
        # The code chose the name: it could be the name of a file that other programs trust.
        if not overwrite and os.path.lexists(target):
            _print_line(f"left out {printable(str(target))}: the file exists (use --overwrite)")
            return
        _make(target.parent)
        _print_line(f"saved {printable(str(write(target)))}")

    for picture in execution.images:
        save(directory / picture.name, picture.save)
    for file in execution.files:
        save(directory / file.name, lambda target, file=file: session.download(file.path, target))


def _make(directory: Path) -> None:
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)


# Run in a sandbox that has just started: which modules it had to compile, as it cannot keep their bytecode.
_LOOK = """
import json, os, platform, sys, sysconfig
packages = sysconfig.get_path("purelib")
specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
cached = [spec.cached for spec in specs if spec.cached and spec.cached.startswith(packages)]
missing = sum(not os.path.exists(path) for path in cached)
print(json.dumps([platform.python_version(), missing > len(cached) / 10, sys.executable, packages]))
"""


@app.command()
def doctor() -> None:
    """Try every engine on this machine with a real sandbox, and report what is missing."""
    works = False
    for scheme in registry.schemes():
        try:
            with one_session(f"{scheme}:") as session:
                version, slow, python, packages = json.loads(session.execute(_LOOK).raise_for_error().stdout)
        except (GreenroomError, ValueError) as error:  # or its output was not JSON
            _print_line(f"✗ {scheme}: {error}")
            continue
        works = True
        groups = asyncio.run(_control_groups(scheme))
        _print_line(f"✓ {scheme}: works, with Python {version}, limited by control groups: {groups}")
        if note := _GROUP_NOTES.get(groups):
            _print_line(f"  {note}")
        if slow and scheme == "bubblewrap":
            _print_line(
                "  Its packages have no bytecode: each sandbox compiles them anew and starts slowly. Fix that with: "
                f"{shlex.join([python, '-m', 'compileall', '-q', packages])} (uv does so with --compile-bytecode)"
            )
    if not works:
        raise typer.Exit(1)


@app.command()
def sweep() -> None:
    """Remove what dead processes have left behind, on every engine that works here."""
    removed = asyncio.run(_sweep())
    _print_line(f"Removed {removed} leftover{'' if removed == 1 else 's'}.")


app.command()(serve.serve)
app.command()(serve.api_key)


async def _sweep() -> int:
    removed = 0
    for scheme in registry.schemes():
        with contextlib.suppress(EngineUnavailable):
            async with _checked(scheme) as engine:
                removed += await engine.sweep()
    return removed


async def _control_groups(scheme: str) -> ControlGroups:
    async with _checked(scheme) as engine:
        return engine.control_groups


@contextlib.asynccontextmanager
async def _checked(scheme: str) -> AsyncGenerator[Engine, None]:
    """The engine of that name, with its options from the environment."""
    plugin = registry.plugin(scheme)
    engine = plugin.engine(sources.from_environment(plugin.options.model_fields))
    try:
        await engine.check()
        yield engine
    finally:
        await engine.close()


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{printable(source)}: {error}") from None


def _write(stream: TextIO, text: str) -> None:
    stream.write(without_controls(text) if stream.isatty() else text)
    stream.flush()


def _print_line(text: str) -> None:
    Console(stderr=True).print(without_controls(text), markup=False, highlight=False, soft_wrap=True)
