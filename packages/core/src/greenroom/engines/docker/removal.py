"""The end of containers, and of those that were about to be made."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from greenroom.engines.docker.client import FAILURES, status_of

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

_KILL_TIMEOUT = 10.0

_log = logging.getLogger(__name__)


async def undo(create: asyncio.Future[Any], container: DockerContainer, name: str) -> None:
    """Remove what a failed start has left, whichever step it reached."""
    # Docker may be about to make the container: until then, there is nothing to remove.
    await asyncio.wait([create], timeout=_KILL_TIMEOUT)
    create.cancel()
    with contextlib.suppress(asyncio.CancelledError, *FAILURES):
        await create
    await remove(container, name)


async def remove(container: DockerContainer, name: str) -> None:
    """End a container and wait until it is gone, within a time limit."""
    try:
        async with asyncio.timeout(_KILL_TIMEOUT):
            try:
                await container.delete(force=True, v=True)
            except FAILURES as error:
                if status_of(error) != 409:
                    raise
                await container.wait(condition="removed")  # AutoRemove was first, and has not finished
    except FAILURES as error:
        if status_of(error) != 404:
            _log.warning("The container %s could not be removed: %s", name, error or "Docker did not answer in time")
