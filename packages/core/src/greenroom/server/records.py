"""Executions: started, and remembered for a while after their end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from greenroom.azure.codecs.problems import UNAVAILABLE, problem_of
from greenroom.azure.codecs.shared import ExecuteRequest
from greenroom.errors import GreenroomError
from greenroom.models import Execution, ExecutionError, Output
from greenroom.server.responses import RequestRefused

_RETENTION = 3600.0
_MAX_KEPT = 1000
_MAX_KEPT_BYTES = 64 << 20
_MAX_RUNNING = 500
_MAX_PER_SESSION = 100  # they run one after the other, and must not crowd out other sessions


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended."""

    execution: Execution
    exit_code: int | None = None
    """A shell command's; `None` for code."""


@dataclass(eq=False, slots=True)
class Record:
    """One execution, from its start until it is forgotten."""

    id: str
    identifier: str
    request: ExecuteRequest
    """Without its code."""
    task: asyncio.Task[Outcome]
    ended: float | None = None
    size: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.identifier, self.id

    def outcome(self) -> Outcome | None:
        """Return the outcome, or `None` while it runs. For later requests, an error is a failed execution."""
        if not self.task.done():
            return None
        if self.task.cancelled():
            return self._failure("cancelled", "CancelledError", "The execution was cancelled.")
        error = self.task.exception()
        if error is None:
            return self.task.result()
        if isinstance(error, GreenroomError):
            return self._failure("failed", problem_of(error).code, str(error))
        return self._failure("failed", "InternalServerError", "The server failed.")

    def _failure(self, status: Any, name: str, value: str) -> Outcome:
        execution = Execution(self.id, status, error=ExecutionError(name, value))
        return Outcome(execution, -1 if self.request.shell else None)


class ExecutionRecords:
    """The executions of one pool, by id.

    An ended one is kept for an hour, unless there are too many of them or its session is deleted.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[tuple[str, str], Record] = {}
        self._draining = False

    @property
    def running(self) -> list[Record]:
        return [record for record in self._records.values() if not record.task.done()]

    def begin(
        self,
        identifier: str,
        request: ExecuteRequest,
        work: Callable[[], Awaitable[Outcome]],
        operation_id: str | None = None,
    ) -> Record:
        """Start an execution.

        Args:
            identifier: its session's.
            request: what to execute.
            work: executes it.
            operation_id: the id that the client chose; by default a random one.

        Raises:
            RequestRefused: the session has an execution with this id, so the request was carried out before; or too
                many are running; or the server is shutting down.
        """
        if self._draining:
            raise RequestRefused(503, UNAVAILABLE, "The server is shutting down.", retry_after=5)
        record_id = operation_id or str(uuid.uuid4())
        if (identifier, record_id) in self._records:
            raise RequestRefused(
                409,
                "ExecutionAlreadyExists",
                "The operation id must be new in its session: an execution has it already.",
            )
        running = self.running
        of_session = sum(record.identifier == identifier for record in running)
        if len(running) >= _MAX_RUNNING or of_session >= _MAX_PER_SESSION:
            raise RequestRefused(429, "TooManyExecutions", "Too many executions are running.", retry_after=1)
        task = asyncio.create_task(_run(record_id, work))
        record = Record(record_id, identifier, replace(request, code="", arguments=(), stdin=""), task)
        self._records[identifier, record_id] = record
        record.task.add_done_callback(lambda _: self._end(record))
        return record

    def find(self, identifier: str, id: str) -> Record | None:  # noqa: A002  the model's own word
        self._forget_old()
        return self._records.get((identifier, id))

    def forget(self, record: Record) -> None:
        if self._records.get(record.key) is record:
            del self._records[record.key]

    def cancel(self, identifier: str) -> None:
        """Cancel a session's executions, and forget them."""
        for record in [record for record in self._records.values() if record.identifier == identifier]:
            record.task.cancel()
            self.forget(record)

    async def drain(self, timeout: float) -> None:
        """Start no more, wait for those that run, and cancel them after `timeout` seconds."""
        self._draining = True
        tasks = [record.task for record in self.running]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _end(self, record: Record) -> None:
        outcome = record.outcome()
        record.ended = self._clock()
        record.size = _size(outcome.execution) if outcome is not None else 0
        if self._records.get(record.key) is record:  # not forgotten in the meantime
            self._records[record.key] = self._records.pop(record.key)  # in the order in which they ended
            self._forget_old()

    def _forget_old(self) -> None:
        oldest = self._clock() - _RETENTION
        ended = [record for record in self._records.values() if record.ended is not None]
        kept_bytes = sum(record.size for record in ended)
        for number, record in enumerate(ended):
            if len(ended) - number <= _MAX_KEPT and kept_bytes <= _MAX_KEPT_BYTES and (record.ended or 0) >= oldest:
                break
            kept_bytes -= record.size
            self.forget(record)


async def _run(id: str, work: Callable[[], Awaitable[Outcome]]) -> Outcome:  # noqa: A002
    """Await the work, and drop the parts of its result that no response has."""
    outcome = await work()
    pictures = (
        {mime: data for mime, data in output.data.items() if mime.startswith("image/") and isinstance(data, str)}
        for output in outcome.execution.outputs
    )
    outputs = tuple(Output(picture) for picture in pictures if picture)
    return replace(outcome, execution=replace(outcome.execution, id=id, outputs=outputs, files=(), places=()))


def _size(execution: Execution) -> int:
    """Return about how many bytes of memory an execution takes."""
    texts = [execution.stdout, execution.stderr, execution.result or ""]
    texts += [data for output in execution.outputs for data in output.data.values()]
    if (error := execution.error) is not None:
        texts += [error.name, error.value, error.traceback, error.summary]
    return sum(map(len, texts)) + 1000
