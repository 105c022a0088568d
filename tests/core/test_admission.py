"""Where memory is short, an allocator starts nothing, and says so before the kernel ends anything."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from greenroom.engines.base import MemoryFrom, Resources
from greenroom.errors import PoolFull
from greenroom.local.allocator import Allocator
from greenroom.local.memory import Memory, read_memory, reader
from greenroom.local.settings import PoolSettings
from greenroom.models import ReadyReason, UsageSource
from greenroom.telemetry import AllocationRefusal, AllocationRefused, TelemetryEvent

from .test_following import Instance
from .virtual_time import in_virtual_time

GIB = 1 << 30


class Pool:
    """An allocator whose instances take a second to start and as much memory as a test says."""

    def __init__(
        self, available: int, *, start_takes: float = 1.0, needs: int = 0, measured: bool = False, **options: Any
    ) -> None:
        self.available = available
        self.start_takes = start_takes
        self.needs = needs
        self.measured = measured
        self.events: list[TelemetryEvent] = []
        settings = PoolSettings.parse({"memory_reserve": GIB, **options})
        rules = replace(settings.rules(starts_give_way=True), max_concurrent_starts=2)
        self.allocator = Allocator(self._start, rules, "scripted", self.events.append, memory=self._memory)

    async def _start(self, _on_lost: object) -> Instance:
        await asyncio.sleep(self.start_takes)
        self.available -= self.needs
        return MeasuredInstance(self.needs) if self.measured else Instance()

    def _memory(self) -> Memory:
        return Memory(16 * GIB, self.available, limit="this machine")

    async def use(self, identifier: str) -> None:
        async with self.allocator.lease(identifier):
            if (entry := self.allocator.metering.begin(identifier)) is not None:
                self.allocator.metering.complete(entry)
            await asyncio.sleep(0)


class MeasuredInstance(Instance):
    """One whose memory is known."""

    sampling_interval = 0.0

    def __init__(self, memory: int) -> None:
        self._memory = memory

    async def resources(self) -> Resources | None:
        return Resources(UsageSource.CONTROL_GROUPS, 0.0, self._memory, self._memory)


@in_virtual_time
async def test_a_caller_waits_for_memory_and_gets_its_session() -> None:
    pool = Pool(GIB, ready_session_instances=0)
    waiting = asyncio.create_task(pool.use("a"))
    await asyncio.sleep(10)
    assert pool.allocator.status().starting == 0
    pool.available = 8 * GIB
    await waiting
    await pool.allocator.close()


@in_virtual_time
async def test_a_refusal_states_the_limit_the_remainder_and_a_remedy() -> None:
    pool = Pool(GIB, ready_session_instances=0, acquire_timeout=5)
    with pytest.raises(PoolFull) as caught:
        await pool.use("a")
    assert caught.value.memory
    text = str(caught.value)
    assert all(each in text for each in ("this machine", "1 GiB of 16 GiB", "within 5 seconds", "memory_reserve"))
    [refused] = [event for event in pool.events if isinstance(event, AllocationRefused)]
    assert refused.reason is AllocationRefusal.MEMORY_SHORT
    await pool.allocator.close()


@in_virtual_time
async def test_sessions_are_admitted_only_as_far_as_memory_goes() -> None:
    """Each takes 150 MiB once it runs, of 3 GiB above the reserve: more than is assumed."""
    pool = Pool(4 * GIB, needs=150 << 20, ready_session_instances=0, acquire_timeout=60)
    calls = [asyncio.create_task(pool.use(f"session-{number}")) for number in range(40)]
    done, _ = await asyncio.wait(calls)
    admitted = [call for call in done if call.exception() is None]
    assert 17 <= len(admitted) <= 22, "some more than 20, as a reading is a second old"
    assert pool.available > 0, "the kernel has had to end nothing"
    await pool.allocator.close()


@in_virtual_time
async def test_many_small_sessions_start_without_waiting_for_memory_readings() -> None:
    """As forks do, 66 in a second: if each were taken for a large one, the starts of a second would need 7 GB."""
    options = {"ready_session_instances": 0, "max_concurrent_sessions": 600, "acquire_timeout": 600}
    durations: list[float] = []
    for measured in (True, False):
        pool = Pool(8 * GIB, needs=10 << 20, measured=measured, start_takes=0.03, **options)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(pool.use(f"session-{number}") for number in range(600)))
        durations.append(asyncio.get_running_loop().time() - began)
        assert len(pool.allocator.sessions()) == 600
        await pool.allocator.close()
    assert durations[0] < 12 < durations[1]


@in_virtual_time
async def test_large_sessions_are_admitted_by_the_memory_that_others_needed() -> None:
    pool = Pool(8 * GIB, needs=GIB, measured=True, ready_session_instances=0, acquire_timeout=5)
    for number in range(3):
        await pool.use(f"first-{number}")
        await asyncio.sleep(2)
    results = await asyncio.gather(*(pool.use(f"later-{number}") for number in range(6)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, PoolFull) and result.memory]
    assert (results.count(None), len(refused)) == (4, 2), "7 GiB above the reserve, of which 3 were taken"
    assert pool.available == GIB
    await pool.allocator.close()


@in_virtual_time
async def test_the_memory_that_others_needed_does_not_keep_out_a_small_session() -> None:
    pool = Pool(16 * GIB, needs=4 * GIB, measured=True, ready_session_instances=0, acquire_timeout=5)
    for number in range(3):
        await pool.use(f"large-{number}")
        await asyncio.sleep(2)
    assert pool.available == 4 * GIB, "with the reserve, too little for another of these"
    pool.needs = 0
    await pool.use("small")
    await pool.allocator.close()


@in_virtual_time
async def test_a_pool_warns_that_memory_is_short_for_its_warm_instances() -> None:
    pool = Pool(2 * GIB, ready_session_instances=2)
    await asyncio.sleep(5)
    status = pool.allocator.status()
    assert (status.ready, status.starting, status.ready_reason) == (0, 0, ReadyReason.MEMORY)
    pool.available = 8 * GIB
    await asyncio.sleep(5)
    status = pool.allocator.status()
    assert (status.ready, status.ready_reason) == (2, ReadyReason.FIXED)
    await pool.allocator.close()


@in_virtual_time
async def test_warm_instances_are_not_replaced_while_sessions_still_start() -> None:
    pool = Pool(8 * GIB, ready_session_instances=2)
    await asyncio.sleep(5)
    assert pool.allocator.status().ready == 2
    pool.available = 2 * GIB - (1 << 20)
    for name in ("a", "b", "c"):
        await pool.use(name)
    await asyncio.sleep(20)
    status = pool.allocator.status()
    assert (status.ready, status.idle, status.allocations_cold) == (0, 3, 1)
    pool.available = 8 * GIB
    await asyncio.sleep(20)
    assert pool.allocator.status().ready == 2
    await pool.allocator.close()


@in_virtual_time
async def test_sandboxes_are_kept_warm_only_where_starts_are_slow() -> None:
    pool = Pool(8 * GIB, start_takes=0.05)
    for number in range(4):
        await pool.use(f"a-{number}")
        await asyncio.sleep(1)
    await asyncio.sleep(60)
    status = pool.allocator.status()
    assert (status.ready, status.ready_target, status.ready_reason) == (0, 0, ReadyReason.QUICK)
    pool.start_takes = 0.5
    for number in range(60):
        await pool.use(f"b-{number}")
    await asyncio.sleep(60)
    status = pool.allocator.status()
    assert (status.ready, status.ready_target, status.ready_reason) == (1, 1, ReadyReason.FIXED)
    await pool.allocator.close()


@in_virtual_time
async def test_a_configured_number_is_kept_however_fast_starts_are() -> None:
    pool = Pool(8 * GIB, start_takes=0.05, ready_session_instances=1)
    for number in range(10):
        await pool.use(f"a-{number}")
        await asyncio.sleep(1)
    await asyncio.sleep(60)
    assert pool.allocator.status().ready == 1
    await pool.allocator.close()


def test_the_memory_that_is_read_is_that_of_the_sandboxes() -> None:
    here = reader(MemoryFrom.THIS_MACHINE)()
    assert reader(MemoryFrom.ELSEWHERE)() is None
    if (process := reader(MemoryFrom.THIS_PROCESS)()) is not None:
        assert here is not None
        assert process.total <= here.total
        assert read_memory() is not None


@in_virtual_time
async def test_a_start_gives_way_to_running_code_but_not_to_a_waiting_caller() -> None:
    pool = Pool(8 * GIB, ready_session_instances=1)
    await asyncio.sleep(5)
    clock = asyncio.get_running_loop().time
    async with pool.allocator.lease("a"):
        await asyncio.sleep(1.01)
        assert pool.allocator.status().ready == 0
        await asyncio.sleep(0.02)
        assert pool.allocator.status().ready == 1
        async with pool.allocator.lease("b"):
            await asyncio.sleep(0.01)  # a replacement gives way
            began = clock()
            async with pool.allocator.lease("c"):
                assert clock() - began == pytest.approx(1)
    await pool.allocator.close()
