"""What a server reports of its sessions' usage: each session once, to those who manage it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.served import client_of

from greenroom.azure.codecs.shared import Json
from greenroom.errors import GreenroomError
from greenroom.local import PoolSettings
from greenroom.local.metering import PresentUsage
from greenroom.local.pool import LocalPool
from greenroom.models import SessionUsage, UsageSource
from greenroom.server.access.keys import ApiKeys, ManagementGuard, digest
from greenroom.server.app import Application, Management
from greenroom.server.control.choices import Engines
from greenroom.server.control.plane import ControlPlane
from greenroom.server.registry import PoolRegistry
from greenroom.server.reporting import added_up, usage_report
from greenroom.server.settings import ServerSettings
from greenroom.server.state.file import IN_MEMORY, StateFile
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.server.state.pools import PoolTable
from greenroom.server.state.queries import UsageQuery
from greenroom.telemetry import EndCause, SandboxEnded, SandboxRemoved, ignore
from greenroom.testing.memory_engine import MemoryEngine
from greenroom.wire.usage import POOLS_PATH, USAGE_PATH, GroupBy, Overview, UsageReport
from greenroom.wire.values import decode

GROUPS = UsageSource.CONTROL_GROUPS
USER, MANAGER = "a key that is for sessions", "a key that manages pools"
USAGE = SessionUsage(10.0, 2, 3, 4, GROUPS, 0.5, 100.0, 7, 1, 0.0)


@contextlib.asynccontextmanager
async def store() -> AsyncGenerator[LogStore, None]:
    logs = LogStore(IN_MEMORY, LogLimits())
    try:
        yield logs
    finally:
        await logs.close()


@contextlib.asynccontextmanager
async def served(logs: LogStore | None, *names: str, **options: Any) -> AsyncGenerator[PoolRegistry, None]:
    """Pools in memory, whose ends of sessions are stored."""
    pools = PoolRegistry()
    settings = PoolSettings.parse({"preload": (), "ready_session_instances": 0, **options})
    for name in names or ("default",):
        observer = logs.observer_of(name) if logs is not None else ignore
        pools.add(name, await LocalPool.open(MemoryEngine(), settings, observer, name))
    try:
        yield pools
    finally:
        await pools.close()


# Sums

SESSIONS = st.builds(
    SessionUsage,
    wall=st.floats(0, 1e6),
    executions=st.integers(0, 100),
    uploaded=st.integers(0, 1 << 40),
    source=st.just(GROUPS),
    cpu=st.floats(0, 1e5),
    memory_time=st.floats(0, 1e15),
    peak_memory=st.integers(0, 1 << 40),
    session_hours=st.integers(1, 100),
)
NAMES = st.sampled_from(["one", "two", "three"])


@given(
    st.lists(st.tuples(NAMES, NAMES, SESSIONS), max_size=8),
    st.lists(st.tuples(NAMES, st.none() | NAMES, SESSIONS), max_size=8),
    st.sampled_from(GroupBy),
)
def test_rows_add_up_to_the_total(
    ended: list[tuple[str, str, SessionUsage]], present: list[tuple[str, str | None, SessionUsage]], by: GroupBy
) -> None:
    moment = time.time()

    async def report() -> UsageReport:
        async with store() as logs:
            for pool, identifier, usage in ended:
                observe = logs.observer_of(pool)
                observe(SandboxEnded(EndCause.DELETED, identifier, 1.0))
                observe(SandboxRemoved(EndCause.DELETED, identifier, usage))
            sums, totals = await logs.usage(UsageQuery(), (by.value,)), await logs.usage(UsageQuery())
        still = [(pool, PresentUsage(identifier, usage, 5, 0)) for pool, identifier, usage in present]
        return added_up(sums, totals, still, by, time.strftime("%Y-%m-%d", time.gmtime(moment)))

    found = asyncio.run(report())
    counted = [usage for _, _, usage in ended] + [usage for _, name, usage in present if name is not None]
    for name in ("wall", "executions", "uploaded", "cpu", "memory_time", "session_hours"):
        total = sum(getattr(usage, name) for usage in counted)
        assert getattr(found.total, name) == pytest.approx(total)
        assert sum(getattr(row, name) for row in found.rows) == pytest.approx(total)
    assert (found.total.sessions, found.omitted) == (len(counted), 0)
    assert sum(row.sessions for row in found.rows) == len(counted)
    assert sum(row.present for row in found.rows) == sum(name is not None for _, name, _ in present)
    assert found.total.peak_memory == max((usage.peak_memory or 0 for usage in counted), default=0)
    spare = sum(usage.cpu or 0 for _, name, usage in present if name is None)
    assert found.spare_cpu == pytest.approx(spare)
    assert len({row.name for row in found.rows}) == len(found.rows)


def test_a_report_has_a_bounded_number_of_rows_and_a_whole_total() -> None:
    present = [("p", PresentUsage(f"session-{number}", USAGE, None, 0)) for number in range(10_005)]
    report = added_up((), (), present, GroupBy.IDENTIFIER, "2026-11-27")
    assert (len(report.rows), report.omitted, report.total.sessions) == (10_000, 5, 10_005)


async def test_sessions_that_end_during_a_report_are_counted_once() -> None:
    """Whenever it is asked for, it has as many sessions and executions as there have been."""
    async with store() as logs, served(logs, max_concurrent_sessions=4) as pools:
        (pool,) = pools
        ran = 0

        async def work(number: int) -> None:
            nonlocal ran
            for _ in range(15):
                await pool.backend.execute(f"user-{number}", "1", timeout=10, on_event=None)
                ran += 1
                await pool.backend.delete(f"user-{number}")

        working = [asyncio.create_task(work(number)) for number in range(4)]
        asked = 0
        while not all(task.done() for task in working):
            before = ran
            report = await usage_report(pools, logs, GroupBy.IDENTIFIER)
            status = await pool.backend.status()
            assert before <= report.total.executions <= ran
            assert report.total.sessions <= status.allocations_cold + status.allocations_warm
            assert report.total.sessions == sum(row.sessions for row in report.rows)
            asked += 1
            await asyncio.sleep(0)
        await asyncio.gather(*working)
        assert asked > 1
        report = await usage_report(pools, logs, GroupBy.POOL)
        assert (report.total.sessions, report.total.executions, report.total.present) == (60, 60, 0)


async def test_a_report_is_of_one_pool_or_of_a_time() -> None:
    async with store() as logs, served(logs, "one", "two") as pools:
        for pool in pools:
            for number in range(2):
                await pool.backend.execute(f"user-{number}", "1", timeout=10, on_event=None)
            await pool.backend.delete("user-0")
        everything = await usage_report(pools, logs, GroupBy.POOL)
        assert [(row.name, row.sessions, row.present) for row in everything.rows] == [("one", 2, 1), ("two", 2, 1)]
        by_name = await usage_report(pools, logs, GroupBy.IDENTIFIER, pool="two")
        assert sorted((row.name, row.sessions) for row in by_name.rows) == [("user-0", 1), ("user-1", 1)]
        later = await usage_report(pools, logs, GroupBy.IDENTIFIER, since=time.time() + 60)
        assert [(row.name, row.present) for row in later.rows] == [("user-1", 2)]
        (today,) = (await usage_report(pools, logs, GroupBy.DAY)).rows
        assert (today.sessions, len(today.name)) == (4, len("2026-11-27"))
        assert today.unmeasured == 4  # in memory, nobody measures
        alone = await usage_report(pools, None, GroupBy.POOL)
        assert alone.total.sessions == 2


# Over HTTP


async def ask(client: httpx.AsyncClient, path: str, key: str | None = None, **parameters: str) -> tuple[int, Json]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    response = await client.get(path, params=parameters, headers=headers)
    return response.status_code, response.json()


@pytest.mark.parametrize("path", [USAGE_PATH, POOLS_PATH, f"{POOLS_PATH}/", "/greenroom/1/%70ools"])
async def test_only_managers_see_all_pools(path: str) -> None:
    user = ApiKeys({"user": digest(USER)})
    guard = ManagementGuard(ApiKeys({"manager": digest(MANAGER)}), user)
    async with served(None) as pools:
        table = PoolTable(await StateFile.open(IN_MEMORY))
        plane = await ControlPlane.open(pools, table, Engines("memory:"))
        try:
            app = Application(pools, ServerSettings.parse({}), user, management=Management(plane, guard))
            async with client_of(app) as client:
                statuses = [(await ask(client, path, key))[0] for key in (None, USER, MANAGER)]
        finally:
            await plane.close()
    assert statuses == [401, 403, 200]


async def test_the_routes_return_the_requested_data() -> None:
    async with store() as logs, served(logs, "one") as pools:
        (pool,) = pools
        await pool.backend.execute("user-[bold]1", "1", timeout=10, on_event=None)
        async with client_of(Application(pools, ServerSettings.parse({}), None, log_store=logs)) as client:
            status, body = await ask(client, USAGE_PATH, by="identifier", since="2026-01-01T00:00:00Z")
            assert status == 200
            report = decode(UsageReport, body)
            assert [(row.name, row.session_hours) for row in report.rows] == [("user-[bold]1", 1)]
            status, body = await ask(client, POOLS_PATH)
            seen = decode(Overview, body)
            assert [(each.name, each.status and each.status.idle) for each in seen.pools] == [("one", 1)]
            assert [each.identifier for each in seen.sessions] == ["user-[bold]1"]
            for parameters in ({"by": "code"}, {"since": "yesterday"}, {"until": "1"}):
                status, body = await ask(client, USAGE_PATH, **parameters)
                assert (status, next(iter(parameters)) in body["error"]["message"]) == (400, True)
            assert (await ask(client, POOLS_PATH, pool="one"))[0] == 400
            refused = await client.get(POOLS_PATH, headers={"Origin": "https://elsewhere.example"})
            assert refused.status_code == 403


async def test_a_pool_that_does_not_respond_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise GreenroomError("it does not")

    async with served(None, "one", "two") as pools:
        one, _ = pools
        monkeypatch.setattr(one.backend, "status", fail)
        async with client_of(Application(pools, ServerSettings.parse({}), None)) as client:
            seen = decode(Overview, (await ask(client, POOLS_PATH))[1])
    assert [each.status is None for each in seen.pools] == [True, False]


async def test_a_store_that_cannot_be_read_is_an_error_for_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with store() as logs, served(logs) as pools:
        monkeypatch.setattr(LogStore, "usage", fail)
        async with client_of(Application(pools, ServerSettings.parse({}), None, log_store=logs)) as client:
            status, body = await ask(client, USAGE_PATH)
    assert (status, "disk I/O error" in body["error"]["message"]) == (503, True)
