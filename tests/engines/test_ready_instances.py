"""Ready instances that follow demand, in a pool of real sandboxes: with shortened times, it grows and shrinks."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.waiting import within

from greenroom import PoolStatus, ReadyReason, SessionPool
from greenroom.local import allocator, demand, plan
from greenroom.local.memory import Memory
from greenroom.testing import engine_pool

OPTIONS = {"preload": (), "max_concurrent_sessions": 16, "acquire_timeout": 120}


@pytest.fixture(autouse=True)
def _short_times_and_a_machine_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HOLD", 0.5), ("STEP", 0.2), ("_RECENT", 3.0), ("_FAST", 1.0), ("_SLOW", 2.0)):
        monkeypatch.setattr(demand, name, seconds)
    monkeypatch.setattr(demand, "_REVIEW", 0.1)
    monkeypatch.setattr(plan, "SURPLUS_TIMEOUT", 0.1)
    monkeypatch.setattr(allocator, "read_memory", lambda: Memory(1 << 34, 1 << 34))


def test_a_burst_lets_a_real_pool_grow_and_afterwards_it_shrinks() -> None:
    goal = {"ready_session_instances": "auto", "min_ready_session_instances": 1, "max_ready_session_instances": 6}
    with engine_pool("bubblewrap:", **OPTIONS, **goal, ready_wait_target=0) as pool:
        assert within(60, lambda: pool.status().ready == 1)
        seen = burst(pool, 8)
        highest = max(seen, key=lambda status: status.ready_target or 0)
        assert (highest.ready_target or 0) > 1
        assert highest.ready_reason in {ReadyReason.DEMAND, ReadyReason.CEILING, ReadyReason.SHRINKING}
        starting = max(status.starting for status in seen)
        assert starting <= max(2, os.cpu_count() or 2), "as many starts at the same time as in any other pool"
        assert within(60, lambda: pool.status().ready == 1 and pool.status().ready_reason is ReadyReason.FLOOR)
        assert pool.session().execute("6 * 7").result == "42"


def burst(pool: SessionPool, count: int) -> list[PoolStatus]:
    """Run sessions at the same time until they end; return what the pool reported meanwhile."""
    seen: list[PoolStatus] = []

    def visit(_number: int) -> None:
        with pool.session() as session:
            seen.append(pool.status())
            assert session.execute("1 + 1").result == "2"
            seen.append(pool.status())

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(visit, range(count)))
    return seen
