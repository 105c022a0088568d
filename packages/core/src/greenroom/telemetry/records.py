"""Log records made from events, with the columns of Azure's tables, and the usage of each ended session. Pure. A record
contains no code, output or file names. Its text is Greenroom's own: the pool's name and the session's identifier, which
others choose, are in separate columns. The one exception is the console of custom containers, which is kept only if a
pool was opened with `console_log=True`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import NamedTuple, TypeAlias

from greenroom.models import SessionUsage, Status, UsageSource
from greenroom.telemetry.error_classes import OTHER, error_class
from greenroom.telemetry.events import (
    AllocationRefused,
    ConsoleWritten,
    Direction,
    EndCause,
    EngineLost,
    EngineRecovered,
    ExecutionEnded,
    Observer,
    Outcome,
    RecordsDropped,
    SandboxEnded,
    SandboxRemoved,
    SandboxStarted,
    SessionAllocated,
    StartFailed,
    TelemetryEvent,
    TransferEnded,
    Work,
)

_WORK = {Work.CODE: "A code execution", Work.COMMAND: "A shell command", Work.REQUEST: "A request"}
_MAX_NAME = 300
"""The maximum length of a name that others chose."""


class LogTable(StrEnum):
    """The logs, by the names of Azure's tables; Azure has none for executions."""

    LIFECYCLE = "AppEnvSessionLifecycleLogs"
    POOL_EVENTS = "AppEnvSessionPoolEventLogs"
    EXECUTIONS = "GreenroomExecutionLogs"
    CONSOLE = "AppEnvSessionConsoleLogs"


class LogLevel(StrEnum):
    """The severity of a record, in ascending order."""

    INFORMATION = "Information"
    WARNING = "Warning"
    ERROR = "Error"


class LogOperation(StrEnum):
    """The operation that a record is about."""

    SESSION_ALLOCATED = "SessionAllocated"
    SESSION_REFUSED = "SessionRefused"
    SESSION_ENDED = "SessionEnded"
    SANDBOX_STARTED = "SandboxStarted"
    SANDBOX_START_FAILED = "SandboxStartFailed"
    SANDBOX_ENDED = "SandboxEnded"
    """The end of a sandbox that served no session."""
    ENGINE_LOST = "EngineLost"
    ENGINE_RECOVERED = "EngineRecovered"
    RECORDS_DROPPED = "RecordsDropped"
    EXECUTION_ENDED = "ExecutionEnded"
    FILE_UPLOADED = "FileUploaded"
    FILE_DOWNLOADED = "FileDownloaded"
    CONSOLE_OUTPUT = "ConsoleOutput"


# Read only once, as each execution makes a record.
_LIFE, _SANDBOXES, _WORK_DONE = LogTable.LIFECYCLE, LogTable.POOL_EVENTS, LogTable.EXECUTIONS
_INFORMATION, _WARNING, _ERROR = LogLevel.INFORMATION, LogLevel.WARNING, LogLevel.ERROR
_EXECUTION_ENDED = LogOperation.EXECUTION_ENDED


class LogRecord(NamedTuple):
    """A log record. Each execution makes one, and a tuple takes a third of the time of a frozen dataclass."""

    time: float
    """Seconds since 1970."""
    table: LogTable
    pool: str
    """The pool's name in metrics and traces; empty for records of the server."""
    operation: LogOperation
    level: LogLevel
    log: str
    """A fixed sentence; for the console, a line that the container printed."""
    identifier: str | None = None
    """The session's."""
    status: str | None = None
    """The status of an execution or a transfer; for a console line, its stream."""
    reason: str | None = None
    """The cause of an end, the reason for a refusal or a failure, or the class of an error, from a fixed set."""
    duration: float | None = None
    """Seconds of a wait, a start, a life, an execution or a transfer."""
    output: int | None = None
    """Characters of text that an execution wrote."""
    size: int | None = None
    """Bytes of a file."""


@dataclass(frozen=True, slots=True)
class EndedSession:
    """The usage of a session or, without an identifier, of a sandbox that served none."""

    pool: str
    identifier: str | None
    cause: EndCause
    began: float
    """Seconds since 1970: when it got its sandbox; of a sandbox that served no session, when that was removed."""
    ended: float
    removed: float
    """When its sandbox was removed."""
    usage: SessionUsage


Item: TypeAlias = LogRecord | EndedSession


def recorder(put: Callable[[Item], None], pool: str, clock: Callable[[], float] = time.time) -> Observer:
    """Return a consumer of a pool's events that passes on log records and usage.

    Args:
        put: called with each item; it must return immediately.
        pool: the pool's name.
        clock: returns seconds since 1970.
    """
    name = clean(pool)
    ended: dict[str, float] = {}
    """The ends of sessions whose sandbox is being removed."""

    def observe(event: TelemetryEvent) -> None:
        now = clock()
        if isinstance(event, SandboxEnded) and event.identifier is not None:
            ended[event.identifier] = now
        if isinstance(event, SandboxRemoved):
            if event.identifier is not None:
                until = ended.pop(event.identifier, now)
                began = until - event.usage.wall
                put(EndedSession(name, clean(event.identifier), event.cause, began, until, now, event.usage))
            elif event.usage.source is not UsageSource.NONE:
                put(EndedSession(name, None, event.cause, now, now, now, event.usage))
        elif (record := record_of(event, name, now)) is not None:
            put(record)

    return observe


def record_of(event: TelemetryEvent, pool: str, now: float) -> LogRecord | None:
    """Return the record for an event; `None` if it has none."""
    match event:
        case ExecutionEnded(identifier, status, duration, kind, output, failure):
            # Errors of the code are normal in sessions; Greenroom's own errors are not.
            of_code = failure is None or failure == OTHER or error_class(failure) != OTHER
            return LogRecord(
                now, _WORK_DONE, pool, _EXECUTION_ENDED, _INFORMATION if of_code else _WARNING, _end_of(kind, status),
                clean(identifier), status, failure, duration, output,
            )  # fmt: skip
        case TransferEnded(identifier, direction, size, outcome, duration):
            up = direction is Direction.UPLOAD
            operation = LogOperation.FILE_UPLOADED if up else LogOperation.FILE_DOWNLOADED
            level = _INFORMATION if outcome is Outcome.SUCCEEDED else _WARNING
            text = f"{'An upload' if up else 'A download'} has ended: {outcome.value}."
            return LogRecord(
                now, _WORK_DONE, pool, operation, level, text,
                clean(identifier), outcome.value, duration=duration, size=size,
            )  # fmt: skip
        case SessionAllocated(identifier, wait, warm):
            text = "The session got a ready sandbox." if warm else "The session got a sandbox that it waited for."
            return LogRecord(
                now, _LIFE, pool, LogOperation.SESSION_ALLOCATED, _INFORMATION, text, clean(identifier), duration=wait
            )
        case AllocationRefused(identifier, reason, wait):
            text = f"The session got no sandbox: {reason.value.replace('_', ' ')}."
            return LogRecord(
                now, _LIFE, pool, LogOperation.SESSION_REFUSED, _WARNING, text,
                clean(identifier), reason=reason.value, duration=wait,
            )  # fmt: skip
        case SandboxEnded(cause, str(identifier), age):
            level = _WARNING if cause is EndCause.LOST else _INFORMATION
            return LogRecord(
                now, _LIFE, pool, LogOperation.SESSION_ENDED, level, f"The session has ended: {cause.value}.",
                clean(identifier), reason=cause.label, duration=age,
            )  # fmt: skip
        case SandboxEnded(cause, None, age):
            text = f"A sandbox without a session has ended: {cause.value}."
            level = _WARNING if cause is EndCause.LOST else _INFORMATION
            return LogRecord(
                now, _SANDBOXES, pool, LogOperation.SANDBOX_ENDED, level, text, reason=cause.label, duration=age
            )
        case ConsoleWritten(identifier, stream, text):
            session = None if identifier is None else clean(identifier)
            return LogRecord(
                now, LogTable.CONSOLE, pool, LogOperation.CONSOLE_OUTPUT, _INFORMATION,
                text.encode("utf-8", "backslashreplace").decode(), session, stream,
            )  # fmt: skip
        case SandboxStarted(duration):
            return LogRecord(
                now, _SANDBOXES, pool, LogOperation.SANDBOX_STARTED, _INFORMATION, "A sandbox is ready.",
                duration=duration,
            )  # fmt: skip
        case StartFailed(reason):
            text = f"A sandbox did not start: {reason.value.replace('_', ' ')}."
            return LogRecord(
                now, _SANDBOXES, pool, LogOperation.SANDBOX_START_FAILED, _ERROR, text, reason=reason.value
            )
        case EngineLost():
            return LogRecord(now, _SANDBOXES, pool, LogOperation.ENGINE_LOST, _ERROR, "The engine does not respond.")
        case EngineRecovered():
            return LogRecord(
                now, _SANDBOXES, pool, LogOperation.ENGINE_RECOVERED, _INFORMATION, "The engine responds again."
            )
        case RecordsDropped(count):
            text = f"{count} records could not be written and are missing."
            return LogRecord(now, _SANDBOXES, pool, LogOperation.RECORDS_DROPPED, _WARNING, text)
        case _:
            return None


@cache
def _end_of(work: Work, status: Status) -> str:
    return f"{_WORK[work]} has ended: {status.replace('_', ' ')}."


def clean(name: str) -> str:
    """Return a name as text that can be stored anywhere: truncated and valid in UTF-8."""
    name = name[:_MAX_NAME]
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
