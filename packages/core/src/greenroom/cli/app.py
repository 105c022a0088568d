"""The commands, their output and their exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shlex
import sys
from collections.abc import AsyncGenerator
from importlib.metadata import version
from typing import Annotated

import typer

from greenroom.cli import image, run, serve
from greenroom.cli.output import code_of_error, print_error, print_line
from greenroom.config import sources
from greenroom.connecting import session as one_session
from greenroom.engines import registry
from greenroom.engines.base import ControlGroups, Engine
from greenroom.errors import EngineUnavailable, GreenroomError

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.command(context_settings={"allow_interspersed_args": False})(run.run)
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


def main() -> None:
    """Run the command line; an error is one line on standard error, and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding can lack characters that code prints
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
            print_line(f"✗ {scheme}: {error}")
            continue
        works = True
        groups = asyncio.run(_control_groups(scheme))
        print_line(f"✓ {scheme}: works, with Python {version}, limited by control groups: {groups}")
        if note := _GROUP_NOTES.get(groups):
            print_line(f"  {note}")
        if slow and scheme == "bubblewrap":
            print_line(
                "  Its packages have no bytecode: each sandbox compiles them anew and starts slowly. Fix that with: "
                f"{shlex.join([python, '-m', 'compileall', '-q', packages])} (uv does so with --compile-bytecode)"
            )
    if not works:
        raise typer.Exit(1)


@app.command()
def sweep() -> None:
    """Remove what dead processes have left behind, on every engine that works here."""
    removed = asyncio.run(_sweep())
    print_line(f"Removed {removed} leftover{'' if removed == 1 else 's'}.")


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
