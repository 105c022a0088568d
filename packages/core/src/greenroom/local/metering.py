"""Measures what the sandboxes of a pool use: sampled while they work, settled when they are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from greenroom.engines.base import Resources
from greenroom.models import PoolUsage, SessionUsage, UsageSource
from greenroom.pricing.rules import node_hours, session_hours
from greenroom.telemetry import Direction

_log = logging.getLogger("greenroom")

_INTERVAL = 10.0
"""Seconds between two samples while an execution runs."""
_QUICK = 1.0
"""The interval for instances whose resources can be read immediately."""
_MAX_REMEMBERED = 1000
"""Sessions whose usage is kept after their end."""


class Measured(Protocol):
    """The part of an instance that its meter needs."""

    @property
    def sampling_interval(self) -> float:
        """The shortest interval in seconds at which readings are worth their cost."""
        ...

    @property
    def node_share(self) -> float | None:
        """For a custom container, the part of an Azure node that it would take."""
        ...

    async def resources(self) -> Resources | None:
        """Return what it has used so far (after its end, in total); `None` if unknown."""
        ...


@dataclass(slots=True)
class Meter:
    """The meter of one sandbox. Times are on the pool's clock."""

    began: float
    allocated: float | None = None
    """When a session got the sandbox."""
    executions: int = 0
    uploaded: int = 0
    downloaded: int = 0
    running: int = 0
    """The number of running executions."""
    worked: bool = True
    """Whether it has been used since the last sample."""
    sampled: float | None = None
    """When the last sample was taken."""
    memory_time: float = 0.0
    last: Resources | None = None
    peak: int = 0
    until: float | None = None
    """When its end began."""
    node_share: float | None = None
    """For a custom container, the part of an Azure node that it would take."""
    identifier: str | None = None
    """The identifier of its session."""

    def take(self, resources: Resources | None, now: float, *, ended: bool = False) -> None:
        """Add a sample. A sandbox that has ended uses no memory any more, but its other values remain."""
        if resources is None:
            return
        if not ended:
            # Before its first sample, a sandbox is assumed to have used the same memory all the time.
            since, memory = self.began, resources.memory
            if self.sampled is not None and self.last is not None:
                since, memory = self.sampled, (self.last.memory + resources.memory) / 2
            self.memory_time += max(0.0, now - since) * memory
            self.sampled = now
            self.peak = max(self.peak, resources.memory)
        self.last, self.worked = resources, False
        self.peak = max(self.peak, resources.peak or 0)

    def usage(self, now: float) -> SessionUsage:
        """What it has used until now, or until its end."""
        now = now if self.until is None else self.until
        wall = 0.0 if self.allocated is None else max(0.0, now - self.allocated)
        usage = SessionUsage(wall, self.executions, self.uploaded, self.downloaded)
        if self.node_share is not None:
            usage = replace(usage, node_hours=node_hours(wall, self.node_share))
        elif self.allocated is not None:
            usage = replace(usage, session_hours=session_hours(wall))
        if self.last is None:
            return usage
        idle = 0.0 if self.sampled is None else max(0.0, now - self.sampled) * self.last.memory
        return replace(
            usage,
            source=self.last.source,
            cpu=self.last.cpu,
            memory_time=self.memory_time + idle,
            peak_memory=self.peak,
        )


@dataclass(frozen=True, slots=True)
class PresentUsage:
    """What an existing sandbox has used."""

    identifier: str | None
    """The session's identifier; `None` if it serves none."""
    usage: SessionUsage
    memory: int | None
    """Bytes, as last sampled."""
    running: int
    """The number of running executions."""


Entry: TypeAlias = tuple[Meter, Measured]


class Metering:
    """The meters of a pool's sandboxes. Used on the event loop of the pool; `pool` from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meters: dict[int, Entry] = {}
        self._sessions: dict[str, Entry] = {}
        self._ended: dict[str, SessionUsage] = {}
        """What the last sessions used, the most recent one last."""
        self._total = PoolUsage()
        self._sampling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, number: int, instance: Measured, began: float) -> None:
        """Start to measure an instance, which was ordered at the given time."""
        self._meters[number] = Meter(began, node_share=instance.node_share), instance

    def allocate(self, number: int, identifier: str) -> None:
        """Record that a session has got the instance."""
        meter, instance = self._meters[number]
        meter.allocated, meter.identifier = self._clock(), identifier
        self._sessions[identifier] = meter, instance

    def warmed_up(self, number: int) -> None:
        """Record that an instance has worked without a session: it started, or imported modules."""
        if (entry := self._meters.get(number)) is not None:
            entry[0].worked = True

    def begin(self, identifier: str) -> Entry | None:
        """Record the beginning of an execution; its end must be reported to `leave` or `complete`."""
        entry = self._sessions.get(identifier)
        if entry is not None:
            entry[0].running += 1
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._tick)
        return entry

    def leave(self, entry: Entry) -> None:
        """Record that an execution moves to another instance."""
        entry[0].running -= 1

    def complete(self, entry: Entry) -> None:
        """Record the end of an execution."""
        meter, instance = entry
        meter.executions += 1
        meter.running -= 1
        meter.worked = True
        if meter.sampled is None or self._clock() - meter.sampled > instance.sampling_interval:
            self._sample_soon()

    def transfer(self, identifier: str, direction: Direction, size: int) -> None:
        """Record a transfer of this many bytes."""
        if (entry := self._sessions.get(identifier)) is not None:
            meter, _ = entry
            meter.worked = True
            if direction is Direction.UPLOAD:
                meter.uploaded += size
            else:
                meter.downloaded += size

    async def before_end(self, number: int) -> None:
        """Take the last sample of an instance that is about to end, unless that would delay the end for long."""
        if (entry := self._meters.get(number)) is not None:
            meter, instance = entry
            if meter.sampled is None or instance.sampling_interval <= _QUICK:
                meter.take(await _read(instance), self._clock())
            meter.until = self._clock()

    async def end(self, number: int, identifier: str | None) -> SessionUsage:
        """Settle the usage of an instance that is gone now."""
        entry = self._meters.get(number)
        if entry is None:  # it never started
            return SessionUsage()
        meter, instance = entry
        meter.take(await _read(instance), self._clock(), ended=True)
        del self._meters[number]
        usage = meter.usage(self._clock())
        self._total = _added(self._total, meter, usage)
        if identifier is not None:
            if self._sessions.get(identifier, (None,))[0] is meter:
                del self._sessions[identifier]
            self._ended.pop(identifier, None)
            self._ended[identifier] = usage
            if len(self._ended) > _MAX_REMEMBERED:
                del self._ended[next(iter(self._ended))]
        return usage

    async def session(self, identifier: str) -> SessionUsage | None:
        """What a session has used until now, or in total if it has ended; `None` if unknown."""
        entry = self._sessions.get(identifier)
        if entry is None:
            return self._ended.get(identifier)
        meter, instance = entry
        meter.take(await _read(instance), self._clock())
        return meter.usage(self._clock())

    async def refresh(self) -> None:
        """Sample the instances that have worked since their last sample."""
        self._sample_soon()
        if self._sampling is not None:
            await asyncio.wait([self._sampling])

    def pool(self) -> PoolUsage:
        """What all sandboxes have used, according to their last samples."""
        total, now, memory = self._total, self._clock(), 0
        for meter, _ in list(self._meters.values()):
            total = _added(total, meter, meter.usage(now))
            memory += 0 if meter.last is None else meter.last.memory
        return replace(total, memory=memory)

    def peaks(self) -> list[int]:
        """The peak bytes of each sandbox that was sampled."""
        return [meter.peak for meter, _ in self._meters.values() if meter.sampled is not None]

    def present(self) -> list[PresentUsage]:
        """What each existing sandbox has used, according to its last sample. Two can belong to one session if one of
        them is ending."""
        now = self._clock()
        return [
            PresentUsage(
                meter.identifier,
                meter.usage(now),
                None if meter.last is None else meter.last.memory,
                meter.running,
            )
            for meter, _ in self._meters.values()
        ]

    async def close(self) -> None:
        """Stop sampling."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait([self._sampling])

    # Samples

    def _tick(self) -> None:
        self._timer = None
        self._sample_soon()
        if any(meter.running for meter, _ in self._meters.values()):  # an idle pool must not be woken for nothing
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._tick)

    def _sample_soon(self) -> None:
        if self._sampling is None or self._sampling.done():
            self._sampling = asyncio.create_task(self._sample())

    async def _sample(self) -> None:
        """Sample the instances that have worked; the memory of the others has not changed."""
        for meter, instance in list(self._meters.values()):
            if not (meter.worked or meter.running):
                continue
            if meter.sampled is None or self._clock() - meter.sampled >= instance.sampling_interval:
                meter.take(await _read(instance), self._clock())
                await asyncio.sleep(0)


async def _read(instance: Measured) -> Resources | None:
    """Read the resources of an instance. Whatever error an engine raises, the instance must not keep its slot."""
    try:
        return await instance.resources()
    except Exception:  # noqa: BLE001
        _log.exception("The resources of a sandbox cannot be read")
        return None


def _added(total: PoolUsage, meter: Meter, usage: SessionUsage) -> PoolUsage:
    cpu, memory_time = usage.cpu or 0.0, usage.memory_time or 0.0
    source = total.source if usage.source is UsageSource.NONE else usage.source
    if meter.allocated is None:
        return replace(
            total,
            source=source,
            spare_cpu=total.spare_cpu + cpu,
            spare_memory_time=total.spare_memory_time + memory_time,
        )
    return replace(
        total,
        sessions=total.sessions + 1,
        wall=total.wall + usage.wall,
        executions=total.executions + usage.executions,
        uploaded=total.uploaded + usage.uploaded,
        downloaded=total.downloaded + usage.downloaded,
        source=source,
        cpu=total.cpu + cpu,
        memory_time=total.memory_time + memory_time,
        peak_memory=max(total.peak_memory, usage.peak_memory or 0),
        unmeasured=total.unmeasured + (usage.source is UsageSource.NONE),
        session_hours=total.session_hours + usage.session_hours,
        node_hours=total.node_hours + usage.node_hours,
    )
