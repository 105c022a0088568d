"""The metrics, and the values that each event adds to them. Pure; labels come only from enumerations and routes. Names
are OpenTelemetry's, dotted and without units; in Prometheus they have underscores and a unit, such as
`greenroom_execution_duration_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from greenroom.models import PoolStatus, PoolUsage
from greenroom.telemetry.events import (
    AllocationRefused,
    CallEnded,
    EngineLost,
    ExecutionBegan,
    ExecutionEnded,
    RecordsDropped,
    RequestEnded,
    RequestRefused,
    SandboxEnded,
    SandboxRemoved,
    SandboxStarted,
    SessionAllocated,
    StartFailed,
    TelemetryEvent,
    TransferEnded,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LIVES = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_BYTES = tuple(float(1 << power) for power in range(24, 37))

Unit: TypeAlias = Literal["s", "By", "By.s", "1", ""]


@dataclass(frozen=True, slots=True, eq=False)  # comparison by fields would hash all fields several times per event
class Instrument:
    """One metric: a histogram if it has `boundaries`, a gauge if `gauge`, otherwise a counter."""

    name: str
    description: str
    unit: Unit = ""
    labels: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    gauge: bool = False


START_DURATION = Instrument(
    "greenroom.sandbox.start.duration", "From the decision to start a sandbox until it is ready.", "s", (), _SECONDS
)
START_FAILURES = Instrument("greenroom.sandbox.start.failures", "Sandboxes that did not start.", "", ("reason",))
SANDBOX_ENDS = Instrument("greenroom.sandbox.ends", "Sandboxes taken out of service.", "", ("cause",))
ENGINE_LOSSES = Instrument("greenroom.engine.losses", "How often the engine stopped starting sandboxes.")
ALLOCATIONS = Instrument("greenroom.session.allocations", "Sessions that got a sandbox, ready or not.", "", ("start",))
WAIT = Instrument("greenroom.session.wait.duration", "How long a session waited for its sandbox.", "s", (), _SECONDS)
REFUSALS = Instrument("greenroom.session.refusals", "Sessions that got no sandbox.", "", ("reason",))
LIFE = Instrument("greenroom.session.duration", "How long a session held its sandbox.", "s", ("cause",), _LIVES)
PEAK = Instrument(
    "greenroom.session.memory.peak", "The peak memory of a session, recorded at its end.", "By", (), _BYTES
)
EXECUTION = Instrument(
    "greenroom.execution.duration", "How long an execution ran in its sandbox.", "s", ("work", "status"), _SECONDS
)
EXECUTION_ERRORS = Instrument(
    "greenroom.execution.errors",
    "Executions with an error, by the class of the error if known.",
    "",
    ("error_type",),
)
OUTPUT = Instrument("greenroom.execution.output", "Characters of text that executions wrote.")
CALLS = Instrument(
    "greenroom.tool.call.duration",
    "How long a call to one of the application's tools took, by outcome.",
    "s",
    ("outcome",),
    (*_SECONDS, 3600.0, 86400.0),
)
TRANSFERS = Instrument("greenroom.transfers", "Files uploaded and downloaded.", "", ("direction", "outcome"))
TRANSFER_SIZE = Instrument("greenroom.transfer.size", "Bytes of files moved.", "By", ("direction",))
REQUESTS = Instrument(
    "http.server.request.duration",
    "How long a request to the server took.",
    "s",
    ("http_request_method", "http_route", "http_response_status_code"),
    _SECONDS,
)
REQUEST_REFUSALS = Instrument("greenroom.server.refusals", "Requests that the server refused.", "", ("reason",))
DROPPED_RECORDS = Instrument("greenroom.log.dropped", "Records that could not be written to the log.")

EVENTS = (
    START_DURATION, START_FAILURES, SANDBOX_ENDS, ENGINE_LOSSES, ALLOCATIONS, WAIT, REFUSALS, LIFE, PEAK, EXECUTION,
    EXECUTION_ERRORS, OUTPUT, CALLS, TRANSFERS, TRANSFER_SIZE, REQUESTS, REQUEST_REFUSALS, DROPPED_RECORDS,
)  # fmt: skip
"""The instruments that events add to."""

Measurement: TypeAlias = tuple[Instrument, float, tuple[str, ...]]
"""An instrument, a value, and the values of its labels."""


def measurements(event: TelemetryEvent) -> Iterator[Measurement]:
    """Yield the values that an event adds."""
    match event:
        case ExecutionEnded(status=status, duration=duration, work=work, output=output, error=error):
            yield EXECUTION, duration, (work.value, status)
            if output:
                yield OUTPUT, output, ()
            if error is not None:
                yield EXECUTION_ERRORS, 1, (error,)
        case ExecutionBegan():  # adds nothing; checked early as each execution has one
            pass
        case CallEnded(outcome=outcome, duration=duration):
            yield CALLS, duration, (outcome.value,)
        case RequestEnded(operation=operation, status=status, duration=duration):
            method, _, route = (operation or "_OTHER ").partition(" ")
            yield REQUESTS, duration, (method, route, "" if status is None else str(status))
        case SessionAllocated(wait=wait, warm=warm):
            yield ALLOCATIONS, 1, ("warm" if warm else "cold",)
            yield WAIT, wait, ()
        case TransferEnded(direction=direction, size=size, outcome=outcome):
            yield TRANSFERS, 1, (direction.value, outcome.value)
            yield TRANSFER_SIZE, size, (direction.value,)
        case SandboxStarted(duration=duration):
            yield START_DURATION, duration, ()
        case SandboxEnded(cause=cause):
            yield SANDBOX_ENDS, 1, (cause.label,)
        case SandboxRemoved(cause=cause, identifier=str(), usage=usage):
            yield LIFE, usage.wall, (cause.label,)
            if usage.peak_memory is not None:
                yield PEAK, usage.peak_memory, ()
        case StartFailed(reason=reason):
            yield START_FAILURES, 1, (reason.value,)
        case AllocationRefused(reason=reason):
            yield REFUSALS, 1, (reason.value,)
        case RequestRefused(reason=reason):
            yield REQUEST_REFUSALS, 1, (reason.value,)
        case EngineLost():
            yield ENGINE_LOSSES, 1, ()
        case RecordsDropped(count=count):
            yield DROPPED_RECORDS, count, ()
        case _:
            pass


# The state of a pool, read on request

READY_PODS = Instrument("PoolReadyPodCount", "Ready sandboxes, under the name of Azure's metric.", gauge=True)
EXECUTING_PODS = Instrument(
    "PoolExecutingPodCount", "Sandboxes of sessions, under the name of Azure's metric.", gauge=True
)
PENDING_PODS = Instrument("PoolPendingPodCount", "Starting sandboxes, under the name of Azure's metric.", gauge=True)
SANDBOXES = Instrument("greenroom.pool.sandboxes", "Sandboxes by state.", "", ("state",), gauge=True)
LIMIT = Instrument("greenroom.pool.limit", "The maximum number of sandboxes.", gauge=True)
WAITING = Instrument("greenroom.pool.waiting", "Sessions waiting for a sandbox.", gauge=True)
FROZEN = Instrument("greenroom.pool.frozen", "Idle sessions whose processes are stopped.", gauge=True)
PARKED = Instrument("greenroom.pool.parked", "Executions waiting for answers to tool calls.", gauge=True)
PARKED_CALLS = Instrument("greenroom.pool.parked.calls", "Tool calls waiting for their answers.", gauge=True)
READY_TARGET = Instrument("greenroom.pool.ready.target", "How many sandboxes should be ready.", gauge=True)
SATURATION = Instrument(
    "greenroom.pool.saturation", "Sessions, including waiting ones, divided by the limit.", "1", gauge=True
)
RECENT = Instrument(
    "greenroom.pool.recent.duration",
    "Durations of the last thousand waits and starts.",
    "s",
    ("of", "statistic"),
    gauge=True,
)
MEMORY = Instrument("greenroom.pool.memory", "Memory of all sandboxes, as last sampled.", "By", gauge=True)
SESSIONS = Instrument("greenroom.pool.sessions", "All sessions so far, including current ones.")
CPU_TIME = Instrument("greenroom.pool.cpu.time", "Processor time of sandboxes.", "s", ("purpose",))
MEMORY_TIME = Instrument("greenroom.pool.memory.time", "Memory of sandboxes over time.", "By.s", ("purpose",))

STATE = (
    READY_PODS, EXECUTING_PODS, PENDING_PODS, SANDBOXES, LIMIT, WAITING, FROZEN, PARKED, PARKED_CALLS, READY_TARGET,
    SATURATION, RECENT, MEMORY, SESSIONS, CPU_TIME, MEMORY_TIME,
)  # fmt: skip
"""The instruments that show a pool's state. Each has a label with the pool's name, `poolName` for Azure's metrics."""


def state_of(status: PoolStatus, usage: PoolUsage) -> Iterator[Measurement]:
    """Yield the state of a pool."""
    sessions = status.executing + status.idle
    yield READY_PODS, status.ready, ()
    yield EXECUTING_PODS, sessions, ()
    yield PENDING_PODS, status.starting, ()
    for state in ("ready", "starting", "executing", "idle"):
        yield SANDBOXES, getattr(status, state), (state,)
    if status.limit is not None:
        yield LIMIT, status.limit, ()
        yield SATURATION, (sessions + status.waiting) / max(status.limit, 1), ()
    yield WAITING, status.waiting, ()
    yield FROZEN, status.frozen, ()
    yield PARKED, status.parked, ()
    yield PARKED_CALLS, status.parked_calls, ()
    if status.ready_target is not None:
        yield READY_TARGET, status.ready_target, ()
    for name in ("wait", "start"):
        for statistic in ("median", "max"):
            yield RECENT, getattr(status, f"{name}_{statistic}"), (name, statistic)
    yield RECENT, status.wait_p95, ("wait", "p95")
    yield MEMORY, usage.memory, ()
    yield SESSIONS, usage.sessions, ()
    yield CPU_TIME, usage.cpu, ("sessions",)
    yield CPU_TIME, usage.spare_cpu, ("spare",)
    yield MEMORY_TIME, usage.memory_time, ("sessions",)
    yield MEMORY_TIME, usage.spare_memory_time, ("spare",)


def pool_label(instrument: Instrument) -> str:
    """Return the name of the label that has the pool's name: Azure's dimension for Azure's metrics."""
    return "poolName" if instrument.name.startswith("Pool") else "pool"
