"""Typed events of pools and of the server, for one observer, as a source for metrics, traces, logs and usage."""

from greenroom.telemetry.events import (
    AllocationRefused,
    EndCause,
    ExecutionEnded,
    Observer,
    RequestEnded,
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
    "RequestEnded",
    "SandboxEnded",
    "SandboxStarted",
    "SessionAllocated",
    "StartFailed",
    "TelemetryEvent",
    "guarded",
    "ignore",
]
