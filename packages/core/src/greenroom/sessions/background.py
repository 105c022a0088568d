"""An event loop in its own thread that can be called from anywhere."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any, TypeVar

from greenroom.errors import PoolClosed

T = TypeVar("T")

_CLOSED = "This pool was closed. Open a new one with greenroom.connect()."


class BackgroundLoop:
    """Runs coroutines on one event loop, for blocking code, any thread and any other event loop.

    The loop's thread starts with the first call. It is a daemon: everything that must not outlive the process ends
    with the process anyway, whatever this thread is doing.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process is a fork of the one that created the loop."""
        return os.getpid() != self._pid

    def submit(self, coroutine: Coroutine[Any, Any, T], *, in_context: bool = False) -> Future[T]:
        """Schedule a coroutine; cancelling the future cancels it.

        Args:
            coroutine: the coroutine to run.
            in_context: whether it sees the caller's context variables. By default it sees only the caller's trace:
                anything that it leaves running on this loop, such as a sandbox, would otherwise keep all of them alive,
                including what a framework or a web server stores there for one request.

        Raises:
            PoolClosed: the loop was closed, or this is a fork of the process that created it.
        """
        context = copy_context() if in_context else _trace_only()
        try:
            return context.run(asyncio.run_coroutine_threadsafe, coroutine, self._running_loop())
        except BaseException:
            coroutine.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Block until the coroutine is done; an interrupt of this thread (Ctrl-C) cancels it.

        Raises:
            PoolClosed: as with `submit`, or the loop was closed before the coroutine was done.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        except CancelledError as error:
            if self._closed:
                raise PoolClosed(_CLOSED) from error
            raise
        except BaseException:
            future.cancel()
            raise

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for the coroutine without blocking the caller's loop; cancelling the caller cancels it.

        Raises:
            PoolClosed: as with `run`.
        """
        waiting = asyncio.wrap_future(self.submit(coroutine))
        try:
            return await waiting
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling() or not self._closed:
                raise
            raise PoolClosed(_CLOSED) from None

    def close(
        self, last: Callable[[], Coroutine[Any, Any, None]] | None = None, *, timeout: float | None = None
    ) -> None:
        """Run one last coroutine, then stop the loop and its thread. Idempotent.

        It blocks until that is done, except on the loop's own thread, where the garbage collector can call it.

        Args:
            last: the coroutine function.
            timeout: seconds to wait for a loop that others may block; its thread then ends when they stop.
        """
        with self._lock:
            loop, thread, self._loop, self._closed = self._loop, self._thread, None, True
        if loop is None or thread is None or self.is_of_parent:
            return

        async def finish() -> None:
            try:
                if last is not None:
                    await last()
            finally:
                loop.stop()

        future = asyncio.run_coroutine_threadsafe(finish(), loop)
        if threading.current_thread() is not thread:
            try:
                future.result(timeout)
            except TimeoutError:
                if timeout is None:
                    raise
            finally:
                thread.join(timeout=5 if timeout is None else timeout)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise PoolClosed(_CLOSED)
            if self.is_of_parent:
                raise PoolClosed(
                    "A pool that was used before a fork cannot be used in the child process. Call greenroom.connect() "
                    "there."
                )
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop


def _trace_only() -> Context:
    """Return a context that contains only the caller's trace."""
    context = Context()
    opentelemetry = sys.modules.get("opentelemetry.context")
    if opentelemetry is not None:
        context.run(opentelemetry.attach, opentelemetry.get_current())
    return context


class _Threads(ThreadPoolExecutor):
    """Falls back to the calling thread once the exiting interpreter starts no threads: a pool may still be open."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            future: Future[T] = Future()
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  as in a thread, it is stored in the future
                future.set_exception(error)
            return future


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    threads = _Threads(8, thread_name_prefix="greenroom-io")
    loop.set_default_executor(threads)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=4))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # a thread can be stuck in a caller's file
        loop.close()
