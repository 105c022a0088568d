"""An execution in the background."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Literal

from greenroom.backend import OnEvent
from greenroom.errors import InvalidRequest
from greenroom.models import Event, Execution, ExecutionError, Status
from greenroom.sessions.open_pool import OpenPool
from greenroom.sessions.rules import seconds
from greenroom.tools import CallLog, MadeCall
from greenroom.untrusted import brief


class ExecutionHandle:
    """An execution in the background, which continues if the handle is dropped.

    Created by `Session.submit` and `Session.resume`.
    """

    def __init__(
        self,
        pool: OpenPool,
        execution_id: str,
        execute: Callable[[OnEvent], Coroutine[Any, Any, Execution]],
        *,
        log: CallLog | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """
        Args:
            pool: the pool in which it runs.
            execution_id: its identifier.
            execute: begins or resumes it on the pool's event loop, and returns it when it has ended.
            log: its calls, if it has tools.
            on_event: called on the pool's event loop.
        """
        self.id = execution_id
        """The execution's identifier, by which `Session.resume` finds it."""
        self._pool = pool
        self._on_event = on_event
        self._log = log
        self._last: Execution | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._future = pool.submit(self._run(execute))

    @property
    def status(self) -> Literal["running"] | Status:
        """`running`, even while it waits for its turn, or how it ended.

        Raises:
            GreenroomError: it could not run, as for `result`.
        """
        return self._future.result().status if self._future.done() else "running"

    @property
    def done(self) -> bool:
        """Whether it has ended, or could not run."""
        return self._future.done()

    def add_done_callback(self, callback: Callable[[Future[Execution]], None]) -> None:
        """Call a function once it has ended, or could not run: with the future of its result, on any thread."""
        self._future.add_done_callback(callback)

    def result(self, timeout: float | None = None) -> Execution:
        """Wait until the execution ends, and return it.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds; it continues.
            GreenroomError: it could not run.
        """
        if timeout is None:
            return self._future.result()
        limit = seconds(timeout)
        if math.isnan(limit):
            raise InvalidRequest(f"The timeout must be a number of seconds, not {brief(timeout)}.")
        return self._future.result(min(max(limit, 0), threading.TIMEOUT_MAX))

    async def aresult(self) -> Execution:
        """Like `result`. Cancelling the wait does not cancel the execution."""
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def calls(self) -> list[MadeCall]:
        """Return the calls of tools so far, in the order in which the code made them.

        These are all waiting calls, and the latest 1,000 of the others, with at most 256 KiB of arguments. A resumed
        execution also has its earlier calls.

        Raises:
            GreenroomError: it cannot be resumed, as for `result`.
        """
        return self._pool.run(self._calls())

    async def acalls(self) -> list[MadeCall]:
        """Like `calls`."""
        return await self._pool.arun(self._calls())

    def cancel(self) -> None:
        """Interrupt the execution, or remove it from the queue; its status becomes `cancelled`. Idempotent."""
        self._pool.run(self._cancel())

    async def acancel(self) -> None:
        """Like `cancel`."""
        await self._pool.arun(self._cancel())

    async def _run(self, execute: Callable[[OnEvent], Coroutine[Any, Any, Execution]]) -> Execution:
        self._task = asyncio.current_task()
        began = time.monotonic()
        try:
            return await execute(self._note)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            # Not every backend returns the output of a cancelled execution.
            return self._last or Execution(
                id=self.id,
                status="cancelled",
                error=ExecutionError("CancelledError", "The execution was cancelled."),
                duration=time.monotonic() - began,
            )

    async def _calls(self) -> list[MadeCall]:
        if self._log is None:
            return []
        assert self._task is not None  # noqa: S101  it was started before
        known = asyncio.create_task(self._log.known.wait())
        try:
            await asyncio.wait([self._task, known], return_when=asyncio.FIRST_COMPLETED)
            if not known.done():
                self._task.result()
        finally:
            known.cancel()
        return list(self._log)

    def _note(self, event: Event) -> None:
        """Keep the execution, which comes last and contains everything that came before."""
        if isinstance(event, Execution):
            self._last = event
        if self._on_event is not None:
            self._on_event(event)

    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._cancelled = True
            self._task.cancel()
            await asyncio.wait([self._task])
