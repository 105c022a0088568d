"""Passes progress from the pool's event loop, where the work is done, to the caller that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from greenroom.progress import OnProgress, Progress, Report, check_callback, unread

T = TypeVar("T")

_INTERVAL = 0.1  # seconds between two calls of the caller's function
_CLEAN_UP_TIMEOUT = 10.0  # seconds for work to end after the caller's function has raised


class _Loop(Protocol):
    """An event loop in its own thread: a pool's, or that of a pool that is being opened."""

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]: ...
    def run(self, coroutine: Coroutine[Any, Any, T]) -> T: ...
    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T: ...


class Following:
    """Runs work on the pool's event loop, and calls a function of the caller with its progress meanwhile.

    The function is called where the caller waits: on its thread, or in its task. So it needs no locks, it delays
    neither the work nor other sessions, and its exceptions are the caller's own: they cancel the work. If values
    arrive faster than the function takes them, it gets only the latest of each task.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        """
        Raises:
            InvalidRequest: the function is not callable, or is asynchronous.
        """
        self._on_progress = check_callback(on_progress)
        self._lock = threading.Lock()
        self._latest: dict[str, Progress] = {}
        self._wake: Callable[[], object] | None = None
        """Called when values have arrived; `None` while nobody follows."""
        self._task: asyncio.Task[Any] | None = None

    @property
    def report(self) -> Report:
        """The function that the work calls."""
        return unread if self._on_progress is None else self._post

    def run(self, loop: _Loop, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Block until the work has ended."""
        if self._on_progress is None:
            return loop.run(work())
        arrived, ended = threading.Event(), threading.Event()
        self._wake = arrived.set

        def end(_: object) -> None:
            ended.set()
            arrived.set()

        future = loop.submit(self._carry_out(work))
        future.add_done_callback(end)
        try:
            while not ended.is_set():
                arrived.wait()
                arrived.clear()
                if not ended.is_set():
                    self._deliver(self._on_progress)
                    ended.wait(_INTERVAL)
        except BaseException as error:
            if isinstance(error, Exception):
                self._cancel()
                futures.wait([future], _CLEAN_UP_TIMEOUT)
            raise
        finally:
            self._wake = None
            future.cancel()
        result = future.result()
        self._deliver(self._on_progress)
        return result

    async def arun(self, loop: _Loop, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Like `run`, from any event loop."""
        if self._on_progress is None:
            return await loop.arun(work())
        own = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
                own.call_soon_threadsafe(arrived.set)

        self._wake = wake
        future = asyncio.wrap_future(loop.submit(self._carry_out(work)))
        future.add_done_callback(lambda _: arrived.set())
        try:
            while not future.done():
                await arrived.wait()
                arrived.clear()
                if not future.done():
                    self._deliver(self._on_progress)
                    await asyncio.wait([future], timeout=_INTERVAL)
        except Exception:
            self._cancel()
            await asyncio.wait([future], timeout=_CLEAN_UP_TIMEOUT)
            if future.done() and not future.cancelled():
                future.exception()  # asyncio would log an exception that was not retrieved
            raise
        finally:
            self._wake = None
            future.cancel()
        result = future.result()
        self._deliver(self._on_progress)
        return result

    async def _carry_out(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._task = asyncio.current_task()
        return await work()

    def _cancel(self) -> None:
        """Cancel the work. Its future ends after the work's clean-up: cancelling that would only wait for nothing."""
        task = self._task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the pool was closed in the meantime
                task.get_loop().call_soon_threadsafe(task.cancel)

    def _post(self, progress: Progress) -> None:
        with self._lock:
            is_first = not self._latest
            self._latest.pop(progress.task, None)
            self._latest[progress.task] = progress
            wake = self._wake
        if is_first and wake is not None:
            wake()

    def _deliver(self, on_progress: OnProgress) -> None:
        with self._lock:
            values, self._latest = self._latest, {}
        for progress in values.values():
            on_progress(progress)
