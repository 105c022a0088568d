"""The events of a pool, and of the server.

No event has code, output or file contents. Causes and statuses are enumerations, as they become labels; identifiers are
for logs and traces only, where any number of them is harmless. Times are in seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from greenroom.models import Status

_log = logging.getLogger("greenroom")


class EndCause(StrEnum):
    """Why a pool ended a sandbox, and the session that it served."""

    COOLED_DOWN = "cooled down"
    MAX_AGE = "reached its maximum age"
    SURPLUS = "surplus"
    """The sandbox was ready, and no longer needed."""
    OUTDATED = "outdated"
    """The pool has changed, and the sandbox served no session."""
    DELETED = "session deleted"
    LOST = "ended by itself"
    START_FAILED = "failed to start"
    POOL_CLOSED = "pool closed"


@dataclass(frozen=True, slots=True)
class SandboxStarted:
    """A sandbox is ready for a session."""

    duration: float
    """The time since the decision to start it."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A sandbox did not start."""

    error: Exception


@dataclass(frozen=True, slots=True)
class SessionAllocated:
    """A session got its sandbox."""

    identifier: str
    wait: float
    warm: bool
    """Whether a ready sandbox was available."""


@dataclass(frozen=True, slots=True)
class AllocationRefused:
    """A session got no sandbox in time: the pool is full."""

    identifier: str


@dataclass(frozen=True, slots=True)
class SandboxEnded:
    """A sandbox was taken out of service."""

    cause: EndCause
    identifier: str | None
    """The session that it served, if any."""
    age: float
    """The time since the decision to start it."""


@dataclass(frozen=True, slots=True)
class ExecutionEnded:
    """An execution ended in a sandbox."""

    identifier: str
    status: Status
    duration: float
    """The time in the sandbox."""


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The server has finished a request."""

    operation: str | None
    """Its method and route, such as `POST /executions`; `None` if no route matched, or it was refused before."""
    status: int | None
    """The status of the response; `None` if the client left before it began."""
    duration: float
    """The time until the response was sent."""


TelemetryEvent: TypeAlias = (
    SandboxStarted | StartFailed | SessionAllocated | AllocationRefused | SandboxEnded | ExecutionEnded | RequestEnded
)

Observer: TypeAlias = Callable[[TelemetryEvent], None]
"""Called on the event loop of the pool or of the server; it must return immediately. Its exceptions are logged."""


def guarded(observer: Observer) -> Observer:
    """Return the observer, whose exceptions are logged and go no further."""

    def observe(event: TelemetryEvent) -> None:
        try:
            observer(event)
        except Exception:  # noqa: BLE001  whatever it raises, the pool continues
            _log.exception("The observer failed on %s", type(event).__name__)

    return ignore if observer is ignore else observe


def ignore(_event: TelemetryEvent) -> None:
    """Observe nothing."""
