"""A pool in virtual time: the real allocator and decisions, over instances that only take time to start."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

from tests.core.virtual_time import in_virtual_time

from greenroom.engines.base import Resources
from greenroom.errors import PoolFull
from greenroom.local import PoolSettings
from greenroom.local.allocator import Allocator
from greenroom.telemetry import SandboxEnded, SandboxStarted, SessionAllocated, TelemetryEvent

MAXIMUM = 100
CONCURRENT_STARTS = 2


@dataclass(frozen=True, slots=True)
class Visit:
    """A requested session. Times are in seconds."""

    at: float
    """From the beginning of the scenario."""
    stays: float
    """From its allocation to its deletion."""


@dataclass(frozen=True, slots=True)
class Start:
    """How long a sandbox takes to start: a log-normal distribution."""

    median: float
    sigma: float = 0.3

    def draw(self, chance: random.Random) -> float:
        return self.median * math.exp(chance.gauss(0, self.sigma))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a scenario with one setting."""

    waits: tuple[float, ...]
    idle: float
    """The integral of ready sandboxes over time, in sandbox-seconds."""
    mean_ready: float
    refused: int
    ready: tuple[tuple[float, int], ...]
    """How many were ready from which time on."""

    def percentile(self, share: float) -> float:
        """The wait that this share of the sessions did not exceed."""
        waits = sorted(self.waits)
        return waits[max(0, math.ceil(share * len(waits)) - 1)]

    @property
    def mean_wait(self) -> float:
        return mean(self.waits)

    def late(self, target: float) -> float:
        """The share of sessions that waited longer."""
        return sum(wait > target for wait in self.waits) / len(self.waits)


def simulate(visits: Sequence[Visit], start: Start, **options: object) -> Outcome:
    """Send the visits to a pool with these options. The same arguments give the same outcome."""
    return in_virtual_time(partial(_simulate, visits, start, options))()


class _Instance:
    """An instance that does nothing."""

    sampling_interval = math.inf
    node_share = None

    async def ready(self) -> None: ...

    async def take_full_share(self) -> None: ...

    async def warm_up(self) -> None: ...

    async def freeze(self) -> bool:
        return False

    async def thaw(self) -> None: ...

    async def close(self, reason: str) -> None: ...

    async def resources(self) -> Resources | None:
        return None


async def _simulate(visits: Sequence[Visit], start: Start, options: dict[str, object]) -> Outcome:
    settings = PoolSettings.parse({"max_concurrent_sessions": MAXIMUM, **options})
    clock = asyncio.get_running_loop().time
    began = clock()
    chance = random.Random(1)
    meter = _Meter()

    async def start_instance(_on_lost: object) -> _Instance:
        await asyncio.sleep(start.draw(chance))
        return _Instance()

    def observe(event: TelemetryEvent) -> None:
        meter.observe(event, clock() - began)

    rules = replace(settings.rules(starts_give_way=True), max_concurrent_starts=CONCURRENT_STARTS)
    allocator = Allocator(start_instance, rules, "simulation", observe, memory=lambda: None)

    async def visit(number: int, stays: float) -> None:
        identifier = f"session-{number}"
        try:
            async with allocator.lease(identifier):
                await asyncio.sleep(stays)
            await allocator.end(identifier)
        except PoolFull:
            meter.refused += 1

    await asyncio.sleep(_SETTLE)
    meter.reset(clock() - began)
    async with asyncio.TaskGroup() as tasks:
        for number, each in enumerate(visits):
            await asyncio.sleep(began + _SETTLE + each.at - clock())
            tasks.create_task(visit(number, each.stays))
        last = clock() - began
        outcome = meter.outcome(last)
    await allocator.close()
    return outcome


_SETTLE = 60.0  # a pool is open for a while before the first session arrives


class _Meter:
    """Waits, and numbers of ready sandboxes."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.refused = 0
        self._ready = 0
        self._since = self._began = 0.0
        self._idle = 0.0
        self._levels: list[tuple[float, int]] = []

    def observe(self, event: TelemetryEvent, now: float) -> None:
        match event:
            case SandboxStarted():
                self._become(self._ready + 1, now)
            case SessionAllocated(wait=wait):
                self.waits.append(wait)
                self._become(self._ready - 1, now)
            case SandboxEnded(identifier=None):
                self._become(self._ready - 1, now)
            case _:
                pass

    def reset(self, now: float) -> None:
        self._idle, self._since, self._began = 0.0, now, now
        self._levels = [(0.0, self._ready)]

    def outcome(self, now: float) -> Outcome:
        self._become(self._ready, now)
        waits, span = tuple(self.waits), now - self._began
        return Outcome(waits, self._idle, self._idle / span, self.refused, tuple(self._levels))

    def _become(self, ready: int, now: float) -> None:
        self._idle += (now - self._since) * self._ready
        self._ready, self._since = ready, now
        self._levels.append((now - self._began, ready))
