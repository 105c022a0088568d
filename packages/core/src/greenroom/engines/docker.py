"""Sandboxes by Docker: one container each, with its frames over the attached standard input and output.

A container has no network, no capability, no way to gain one, a read-only root, an unprivileged user and Docker's
own filter on system calls. All that it can write is in memory and within its limits. It ends when its input does,
which Docker closes when the attached connection goes, whatever became of its owner, and Docker then removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import Any

from greenroom.engines import image, owner
from greenroom.engines.base import RUNNER_ENVIRONMENT, Engine, Limits, Sandbox, runner_command
from greenroom.engines.daemon import FAILURES, Daemon, aiodocker
from greenroom.errors import EngineUnavailable, ImageMissing, InvalidRequest

_CHECK_PATIENCE = 5.0
_START_PATIENCE = 60.0
_KILL_PATIENCE = 10.0
_EVENTS_PATIENCE = 1.0
_STDERR = 2
_STDERR_KEPT = 8192

_log = logging.getLogger(__name__)


class DockerSandbox(Sandbox):
    """A running container, attached."""

    def __init__(self, container: aiodocker.containers.DockerContainer, stream: aiodocker.stream.Stream) -> None:
        self.id = container.id
        self._container = container
        self._stream = stream
        self._sending = asyncio.Lock()
        self._ended = False
        self._errors = bytearray()
        self._end: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        # A cancelled wait inside aiohttp would cancel the wait of whoever sends next.
        await asyncio.shield(asyncio.ensure_future(self._send(data)))

    async def receive(self) -> bytes:
        while not self._ended:
            try:
                message = await self._stream.read_out()
            except FAILURES:
                message = None
            if message is None:
                self._ended = True
            elif message.stream == _STDERR:
                self._errors += message.data
                del self._errors[:-_STDERR_KEPT]
            elif message.data:
                return message.data
        return b""

    async def kill(self) -> None:
        if self._end is None:
            self._end = asyncio.create_task(self._kill())
        await asyncio.shield(self._end)

    async def diagnosis(self) -> str:
        text = self._errors.decode("utf-8", "replace").strip()
        if self._end is not None and not self._ended:
            return text  # it ended because it was told to
        events = await self._last_events()
        if any(event["Action"] == "oom" for event in events):
            return "out of memory"
        code = next((event["Actor"]["Attributes"].get("exitCode") for event in events if event["Action"] == "die"), None)
        return text or (f"it ended with exit code {code}" if code is not None else "")

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            if self._ended or self._end is not None:
                raise ConnectionResetError(f"The sandbox {self.id} has ended.")
            try:
                await self._stream.write_in(data)
            except (AssertionError, RuntimeError) as error:  # how aiodocker finds that the connection has gone
                raise ConnectionResetError(f"The sandbox {self.id} has ended.") from error

    async def _kill(self) -> None:
        await _remove(self._container)
        await self._stream.close()

    async def _last_events(self) -> list[dict[str, Any]]:
        """What Docker remembers of the container's end: the container itself is removed by then."""
        filters = {"container": [self.id], "event": ["oom", "die"]}
        events: list[dict[str, Any]] = []
        ...
        return events
