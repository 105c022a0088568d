"""Operations on one container: set its limits, find out why it ended, remove it."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from greenroom.engines import owner
from greenroom.engines.docker.client import FAILURES, Daemon, status_of
from greenroom.errors import InvalidRequest

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

_KILL_TIMEOUT = 10.0
_EVENTS_TIMEOUT = 1.0
_UPDATE_TIMEOUT = 10.0
_LIST_TIMEOUT = 5.0
_KILLED = "137"  # 128 + SIGKILL

# A container's share of busy processors: while it starts with no caller waiting for it, and afterwards.
STARTING_SHARES, FULL_SHARES = 64, 1024

_log = logging.getLogger(__name__)


async def limit_memory(daemon: Daemon, name: str, memory: int) -> None:
    """Set a new memory limit in bytes.

    Raises:
        EngineUnavailable: Docker does not respond.
        InvalidRequest: it refuses.
    """
    try:
        await _update(daemon, name, {"Memory": memory, "MemorySwap": memory})
    except FAILURES as error:
        if status_of(error) is None:
            raise daemon.unavailable(error, "limit the memory of a sandbox") from error
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise InvalidRequest(f"The session's memory limit cannot be set to {memory} bytes: {reason}") from error


async def give_full_share(daemon: Daemon, name: str) -> bool:
    """Give a container the full share of busy processors; return whether that succeeded."""
    try:
        await _update(daemon, name, {"CpuShares": FULL_SHARES})
    except FAILURES as error:
        _log.debug("The CPU share of the container %s could not be changed: %s", name, error)
        return False
    return True


async def cause_of_end(daemon: Daemon, name: str) -> tuple[str, str]:
    """Return what Docker's events report about a container's end; they outlast the container.

    Returns:
        `"oom"`, `"killed"`, `"exit"` or nothing; and the exit code, if any.
    """
    code = ""
    parameters = {"since": "1", "filters": json.dumps({"container": [name], "event": ["oom", "die"]})}
    with contextlib.suppress(*FAILURES):
        async with (
            asyncio.timeout(_EVENTS_TIMEOUT),
            await daemon.request("GET", "events", params=parameters) as response,
        ):
            async for line in response.content:
                event = json.loads(line)
                if event["Action"] == "oom":
                    return "oom", ""
                code = event["Actor"]["Attributes"].get("exitCode", "")
                if event["Action"] == "die":
                    break
    return ("killed" if code == _KILLED else "exit" if code else ""), code


async def _update(daemon: Daemon, name: str, settings: Mapping[str, int]) -> None:
    async with asyncio.timeout(_UPDATE_TIMEOUT):
        response = await daemon.request("POST", f"containers/{name}/update", json=settings)
        response.release()


async def pause(daemon: Daemon, name: str) -> bool:
    """Suspend a container's processes; return whether they are suspended, or may be: then `unpause` is needed."""
    try:
        await _order(daemon, name, "pause")
    except FAILURES as error:
        _log.debug("The container %s could not be paused: %s", name, error)
        if status_of(error) is not None:
            return "already paused" in str(error)
        try:
            await _order(daemon, name, "unpause")  # it can be paused later
        except FAILURES as unknown:
            return status_of(unknown) is None
        return False
    return True


async def unpause(daemon: Daemon, name: str) -> None:
    """Resume a container's processes, if they are paused.

    Raises:
        EngineUnavailable: Docker does not respond.
    """
    try:
        await _order(daemon, name, "unpause")
    except FAILURES as error:
        if status_of(error) != 404 and "is not paused" not in str(error):
            raise daemon.unavailable(error, "resume a sandbox") from error
        _log.debug("The container %s could not be unpaused: %s", name, error)


async def _order(daemon: Daemon, name: str, order: str) -> None:
    async with asyncio.timeout(_UPDATE_TIMEOUT):
        response = await daemon.request("POST", f"containers/{name}/{order}")
        response.release()


async def remove_all(daemon: Daemon, of: Callable[[Mapping[str, str]], bool]) -> int:
    """Remove the containers of the owners with these labels on this machine; return their number.

    Raises:
        any of `client.FAILURES`.
    """
    async with asyncio.timeout(_LIST_TIMEOUT):
        found = await daemon.client.containers.list(
            all=True, filters=json.dumps({"label": [f"{owner.MACHINE}={owner.machine()}"]})
        )
    theirs = [container for container in found if of(container["Labels"])]
    await asyncio.gather(*(remove(container, container.id) for container in theirs))
    return len(theirs)


def end_all_of(labels: Mapping[str, str], docker_host: str | None) -> int:
    """Remove the containers of a dead owner; return their number.

    Args:
        labels: the owner's labels.
        docker_host: the owner's Docker engine.
    """

    async def end() -> int:
        daemon = Daemon(docker_host)
        try:
            return await remove_all(daemon, lambda found: labels.items() <= found.items())
        finally:
            await daemon.close()

    return asyncio.run(end())


async def undo(create: asyncio.Future[Any], container: DockerContainer, name: str) -> None:
    """Remove whatever a failed start has left, whichever step it reached."""
    # Docker may still be creating the container: until it has, there is nothing to remove.
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
                await container.wait(condition="removed")  # AutoRemove came first, and has not finished
    except FAILURES as error:
        if status_of(error) != 404:
            _log.warning("The container %s could not be removed: %s", name, error or "Docker did not respond in time")
