"""`greenroom mcp`: serves a pool's tools over standard streams to the client that starts this command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from greenroom.connecting import open_backend
from greenroom.errors import InvalidRequest
from greenroom.mcp.endpoint import Endpoint
from greenroom.mcp.stdio import Stdio
from greenroom.mcp.tools import tools_of


def mcp(
    *,
    pool: Annotated[
        str | None, typer.Option(help='Where code runs, such as "docker:".', envvar="GREENROOM_POOL", metavar="URL")
    ] = None,
    config: Annotated[Path | None, typer.Option(help=r"A TOML file with a table \[pool].")] = None,
) -> None:
    """Offer sandboxes to an MCP client, such as a desktop application or a coding agent, which starts this command.

    Messages go over standard input and output. All sessions end with the process.
    """
    asyncio.run(_serve(pool, config))


async def _serve(pool: str | None, config: Path | None) -> None:
    backend = await open_backend(pool, config=config)
    try:
        tools_of(backend.container_type, lists_sessions=True, azures=False)  # raises before any message
        if sys.stdin is None or sys.stdout is None:
            raise InvalidRequest("The standard streams of greenroom mcp must be open, not closed.")
        reads_from, writes_to = _private_streams()
        serving = asyncio.create_task(Stdio(Endpoint(backend), reads_from, writes_to).serve())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # not Unix
                loop.add_signal_handler(number, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    finally:
        await backend.close()


def _private_streams() -> tuple[int, int]:
    """Return descriptors of the standard streams that neither other parts of this process nor children share.

    Accidental prints go to standard error and cannot corrupt the messages.
    """
    reads_from, writes_to = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return reads_from, writes_to
