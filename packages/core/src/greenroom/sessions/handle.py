"""An execution in the background."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from typing import Any, Literal

from greenroom.backend import NO_VARIABLES, OnEvent
from greenroom.config.environment import Environment
from greenroom.errors import InvalidRequest
from greenroom.models import Event, Execution, ExecutionError, Status
from greenroom.sessions.open_pool import OpenPool
from greenroom.sessions.rules import seconds
from greenroom.tools import Toolbox
from greenroom.untrusted import brief


class ExecutionHandle:
    """An execution in the background. Made by `Session.submit`; it continues when the handle is dropped."""

    def __init__(
        self,
        pool: OpenPool,
        identifier: str,
        code: str,
        timeout: float | None,
        env: Environment = NO_VARIABLES,
        *,
        tools: Toolbox | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """
        Args:
            pool, identifier, code, env: what to execute, and where.
            timeout: in seconds; `None` stands for the pool's own limit, infinity for no limit.
            on_event: called on the pool's event loop.
        """
        self.id = uuid.uuid4().hex
        """The execution's identifier."""
        self._pool = pool
        self._on_event = on_event
        self._last: Execution | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._future = pool.submit(self._run(identifier, code, timeout, env, tools))

    @property
    def status(self) -> Literal["running"] | Status:
        """`running`, also while it waits for its turn, or how it ended.

        Raises:
            GreenroomError: it could not run, as `result` does.
        """
        return self._future.result().status if self._future.done() else "running"

    @property
    def done(self) -> bool:
        """Whether it has ended, or could not run."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Execution:
        """Wait for the end of the execution, and return it.

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
        """As `result`. Cancelling the wait does not cancel the execution."""
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def cancel(self) -> None:
        """Interrupt the execution, or remove it from the queue; its status becomes `cancelled`. Idempotent."""
        self._pool.run(self._cancel())

    async def acancel(self) -> None:
        """As `cancel`."""
        await self._pool.arun(self._cancel())

    async def _run(
        self, identifier: str, code: str, timeout: float | None, env: Environment, tools: Toolbox | None
    ) -> Execution:
        self._task = asyncio.current_task()
        began = time.monotonic()
        try:
            return await self._pool.backend.execute(
                identifier, code, timeout=timeout, on_event=self._note, env=env, tools=tools
            )
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

    def _note(self, event: Event) -> None:
        """Keep the execution, which comes last and has everything that came before."""
        if isinstance(event, Execution):
            self._last = event
        if self._on_event is not None:
            self._on_event(event)

    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._cancelled = True
            self._task.cancel()
            await asyncio.wait([self._task])
