"""What happens in a pool, as typed events for one observer: metrics, traces, logs and usage consume them."""

from greenroom.telemetry.events import (
    AllocationRefused,
    EndCause,
    ExecutionEnded,
    Observer,
    SandboxEnded,
    SandboxStarted,
    SessionAllocated,
    StartFailed,
    TelemetryEvent,
    guarded,
    ignore,
)

__all__ = [
    "AllocationRefused",
    "EndCause",
    "ExecutionEnded",
    "Observer",
    "SandboxEnded",
    "SandboxStarted",
    "SessionAllocated",
    "StartFailed",
    "TelemetryEvent",
    "guarded",
    "ignore",
]
