"""One run of the load test."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx

from load.processes import Service, descendants, memory, open_files, running, still_there
from load.users import Counts, User

_SAMPLE = 1.0
"""Seconds between two measurements of memory."""
_RESTART = 60.0
"""Seconds for a new worker to take the place of the one that was killed."""


@dataclass(frozen=True)
class Result:
    """What a run has shown."""

    users: int
    seconds: float
    pause: float
    requests: int
    """With an outcome."""
    per_second: float
    median: float
    """Seconds."""
    percentile_99: float
    slowest: float
    broken: int
    resent: int
    refused: dict[int, int]
    unanswered: int
    sessions_lost: int
    workers_replaced: int
    memory_workers: int
    """At most, of uvicorn and its workers, in bytes."""
    memory_server: int
    """At most, of `greenroom serve`."""
    memory_sandboxes: int
    """At most, of all sandboxes together."""
    sandboxes_left: int
    """Processes of sandboxes after the server's end."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost, and nothing was left."""
        return not (self.unanswered or self.sessions_lost or self.sandboxes_left) and self.workers_replaced == 1


@dataclass
class _Peaks:
    workers: int = 0
    server: int = 0
    sandboxes: int = 0

    def note(self, service: Service) -> None:
        self.workers = max(self.workers, memory([service.web.pid, *descendants(service.web.pid)]))
        self.server = max(self.server, memory([service.pool.pid]))
        self.sandboxes = max(self.sandboxes, memory(descendants(service.pool.pid)))


def measure(*, users: int, seconds: float, pause: float = 0, workers: int = 2) -> Result:
    """Run the service under load on bubblewrap, and kill a worker in the middle.

    Args:
        users: who count, each in a session.
        seconds: how long they do so.
        pause: the seconds between an outcome and a user's next request.
        workers: of uvicorn.
    """
    pool = f"bubblewrap:?memory=512Mi&cooldown_period=900&acquire_timeout=2&max_concurrent_sessions={users + 10}"
    with running(pool, workers=workers, rate=1e6, burst=1_000_000) as service:
        measured = asyncio.run(_measure(service, users, seconds, pause))
        sandboxes = descendants(service.pool.pid)
        service.web.end()
        service.pool.end()
        left = still_there(sandboxes)
    return Result(users=users, pause=pause, sandboxes_left=left, **measured)


async def _measure(service: Service, users: int, seconds: float, pause: float) -> dict[str, Any]:
    counts, peaks = Counts(), _Peaks()
    async with AsyncExitStack() as stack:
        people: list[User] = []
        for number in range(users):
            client = httpx.AsyncClient(
                base_url=service.web.url, headers=service.headers(f"user {number}"), timeout=90, trust_env=False
            )
            people.append(User(await stack.enter_async_context(client), counts))
        async with asyncio.TaskGroup() as group:
            for user in people:
                group.create_task(user.begin())
        counts.refused.clear()  # while the sandboxes started
        counts.resent = counts.broken = 0
        sampling = asyncio.create_task(_sample(service, peaks))
        killing = asyncio.create_task(asyncio.to_thread(_kill_a_worker, service, seconds / 2))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for user in people:
                group.create_task(user.work(seconds, pause))
        elapsed = time.monotonic() - began
        replaced = await killing
        sampling.cancel()
    latencies = sorted(counts.latencies)
    return {
        "seconds": elapsed,
        "requests": len(latencies),
        "per_second": len(latencies) / elapsed,
        "median": statistics.median(latencies),
        "percentile_99": latencies[len(latencies) * 99 // 100],
        "slowest": latencies[-1],
        "broken": counts.broken,
        "resent": counts.resent,
        "refused": dict(counts.refused),
        "unanswered": counts.unanswered,
        "sessions_lost": counts.lost,
        "workers_replaced": replaced,
        "memory_workers": peaks.workers,
        "memory_server": peaks.server,
        "memory_sandboxes": peaks.sandboxes,
    }


async def _sample(service: Service, peaks: _Peaks) -> None:
    while True:
        await asyncio.to_thread(peaks.note, service)
        await asyncio.sleep(_SAMPLE)


def _kill_a_worker(service: Service, after: float) -> int:
    """Kill a worker, and return how many new ones have taken its place."""
    time.sleep(after)
    before = service.web.workers()
    killed = max(before, key=open_files)  # the one with the most connections
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + _RESTART
    while len(now := set(service.web.workers()) - {killed}) < len(before) and time.monotonic() < deadline:
        time.sleep(0.1)
    return len(now - set(before))
