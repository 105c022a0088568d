"""The commands, their output and their exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from greenroom.cli import doctor, image, logs, mcp, pool, run, serve, session, top, usage
from greenroom.cli.doctor import checked_engine
from greenroom.cli.output import code_of_error, print_error, print_line
from greenroom.cli.place import ListCommand
from greenroom.engines import registry
from greenroom.errors import EngineUnavailable, GreenroomError

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.command(context_settings={"allow_interspersed_args": False})(run.run)
app.command()(doctor.doctor)
app.add_typer(image.app, name="image")
app.add_typer(pool.app, name="pool")
app.add_typer(session.app, name="session")


def main() -> None:
    """Run the command line; errors become one line on standard error and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding may lack characters that code prints
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except GreenroomError as error:
        print_error(error)
        sys.exit(code_of_error(error))


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
def sweep() -> None:
    """Remove what dead processes have left behind, on every engine that works on this machine."""
    removed = asyncio.run(_sweep())
    print_line(f"Removed {removed} leftover{'' if removed == 1 else 's'}.")


app.command(cls=ListCommand)(logs.logs)
app.command()(top.top)
app.command()(usage.usage)
app.command()(serve.serve)
app.command()(mcp.mcp)
app.command()(serve.api_key)


async def _sweep() -> int:
    removed = 0
    for scheme in registry.schemes():
        with contextlib.suppress(EngineUnavailable):
            async with checked_engine(scheme) as engine:
                removed += await engine.sweep()
    return removed
