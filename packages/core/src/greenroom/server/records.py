"""Executions: started, and remembered for a while after their end; background ones also across a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from greenroom.azure.codecs.problems import EXECUTION_EXISTS, UNAVAILABLE, problem_of
from greenroom.azure.codecs.shared import ExecuteRequest
from greenroom.backend import OnEvent
from greenroom.errors import GreenroomError
from greenroom.models import Event, Execution, ExecutionError, Output
from greenroom.server.calls import RemoteCalls
from greenroom.server.outcomes import (
    INTERRUPTED,
    Outcome,
    decode_end,
    decode_request,
    encode_end,
    encode_request,
)
from greenroom.server.responses import RequestRefused
from greenroom.server.state.executions import ExecutionTable, StoredExecution
from greenroom.server.state.file import StateNotWritten
from greenroom.wire.values import WireError

_log = logging.getLogger("greenroom.server")

_RETENTION = 3600.0
_MAX_KEPT = 1000
_MAX_KEPT_BYTES = 64 << 20
_MAX_RUNNING = 500
_MAX_PER_SESSION = 100  # they run one after the other, and must not displace other sessions
_MAX_CANCELLED = 1000


@dataclass(eq=False, slots=True)
class Live:
    """The events of an execution, for one listener at a time: with several, each would keep a copy."""

    calls: RemoteCalls | None = None
    """Its calls, if it has the client's tools."""
    last: Execution | None = None
    """The execution at its end, even if it was cancelled, which a task cannot return."""
    _listener: OnEvent | None = None
    _on_replaced: Callable[[], None] | None = None

    def note(self, event: Event) -> None:
        if isinstance(event, Execution):
            self.last = event
        if self._listener is not None:
            self._listener(event)

    def listen(self, listener: OnEvent, on_replaced: Callable[[], None]) -> None:
        """Send further events to a listener, which replaces the previous one."""
        replaced, self._listener, self._on_replaced = self._on_replaced, listener, on_replaced
        if replaced is not None:
            replaced()

    def leave(self, listener: OnEvent) -> None:
        """Stop sending events to a listener, if it is still the current one."""
        if self._listener == listener:
            self._listener = self._on_replaced = None


@dataclass(eq=False, slots=True)
class Record:
    """One execution, from its start until it is forgotten."""

    id: str
    identifier: str
    request: ExecuteRequest
    """Without its code."""
    task: asyncio.Future[Outcome]
    kept: bool = True
    """Whether it is remembered after its end."""
    live: Live | None = None
    """Its events; without them, only the parts of the execution in Azure's contracts are kept."""
    ended: float | None = None
    size: int = 0
    stopped: str | None = None
    """Why the server cancelled it."""
    written: asyncio.Task[None] | None = None
    """The task that stores its start, if it outlives the server."""

    @property
    def key(self) -> tuple[str, str]:
        return self.identifier, self.id

    def outcome(self) -> Outcome | None:
        """Return the outcome, or `None` while it runs. Later requests see an error as a failed execution."""
        if not self.task.done():
            return None
        if self.task.cancelled():
            return self.cancelled()
        error = self.task.exception()
        if error is None:
            return self.task.result()
        if isinstance(error, GreenroomError):
            return self._failure("failed", problem_of(error).code, str(error))
        return self._failure("failed", "InternalServerError", "The server failed.")

    def cancelled(self) -> Outcome:
        """Return the outcome of a cancelled execution."""
        if self.live is not None and self.live.last is not None:
            return Outcome(replace(self.live.last, id=self.id))
        return self._failure("cancelled", "CancelledError", self.stopped or "The execution was cancelled.")

    async def durable(self) -> None:
        """Wait until the execution is stored, if it outlives the server.

        Raises:
            StateNotWritten: it could not be stored and was cancelled.
        """
        if self.written is None:
            return
        try:
            await asyncio.shield(self.written)
        except StateNotWritten:
            self.task.cancel()
            raise

    def _failure(self, status: Any, name: str, value: str) -> Outcome:
        execution = Execution(self.id, status, error=ExecutionError(name, value))
        return Outcome(execution, -1 if self.request.shell else None)


class ExecutionRecords:
    """The executions of one pool, by id.

    An ended execution is kept for an hour, unless there are too many or its session is deleted.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, table: ExecutionTable | None = None) -> None:
        """
        Args:
            clock: returns seconds.
            table: stores background executions across a restart; `None` if the state is in memory.
        """
        self._clock = clock
        self._table = table
        self._writes: set[asyncio.Task[None]] = set()
        self._records: dict[tuple[str, str], Record] = {}
        self._cancelled: dict[tuple[str, str], None] = {}
        """Executions that were cancelled before they started, the latest one last."""
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
        *,
        live: Live | None = None,
        kept: bool = True,
        outlives: bool = False,
    ) -> Record:
        """Start an execution.

        Args:
            identifier: the identifier of its session.
            request: what to execute.
            work: executes it.
            operation_id: the id that the client chose; by default a random one.
            live: receives the events; then the whole execution is kept.
            kept: whether it is remembered after its end.
            outlives: whether it is remembered after a restart of the server; await `Record.durable` before confirming
                that to the client.

        Raises:
            RequestRefused: the session has an execution with this id, so the request is a repetition; or it was
                cancelled before it arrived; or too many are running; or the server is shutting down.
        """
        if self._draining:
            raise RequestRefused(503, UNAVAILABLE, "The server is shutting down.", retry_after=5)
        record_id = operation_id or str(uuid.uuid4())
        if (identifier, record_id) in self._records:
            raise RequestRefused(
                409,
                EXECUTION_EXISTS,
                "The operation id must be new in its session, not the id of another execution.",
            )
        if (identifier, record_id) in self._cancelled:
            raise RequestRefused(409, "ExecutionCancelled", "The execution was cancelled before it started.")
        running = self.running
        of_session = sum(record.identifier == identifier for record in running)
        if len(running) >= _MAX_RUNNING or of_session >= _MAX_PER_SESSION:
            raise RequestRefused(429, "TooManyExecutions", "Too many executions are running.", retry_after=1)
        kept_request = replace(request, code="", arguments=(), stdin="")
        written = None
        if outlives and self._table is not None:
            content = encode_request(kept_request, whole=live is not None)
            written = self._in_background(self._table.begin(identifier, record_id, content))
        running = _run(record_id, work, whole=live is not None)
        if written is not None:
            running = self._to_durable_end(identifier, record_id, running)
        record = Record(record_id, identifier, kept_request, asyncio.create_task(running), kept, live, written=written)
        self._records[identifier, record_id] = record
        record.task.add_done_callback(lambda _: self._end(record))
        return record

    def find(self, identifier: str, id: str) -> Record | None:  # noqa: A002  the model's own word
        self._forget_old()
        return self._records.get((identifier, id))

    def forget(self, record: Record) -> None:
        if self._records.get(record.key) is record:
            del self._records[record.key]
            if record.written is not None and self._table is not None:
                self._in_background(self._table.forget(*record.key))

    def cancel(self, identifier: str) -> None:
        """Cancel a session's executions and forget them."""
        for record in self.of(identifier):
            record.task.cancel()
            self.forget(record)

    def of(self, identifier: str) -> list[Record]:
        """Return the records of a session, in the order of their start or end."""
        return [record for record in self._records.values() if record.identifier == identifier]

    def cancel_one(self, identifier: str, id: str) -> None:  # noqa: A002
        """Cancel an execution, now or when its request arrives."""
        record = self._records.get((identifier, id))
        if record is not None:
            record.task.cancel()
            return
        self._cancelled[identifier, id] = None
        if len(self._cancelled) > _MAX_CANCELLED:
            del self._cancelled[next(iter(self._cancelled))]

    async def drain(self, timeout: float) -> None:
        """Start no more executions, wait for running ones, and cancel them after `timeout` seconds. Executions whose
        calls wait for a client are cancelled immediately.
        """
        self._draining = True
        for record in self.running:
            if record.live is not None and record.live.calls is not None and record.live.calls.is_parked:
                record.task.cancel()
        tasks = [record.task for record in self.running]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
            late = self.running
            for record in late:
                record.stopped = "The server shut down before the execution ended."
                record.task.cancel()
            await asyncio.gather(*(record.task for record in late), return_exceptions=True)
        if self._writes:
            await asyncio.wait(self._writes)

    async def take_over(self) -> None:
        """Load the executions that the previous server left in the table.

        Raises:
            StateNotWritten: the state cannot be read or written.
        """
        if self._table is None:
            return
        for stored in await self._table.take_over(encode_end(INTERRUPTED), _RETENTION):
            try:
                record = _restored(stored, self._clock() - max(time.time() - stored.ended, 0))
            except WireError:  # from another version
                _log.warning("an execution of a previous server cannot be read")
                await self._table.forget(stored.identifier, stored.id)
            else:
                self._records[record.key] = record
        self._forget_old()

    async def clear(self) -> None:
        """Forget all executions, as the pool is deleted."""
        for record in list(self._records.values()):
            self.forget(record)
        if self._table is not None:
            await self._table.clear()

    async def _to_durable_end(self, identifier: str, id: str, running: Coroutine[Any, Any, Outcome]) -> Outcome:  # noqa: A002
        """Await an execution, and store its end before it becomes visible."""
        end: Outcome | GreenroomError | None = None
        try:
            end = await running
            return end
        except GreenroomError as error:
            end = error
            raise
        except asyncio.CancelledError:
            record = self._records.get((identifier, id))
            end = None if record is None else record.cancelled()
            raise
        finally:
            if end is not None and self._table is not None:
                await asyncio.shield(self._in_background(self._table.end(identifier, id, partial(encode_end, end))))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a write to the table; `drain` waits for it."""
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._written)
        return task

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: its request may no longer await it

    def _end(self, record: Record) -> None:
        if not record.kept:
            self.forget(record)
            return
        outcome = record.outcome()
        record.ended = self._clock()
        record.size = _size(outcome.execution) if outcome is not None else 0
        if record.live is not None and record.live.calls is not None:
            record.size += record.live.calls.size
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


def _restored(stored: StoredExecution, ended: float) -> Record:
    """Return the record of an execution from a previous server.

    Raises:
        WireError: it is from another version.
    """
    (request, whole), end = decode_request(stored.request), decode_end(stored.end)
    task = asyncio.get_running_loop().create_future()
    if isinstance(end, GreenroomError):
        task.set_exception(end)
        task.exception()  # marks it as retrieved
    else:
        task.set_result(end)
    written = asyncio.create_task(_nothing())
    record = Record(stored.id, stored.identifier, request, task, live=Live() if whole else None, written=written)
    record.ended, record.size = ended, len(stored.end)
    return record


async def _nothing() -> None:
    """Nothing to write: it is stored already."""


async def _run(id: str, work: Callable[[], Awaitable[Outcome]], *, whole: bool) -> Outcome:  # noqa: A002
    """Await the work, and drop the parts of its result that responses do not contain, unless `whole`."""
    outcome = await work()
    if whole:
        return replace(outcome, execution=replace(outcome.execution, id=id))
    pictures = (
        {mime: data for mime, data in output.data.items() if mime.startswith("image/") and isinstance(data, str)}
        for output in outcome.execution.outputs
    )
    outputs = tuple(Output(picture) for picture in pictures if picture)
    return replace(outcome, execution=replace(outcome.execution, id=id, outputs=outputs, files=(), places=()))


def _size(execution: Execution) -> int:
    """Return about how many bytes of memory an execution takes."""
    texts = [execution.stdout, execution.stderr, execution.result or ""]
    for output in (*execution.outputs, *execution.updates):
        texts += [data if isinstance(data, str) else json.dumps(data) for data in output.data.values()]
    if (error := execution.error) is not None:
        texts += [error.name, error.value, error.traceback, error.summary]
    return sum(map(len, texts)) + 200 * len(execution.files) + 1000
