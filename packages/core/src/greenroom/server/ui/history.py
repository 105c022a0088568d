"""Samples of the pools' state over time: the last hour, and the last day at a lower rate, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from greenroom.errors import GreenroomError
from greenroom.models import PoolStatus
from greenroom.server.registry import PoolRegistry, ServedPool

Span: TypeAlias = Literal["hour", "day"]

INTERVAL = 10.0
"""Seconds between two samples of the last hour."""
COARSE = 300.0
"""Seconds that one sample of the last day represents."""

_log = logging.getLogger("greenroom.server.ui")

_LENGTHS: dict[Span, int] = {"hour": round(3600 / INTERVAL), "day": round(86400 / COARSE)}
_TIMEOUT = 5.0
_MOST_POOLS = 200  # of 1,000 that a server can have, 200 take some 25 MB


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of a pool at one moment, or the maximum over several minutes."""

    time: float
    """Seconds since 1970."""
    limit: int | None
    sessions: int
    ready: int
    waiting: int

    @classmethod
    def of(cls, status: PoolStatus, now: float) -> Sample:
        return cls(now, status.limit, status.executing + status.idle, status.ready, status.waiting)

    def merged(self, later: Sample) -> Sample:
        """Return the maximum of both, at the time of this one."""
        return Sample(
            self.time,
            later.limit,
            max(self.sessions, later.sessions),
            max(self.ready, later.ready),
            max(self.waiting, later.waiting),
        )


@dataclass(slots=True)
class _Rings:
    hour: deque[Sample] = field(default_factory=lambda: deque[Sample](maxlen=_LENGTHS["hour"]))
    day: deque[Sample] = field(default_factory=lambda: deque[Sample](maxlen=_LENGTHS["day"]))

    def add(self, sample: Sample) -> None:
        self.hour.append(sample)
        if self.day and 0 <= sample.time - self.day[-1].time < COARSE:
            self.day[-1] = self.day[-1].merged(sample)
        else:
            self.day.append(sample)


class History:
    """The samples of a registry's pools. They are dropped with the pool."""

    def __init__(self, pools: PoolRegistry, *, clock: Callable[[], float] = time.time) -> None:
        self._pools = pools
        self._clock = clock
        self._rings: dict[ServedPool, _Rings] = {}

    def of(self, pool: ServedPool, span: Span) -> Sequence[Sample]:
        """Return the samples of a pool, earliest first."""
        rings = self._rings.get(pool)
        if rings is None:
            return ()
        oldest = self._clock() - _LENGTHS[span] * (INTERVAL if span == "hour" else COARSE)
        return [sample for sample in (rings.hour if span == "hour" else rings.day) if sample.time >= oldest]

    async def sample(self) -> None:
        """Take one sample of each pool; a pool that does not respond in time gets none."""
        pools = list(self._pools)[:_MOST_POOLS]
        self._rings = {pool: self._rings.get(pool) or _Rings() for pool in pools}
        await asyncio.gather(*(self._sample(pool) for pool in pools))

    async def _sample(self, pool: ServedPool) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                status = await pool.backend.status()
        except (GreenroomError, TimeoutError):
            return
        self.add(pool, Sample.of(status, self._clock()))

    def add(self, pool: ServedPool, sample: Sample) -> None:
        """Keep a sample, which must be later than the pool's earlier ones."""
        self._rings.setdefault(pool, _Rings()).add(sample)

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncGenerator[None, None]:
        """Take samples until the end of the context."""
        task = asyncio.create_task(self._sample_forever())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _sample_forever(self) -> None:
        while True:
            try:
                await self.sample()
            except Exception:  # noqa: BLE001  the chart gets a gap, and the server continues
                _log.exception("sampling the pools failed")
            await asyncio.sleep(INTERVAL)
