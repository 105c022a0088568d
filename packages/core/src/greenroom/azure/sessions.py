"""The client's state of its sessions: the order of executions, and which sessions end with the pool."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from weakref import WeakValueDictionary

from greenroom.errors import GreenroomError

_COOLED_DOWN = 3600.0
"""Seconds after its last use by which a session has ended, whatever its pool's cool-down."""
_MAX_OWN = 10_000
_CLOSE_TIMEOUT = 10.0
_MAX_CONCURRENT_DELETIONS = 8


class Turns:
    """Runs the executions of a session one after the other, as requests can reach a service in any order."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, identifier: str) -> AsyncGenerator[None, None]:
        lock = self._locks.get(identifier)
        if lock is None:
            lock = self._locks[identifier] = asyncio.Lock()
        async with lock:
            yield


class OwnSessions:
    """Sessions with a generated identifier, which no other process knows."""

    def __init__(self) -> None:
        self._last_used: dict[str, float] = {}
        """The time of the last use, 0 if unused."""

    def add(self, identifier: str) -> None:
        """Add a session; called from any thread."""
        if len(self._last_used) >= _MAX_OWN:  # the oldest cooled down long ago
            del self._last_used[next(iter(self._last_used))]
        self._last_used[identifier] = 0.0

    def note_use(self, identifier: str) -> None:
        if identifier in self._last_used:
            self._last_used[identifier] = time.monotonic()

    def note_end(self, identifier: str) -> None:
        if identifier in self._last_used:
            self._last_used[identifier] = 0.0

    async def end(self, delete: Callable[[str], Awaitable[None]]) -> None:
        """Delete the sessions that may still exist; bounded in time."""
        since = time.monotonic() - _COOLED_DOWN
        own = list(self._last_used.items())  # a copy: other threads call `add`
        places = asyncio.Semaphore(_MAX_CONCURRENT_DELETIONS)

        async def end(identifier: str) -> None:
            async with places:
                with contextlib.suppress(GreenroomError):  # it will cool down
                    await delete(identifier)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await asyncio.gather(*(end(identifier) for identifier, last in own if last and last > since))
