"""A backend together with the event loop that it lives on."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from greenroom.backend import Backend
from greenroom.sessions.background import BackgroundLoop

T = TypeVar("T")


class OpenPool:
    """The backend and event loop that a `SessionPool`, its sessions and its handles share.

    It closes itself when the last of them is dropped, and when the interpreter exits.
    """

    def __init__(self, backend: Backend, loop: BackgroundLoop) -> None:
        self.backend = backend
        self._loop = loop
        self._finalizer = weakref.finalize(self, _close, backend, loop)

    @classmethod
    def open(cls, make_backend: Callable[[], Coroutine[Any, Any, Backend]]) -> Self:
        """Make a backend on a new event loop, which every later call uses too; block until it is made."""
        opening = _Opening(make_backend)
        try:
            return cls(opening.loop.run(opening.make()), opening.loop)
        except BaseException:
            opening.abandon()
            raise

    @classmethod
    async def aopen(cls, make_backend: Callable[[], Coroutine[Any, Any, Backend]]) -> Self:
        """As `open`, without blocking the caller's event loop."""
        opening = _Opening(make_backend)
        try:
            return cls(await opening.loop.arun(opening.make()), opening.loop)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(opening.abandon))
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Schedule a coroutine on the pool's loop; cancelling the future cancels it."""
        return self._loop.submit(coroutine)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Block until the coroutine has ended."""
        return self._loop.run(coroutine)

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for the coroutine from any event loop."""
        return await self._loop.arun(coroutine)

    def close(self) -> None:
        """Close the backend, then stop the loop. Idempotent; bounded in time."""
        self._finalizer()


class _Opening:
    """A backend that is being made, and can become ready just as its caller gives up."""

    def __init__(self, make_backend: Callable[[], Coroutine[Any, Any, Backend]]) -> None:
        self.loop = BackgroundLoop("greenroom pool")
        self._make_backend = make_backend
        self._backend: Backend | None = None

    async def make(self) -> Backend:
        self._backend = await self._make_backend()
        return self._backend

    def abandon(self) -> None:
        self.loop.close(self._close)

    async def _close(self) -> None:
        if self._backend is not None:
            await self._backend.close()


def _close(backend: Backend, loop: BackgroundLoop) -> None:
    loop.close(backend.close)
