"""A backend together with its event loop."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from greenroom.backend import Backend
from greenroom.models import ContainerType
from greenroom.sessions.background import BackgroundLoop
from greenroom.sessions.following import Following

T = TypeVar("T")

_TOOLS_TIMEOUT = 1.0  # seconds for the thread of asynchronous tools to end, which they may block


class OpenPool:
    """The backend and event loop that a `SessionPool`, its sessions and its handles share.

    It closes itself when the last of them is dropped, and when the interpreter exits. In a fork of the process, a pool
    that was not used before the fork opens again on its first use, which blocks meanwhile: servers open pools in a
    parent process and use them in its children.
    """

    def __init__(self, opening: _Opening) -> None:
        self._lock = threading.Lock()
        self._used = False
        self._adopt(opening)

    @classmethod
    def open(cls, make_backend: Callable[[], Coroutine[Any, Any, Backend]], following: Following | None = None) -> Self:
        """Create a backend on a new event loop, which every later call uses, too; block until it is ready.

        `following` receives the progress that `make_backend` reports.
        """
        opening = _Opening(make_backend)
        opening.open(following or Following(None))
        return cls(opening)

    @classmethod
    async def aopen(
        cls, make_backend: Callable[[], Coroutine[Any, Any, Backend]], following: Following | None = None
    ) -> Self:
        """Like `open`, without blocking the caller's event loop."""
        opening = _Opening(make_backend)
        await opening.aopen(following or Following(None))
        return cls(opening)

    def __repr__(self) -> str:
        return repr(self._backend)

    @property
    def container_type(self) -> ContainerType:
        """The backend's container type. Reading it is not a use of the pool, which can still open again in a fork."""
        return self._backend.container_type

    @property
    def backend(self) -> Backend:
        """The backend of this process."""
        self._prepare()
        return self._backend

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Schedule a coroutine on the pool's loop; cancelling the future cancels it."""
        return self._loop_for(coroutine).submit(coroutine)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Block until the coroutine has ended."""
        return self._loop_for(coroutine).run(coroutine)

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for the coroutine from any event loop."""
        return await self._loop_for(coroutine).arun(coroutine)

    def close(self) -> None:
        """Close the backend, then stop the loop. Idempotent; bounded in time."""
        self._finalizer()

    def _adopt(self, opening: _Opening) -> None:
        self._make_backend = opening.make_backend
        self._backend, self._loop = opening.backend, opening.loop
        self.tool_loop = BackgroundLoop("greenroom tools")
        """The loop for asynchronous tools of blocking callers; its thread starts when the first tool is called."""
        self._finalizer = weakref.finalize(self, _close, self._backend, self._loop, self.tool_loop)

    def _loop_for(self, coroutine: Coroutine[Any, Any, Any]) -> BackgroundLoop:
        try:
            self._prepare()
        except BaseException:
            coroutine.close()
            raise
        return self._loop

    def _prepare(self) -> None:
        """Open the pool again if this is a fork's first use of a pool that was never used."""
        if self._used:
            return
        with self._lock:
            if not self._used and self._finalizer.alive and self._loop.is_of_parent:
                opening = _Opening(self._make_backend)
                opening.open(Following(None))
                # The earlier finalizer remains: it holds what belongs to the parent, and closes nothing of it here.
                self._adopt(opening)
            self._used = True


class _Opening:
    """A backend that is being created, and can become ready just as its caller is cancelled."""

    backend: Backend

    def __init__(self, make_backend: Callable[[], Coroutine[Any, Any, Backend]]) -> None:
        self.loop = BackgroundLoop("greenroom pool")
        self.make_backend = make_backend

    def open(self, following: Following) -> None:
        try:
            following.run(self.loop, self._make)
        except BaseException:
            self._abandon()
            raise

    async def aopen(self, following: Following) -> None:
        try:
            await following.arun(self.loop, self._make)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._abandon))
            raise

    async def _make(self) -> None:
        self.backend = await self.make_backend()

    def _abandon(self) -> None:
        self.loop.close(self._close)

    async def _close(self) -> None:
        if hasattr(self, "backend"):
            await self.backend.close()


def _close(backend: Backend, loop: BackgroundLoop, tool_loop: BackgroundLoop) -> None:
    try:
        loop.close(backend.close)
    finally:
        tool_loop.close(timeout=_TOOLS_TIMEOUT)
