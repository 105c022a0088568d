"""An allocator whose ready instances follow demand, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from greenroom.engines.base import Resources
from greenroom.local.allocator import Allocator
from greenroom.local.demand import ReadyGoal
from greenroom.local.memory import Memory
from greenroom.local.plan import Rules
from greenroom.models import ReadyReason
from greenroom.telemetry import ignore

from .virtual_time import in_virtual_time

GIB = 1 << 30


class Instance:
    sampling_interval = math.inf
    node_share = None

    async def ready(self) -> None: ...

    async def take_full_share(self) -> None: ...

    async def warm_up(self) -> None: ...

    async def freeze(self) -> bool:
        return False

    async def thaw(self) -> None:
        pass

    async def close(self, reason: str) -> None:
        del reason

    async def resources(self) -> Resources | None:
        return None


@dataclass
class Machine:
    """What instances are started on."""

    start_takes: float = 1.0
    memory: Memory = field(default_factory=lambda: Memory(16 * GIB, 8 * GIB))
    under_way: int = 0
    most_under_way: int = 0
    readings: int = 0

    def read(self) -> Memory:
        self.readings += 1
        return self.memory

    async def start(self, on_lost: Callable[[], None]) -> Instance:
        del on_lost
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.start_takes)
        finally:
            self.under_way -= 1
        return Instance()


def rules_of(goal: ReadyGoal | int, *, maximum: int = 50) -> Rules:
    return Rules(maximum, goal, cooldown=5, maximum_age=None, acquire_timeout=600, max_concurrent_starts=3)


@asynccontextmanager
async def following(machine: Machine, goal: ReadyGoal, *, maximum: int = 50) -> AsyncGenerator[Allocator[Instance]]:
    rules = rules_of(goal, maximum=maximum)
    allocator = Allocator(machine.start, rules, "a test", ignore, memory=machine.read)
    try:
        yield allocator
    finally:
        await allocator.close()


async def burst(allocator: Allocator[Instance], name: str, count: int) -> list[float]:
    """Sessions that come at the same time; returns how long each waited."""
    clock = asyncio.get_running_loop().time
    began = clock()

    async def visit(number: int) -> float:
        async with allocator.lease(f"{name}-{number}"):
            return clock() - began

    return sorted(await asyncio.gather(*(visit(number) for number in range(count))))


@in_virtual_time
async def test_a_burst_lets_the_pool_grow_for_the_next_one_and_then_it_shrinks() -> None:
    machine = Machine()
    async with following(machine, ReadyGoal(0.1, 2, 20)) as allocator:
        await asyncio.sleep(30)
        status = allocator.status()
        assert (status.ready, status.ready_target, status.ready_reason) == (2, 2, ReadyReason.FLOOR)
        assert (await burst(allocator, "first", 12))[3] > 0, "two were ready"
        status = allocator.status()
        assert (status.ready_target, status.ready_reason) == (12, ReadyReason.DEMAND)
        await asyncio.sleep(60)
        assert allocator.status().ready == 12
        assert (await burst(allocator, "second", 12))[-1] == 0
        assert allocator.status().wait_p95 > 0
        await asyncio.sleep(3 * 3600)
        status = allocator.status()
        assert (status.ready, status.ready_target, status.ready_reason) == (2, 2, ReadyReason.FLOOR)
        assert machine.most_under_way == 3, "never more starts than any other pool has"


@in_virtual_time
async def test_the_pool_shrinks_step_by_step_and_logs_it() -> None:
    async with following(Machine(), ReadyGoal(0.1, 0, 20)) as allocator:
        await burst(allocator, "session", 20)
        seen: list[int] = []
        for _ in range(3 * 360):
            await asyncio.sleep(10)
            status = allocator.status()
            if not seen or seen[-1] != status.ready_target:
                assert status.ready_target is not None
                assert not seen or status.ready_reason in {ReadyReason.SHRINKING, ReadyReason.FLOOR}
                seen.append(status.ready_target)
        assert seen[0] == 19, "one session in twenty can wait"
        assert seen[-1] == 0
        assert seen == sorted(seen, reverse=True)
        assert len(seen) > 10, "one after the other"
        assert allocator.status().ready == 0


@in_virtual_time
async def test_while_memory_is_short_no_spare_sandbox_starts_but_sessions_are_served() -> None:
    machine = Machine(memory=Memory(16 * GIB, GIB))
    async with following(machine, ReadyGoal(0.1, 5, 20)) as allocator:
        await asyncio.sleep(60)
        status = allocator.status()
        assert (status.ready, status.ready_target, status.ready_reason) == (0, 5, ReadyReason.MEMORY)
        assert len(await burst(allocator, "session", 4)) == 4
        assert allocator.status().ready == 0
        machine.memory = Memory(16 * GIB, 8 * GIB)
        await asyncio.sleep(60)
        assert allocator.status().ready >= 5


@in_virtual_time
async def test_ready_sandboxes_above_the_floor_end_when_memory_becomes_short() -> None:
    machine = Machine()
    async with following(machine, ReadyGoal(0.1, 1, 20)) as allocator:
        await burst(allocator, "session", 20)
        await asyncio.sleep(60)
        assert allocator.status().ready == 19
        machine.memory = Memory(16 * GIB, int(1.2 * GIB))
        await asyncio.sleep(6)
        assert 5 < allocator.status().ready < 19, "as many as make a tenth of the machine free"
        machine.memory = Memory(16 * GIB, 3 * GIB, stalled=0.5)
        await asyncio.sleep(6)
        assert allocator.status().ready == 1


@in_virtual_time
async def test_a_changed_goal_applies_immediately() -> None:
    async with following(Machine(), ReadyGoal(0.1, 4, 4)) as allocator:
        await asyncio.sleep(10)
        allocator.change(rules_of(ReadyGoal(0.1, 7, 7)), outdated=False)
        await asyncio.sleep(10)
        assert allocator.status().ready == 7
        allocator.change(rules_of(1), outdated=False)
        assert (allocator.status().ready_target, allocator.status().ready_reason) == (1, ReadyReason.FIXED)
        await asyncio.sleep(60)
        assert allocator.status().ready == 1


@in_virtual_time
async def test_the_maximum_is_kept_whatever_the_demand() -> None:
    async with following(Machine(), ReadyGoal(0.1, 0, 8), maximum=8) as allocator:
        await burst(allocator, "session", 30)
        for _ in range(100):
            await asyncio.sleep(1)
            status = allocator.status()
            assert status.ready + status.starting + status.idle + status.executing <= 8


@in_virtual_time
async def test_an_idle_pool_at_its_floor_wakes_for_nothing() -> None:
    machine = Machine()
    async with following(machine, ReadyGoal(0.1, 2, 20)) as allocator:
        await asyncio.sleep(10)
        assert allocator.status().ready == 2
        before = machine.readings
        await asyncio.sleep(3600)
        assert machine.readings == before
