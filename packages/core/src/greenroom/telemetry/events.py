"""The events of a pool and of the server. No event contains code, output, file names or file contents. The one
exception is `ConsoleWritten`, which pools emit only on request. Causes, reasons and statuses are enumerations with
stable names, as they become labels; identifiers are for logs and traces only, where any number of them is harmless.
Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from greenroom.models import SessionUsage, Status

_log = logging.getLogger("greenroom")


class EndCause(StrEnum):
    """Why a pool ended a sandbox, and the session that it served."""

    COOLED_DOWN = "cooled down"
    MAX_AGE = "reached its maximum age"
    SURPLUS = "surplus"
    """The sandbox was ready but no longer needed."""
    OUTDATED = "outdated"
    """The pool was changed, and the sandbox served no session."""
    DELETED = "session deleted"
    LOST = "ended by itself"
    START_FAILED = "failed to start"
    POOL_CLOSED = "pool closed"

    @property
    def label(self) -> str:
        """Its name in metrics, logs and traces."""
        return self.name.lower()


class StartFailure(StrEnum):
    """Why a sandbox did not start."""

    ENGINE_LOST = "engine_lost"
    """The engine did not respond, or refused."""
    IMAGE_MISSING = "image_missing"
    INVALID = "invalid"
    """The engine cannot enforce a limit of the pool."""
    NOT_READY = "not_ready"
    """The sandbox was started, but ended or failed its probes before it was ready."""
    TOO_SLOW = "too_slow"
    OTHER = "other"


class AllocationRefusal(StrEnum):
    """Why a session got no sandbox."""

    POOL_FULL = "pool_full"
    MEMORY_SHORT = "memory_short"
    START_FAILED = "start_failed"
    POOL_CLOSED = "pool_closed"


class RequestRefusal(StrEnum):
    """Why the server refused a request."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    TOO_MANY = "too_many"
    """Too many requests or executions were running."""
    POOL_FULL = "pool_full"
    UNAVAILABLE = "unavailable"
    """The server is shutting down or short of memory, or an engine does not respond."""


class Work(StrEnum):
    """The kind of work of an execution."""

    CODE = "code"
    COMMAND = "command"
    """A shell command."""
    REQUEST = "request"
    """A request to a custom container."""


class Direction(StrEnum):
    """The direction of a transfer."""

    UPLOAD = "upload"
    DOWNLOAD = "download"


class Outcome(StrEnum):
    """How a transfer ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CallOutcome(StrEnum):
    """How the call of an application's tool ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    """The tool raised, or its result was not JSON or exceeded a limit."""
    REFUSED = "refused"
    """Nothing was called: the arguments were not valid, the tool is unknown, or the execution was ending."""
    TIMED_OUT = "timed_out"
    """There was no answer in time."""
    CANCELLED = "cancelled"
    """The code abandoned the call, or the execution ended."""


# Of sandboxes and sessions


@dataclass(frozen=True, slots=True)
class SandboxStarting:
    """The start of a sandbox was decided."""


@dataclass(frozen=True, slots=True)
class SandboxStarted:
    """A sandbox is ready for a session."""

    duration: float
    """The time since the decision to start it."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A sandbox did not start."""

    reason: StartFailure


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine can no longer start sandboxes; emitted for the first failure after a success."""


@dataclass(frozen=True, slots=True)
class EngineRecovered:
    """The engine can start sandboxes again."""


@dataclass(frozen=True, slots=True)
class SessionAllocated:
    """A session got its sandbox."""

    identifier: str
    wait: float
    warm: bool
    """Whether a ready sandbox was available."""


@dataclass(frozen=True, slots=True)
class AllocationRefused:
    """A session got no sandbox."""

    identifier: str
    reason: AllocationRefusal
    wait: float


@dataclass(frozen=True, slots=True)
class SandboxEnded:
    """A sandbox was taken out of service."""

    cause: EndCause
    identifier: str | None
    """The session that it served, if any."""
    age: float
    """The time since the decision to start it."""


@dataclass(frozen=True, slots=True)
class SandboxRemoved:
    """A sandbox was removed, and the session that it served has ended."""

    cause: EndCause
    identifier: str | None
    usage: SessionUsage
    """The usage of its session; for a sandbox that served none, its usage while it waited."""


# Of the work in sessions


@dataclass(frozen=True, slots=True)
class ExecutionBegan:
    """An execution has its sandbox; it may still wait for earlier executions."""

    identifier: str
    work: Work


@dataclass(frozen=True, slots=True)
class ExecutionEnded:
    """An execution ended in a sandbox."""

    identifier: str
    status: Status
    duration: float
    """The time in the sandbox."""
    work: Work = Work.CODE
    output: int = 0
    """Characters of text that it wrote."""
    error: str | None = None
    """The class of its error, from a fixed set; see `error_class`."""


@dataclass(frozen=True, slots=True)
class TransferEnded:
    """An upload to a session or a download from it has ended."""

    identifier: str
    direction: Direction
    size: int
    outcome: Outcome
    duration: float


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call of an application's tool by code in a session has ended."""

    identifier: str
    outcome: CallOutcome
    duration: float
    """The time since the application got the call."""


@dataclass(frozen=True, slots=True)
class ConsoleWritten:
    """A custom container printed a line. Only in pools that were opened with `console_log=True`."""

    identifier: str | None
    """The container's session, if it already has one."""
    stream: str
    """`stdout` or `stderr`."""
    text: str
    """Without the end of the line."""


# Of the server


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The server has finished a request."""

    operation: str | None
    """Its method and route, such as `POST /executions`; `None` if no route matched or it was refused earlier."""
    status: int | None
    """The status of the response; `None` if the client disconnected before it started."""
    duration: float
    """The time until the response was sent."""


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The server refused a request."""

    reason: RequestRefusal


@dataclass(frozen=True, slots=True)
class RecordsDropped:
    """A log could not be written: this many records are missing."""

    count: int


TelemetryEvent: TypeAlias = (
    SandboxStarting
    | SandboxStarted
    | StartFailed
    | EngineLost
    | EngineRecovered
    | SessionAllocated
    | AllocationRefused
    | SandboxEnded
    | SandboxRemoved
    | ExecutionBegan
    | ExecutionEnded
    | TransferEnded
    | CallEnded
    | ConsoleWritten
    | RequestEnded
    | RequestRefused
    | RecordsDropped
)

Observer: TypeAlias = Callable[[TelemetryEvent], None]
"""Called on the event loop of the pool or of the server; it must return immediately. Its exceptions are logged."""

ObserverOf: TypeAlias = Callable[[str | None], Observer]
"""Returns the observer of the pool of that name, or that of the server for `None`."""


def guarded(observer: Observer) -> Observer:
    """Return the observer, wrapped so that its exceptions are only logged."""

    def observe(event: TelemetryEvent) -> None:
        try:
            observer(event)
        except Exception:  # noqa: BLE001  after any error, the pool continues
            _log.exception("The observer failed on %s", type(event).__name__)

    return ignore if observer is ignore else observe


def ignore(_event: TelemetryEvent) -> None:
    """Observe nothing."""


def nobody(_pool: str | None) -> Observer:
    """Return no observer for any pool."""
    return ignore


def both(first: Observer, second: Observer) -> Observer:
    """Return an observer that passes every event to both, even if one raises."""
    if first is ignore or second is ignore:
        return second if first is ignore else first
    one, other = guarded(first), guarded(second)

    def observe(event: TelemetryEvent) -> None:
        one(event)
        other(event)

    return observe
