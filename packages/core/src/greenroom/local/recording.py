"""Records the work in a pool's sessions: as events, as spans and in their meters."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator
from typing import Self

from greenroom.errors import GreenroomError
from greenroom.local.metering import Entry, Metering
from greenroom.models import Execution, Status
from greenroom.telemetry import (
    CallEnded,
    CallOutcome,
    Direction,
    ExecutionBegan,
    ExecutionEnded,
    Observer,
    Outcome,
    TransferEnded,
    Work,
    ignore,
    tracing,
)
from greenroom.telemetry.error_classes import error_class

_SPANS = {
    Work.CODE: tracing.EXECUTE_CODE,
    Work.COMMAND: tracing.EXECUTE_COMMAND,
    Work.REQUEST: tracing.REQUEST_CONTAINER,
    Direction.UPLOAD: tracing.UPLOAD_FILE,
    Direction.DOWNLOAD: tracing.DOWNLOAD_FILE,
}


class Recorder:
    """Records for one pool.

    Args:
        observer: receives the events.
        metering: counts the work.
        name: the pool's name in spans.
        content: whether spans include the code and its output.
    """

    def __init__(self, observer: Observer, metering: Metering, name: str, *, content: bool) -> None:
        self._observer = observer
        self._metering = metering
        self._name = name
        self._content = content

    def executing(self, identifier: str, work: Work, content: str = "") -> RecordedExecution:
        """Record an execution: a context manager. `content` is the code, for a span that may include it."""
        span = tracing.start(_SPANS[work], tracing.session_attributes(identifier, self._name))
        if self._content and span:
            span.set_content("greenroom.execution.code", content)
        return RecordedExecution(self._observer, self._metering, identifier, work, span, content=self._content)

    def called(self, identifier: str, outcome: CallOutcome, duration: float) -> None:
        """Record the call of a tool that has ended."""
        if self._observer is not ignore:
            self._observer(CallEnded(identifier, outcome, duration))

    @contextlib.contextmanager
    def transferring(self, identifier: str, direction: Direction) -> Generator[RecordedTransfer, None, None]:
        """Record a transfer."""
        span = tracing.start(_SPANS[direction], tracing.session_attributes(identifier, self._name))
        recorded = RecordedTransfer(span)
        began, outcome = time.monotonic(), Outcome.SUCCEEDED
        try:
            yield recorded
        except BaseException as error:
            outcome = Outcome.FAILED if isinstance(error, Exception) else Outcome.CANCELLED
            span.fail_by(error)
            raise
        finally:
            self._metering.transfer(identifier, direction, recorded.size)
            span.set({"greenroom.transfer.size": recorded.size})
            span.end()
            if self._observer is not ignore:
                duration = time.monotonic() - began
                self._observer(TransferEnded(identifier, direction, recorded.size, outcome, duration))


class RecordedExecution:
    """An execution that is being recorded, until the context ends."""

    __slots__ = ("_content", "_identifier", "_metering", "_observer", "_work", "entry", "since", "span")

    def __init__(
        self, observer: Observer, metering: Metering, identifier: str, work: Work, span: tracing.Span, *, content: bool
    ) -> None:
        self._observer = observer
        self._metering = metering
        self._identifier = identifier
        self._work = work
        self._content = content
        self.span = span
        self.since: float | None = None
        """When it got its sandbox."""
        self.entry: Entry | None = None
        """Its sandbox's entry in the metering."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if error is not None:
                self.failed(error)
        finally:
            if self.entry is not None:
                self._metering.complete(self.entry)
            self.span.end()

    def began(self) -> None:
        """Record that it has its sandbox; for a request, possibly another one than before."""
        if self.entry is not None:
            self._metering.leave(self.entry)
        self.entry = self._metering.begin(self._identifier)
        self.since = time.monotonic()
        if self._observer is not ignore:
            self._observer(ExecutionBegan(self._identifier, self._work))

    def ended(self, execution: Execution) -> Execution:
        """Record its end, and return it."""
        tracing.describe_execution(self.span, execution, content=self._content)
        if self._observer is not ignore:
            error = None if execution.error is None else error_class(execution.error.name)
            output = len(execution.stdout) + len(execution.stderr)
            self._emit(execution.status, execution.duration, output, error)
        return execution

    def answered(self) -> None:
        """Record the end of a container's response."""
        if self._observer is not ignore and self.since is not None:
            self._emit("succeeded", time.monotonic() - self.since)

    def failed(self, error: BaseException) -> None:
        """Record that it ended with an exception."""
        self.span.fail_by(error)
        if self.since is None or self._observer is ignore:
            return
        duration = time.monotonic() - self.since
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._emit("cancelled", duration, error="CancelledError")
        elif isinstance(error, GreenroomError):
            self._emit("failed", duration, error=type(error).__name__)

    def _emit(self, status: Status, duration: float, output: int = 0, error: str | None = None) -> None:
        self._observer(ExecutionEnded(self._identifier, status, duration, self._work, output, error))


class RecordedTransfer:
    """A transfer that is being recorded."""

    __slots__ = ("size", "span")

    def __init__(self, span: tracing.Span) -> None:
        self.span = span
        self.size = 0
        """The number of bytes so far."""
