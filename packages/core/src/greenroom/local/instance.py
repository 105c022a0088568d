"""What an allocator leases, and why one did not start or has ended."""

from __future__ import annotations

from typing import Protocol, TypeVar

from greenroom.errors import EngineUnavailable, GreenroomError, ImageMissing, InvalidRequest
from greenroom.local.metering import Measured
from greenroom.telemetry import EndCause, StartFailure


class Instance(Measured, Protocol):
    """What an allocator can lease: a code sandbox, a custom container, a fork of a template."""

    async def ready(self) -> None:
        """Wait until the instance can be used."""
        ...

    async def take_full_share(self) -> None:
        """Stop yielding the processor to other instances: from now on a caller uses the instance or waits for it."""
        ...

    async def warm_up(self) -> None:
        """Prepare for a session while the instance waits for one. Never raises."""
        ...

    async def freeze(self) -> bool:
        """Suspend its processes until `thaw`, if nothing is running in it; return whether they are suspended."""
        ...

    async def thaw(self) -> None:
        """Resume its processes.

        Raises:
            EngineUnavailable: the engine does not respond.
        """
        ...

    async def close(self, reason: str) -> None:
        """End the instance; pending calls fail with the reason. Idempotent, bounded in time."""
        ...


InstanceT = TypeVar("InstanceT", bound=Instance)


def start_failure(error: Exception, *, started: bool) -> StartFailure:
    """Return why an instance did not start; `started` says whether the engine had started it."""
    match error:
        case TimeoutError():
            return StartFailure.TOO_SLOW
        case ImageMissing():
            return StartFailure.IMAGE_MISSING
        case InvalidRequest():
            return StartFailure.INVALID
        case GreenroomError() if started:
            return StartFailure.NOT_READY
        case EngineUnavailable():
            return StartFailure.ENGINE_LOST
        case _:
            return StartFailure.OTHER


# Why a sandbox ended, as part of a sentence about it.
REASONS = {
    EndCause.COOLED_DOWN: "it cooled down",
    EndCause.MAX_AGE: "it reached its maximum age",
    EndCause.SURPLUS: "it was not needed",
    EndCause.OUTDATED: "its pool has changed",
    EndCause.DELETED: "its session was deleted",
    EndCause.LOST: "it ended by itself",
    EndCause.START_FAILED: "it did not start",
    EndCause.POOL_CLOSED: "its pool was closed",
}
