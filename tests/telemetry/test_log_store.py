"""The logs and the usage that a server keeps: sums, bounds, and what a disk that fails does to them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples
from tests.server.served import eventually

from greenroom.models import SessionUsage, UsageSource
from greenroom.server.state.file import IN_MEMORY, StateFile
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.server.state.migrations import APPLICATION, MIGRATIONS
from greenroom.server.state.queries import LogPage, LogQuery, UsagePage, UsageQuery
from greenroom.telemetry import (
    AllocationRefusal,
    AllocationRefused,
    ConsoleWritten,
    Direction,
    EndCause,
    EngineLost,
    ExecutionEnded,
    Outcome,
    RecordsDropped,
    SandboxEnded,
    SandboxRemoved,
    SandboxStarted,
    SessionAllocated,
    TelemetryEvent,
    TransferEnded,
)
from greenroom.telemetry.records import LogLevel, LogOperation, LogTable, clean

USAGE = SessionUsage(
    wall=2.0,
    executions=3,
    uploaded=10,
    downloaded=20,
    source=UsageSource.CONTROL_GROUPS,
    cpu=0.25,
    memory_time=100.0,
    peak_memory=7,
)


@contextlib.asynccontextmanager
async def store_at(path: Path, limits: LogLimits | None = None) -> AsyncGenerator[LogStore, None]:
    if path != IN_MEMORY:
        await (await StateFile.open(path)).close()
    store = LogStore(path, limits or LogLimits())
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "state.db" if request.param == "file" else IN_MEMORY


def life(store: LogStore, pool: str, identifier: str, usage: SessionUsage = USAGE) -> None:
    observe = store.observer_of(pool)
    observe(SessionAllocated(identifier, 0.1, warm=True))
    observe(ExecutionEnded(identifier, "failed", 0.5, output=4, error="KeyError"))
    observe(TransferEnded(identifier, Direction.UPLOAD, 10, Outcome.SUCCEEDED, 0.1))
    observe(SandboxEnded(EndCause.COOLED_DOWN, identifier, 3.0))
    observe(SandboxRemoved(EndCause.COOLED_DOWN, identifier, usage))


async def test_records_are_in_the_order_of_events(path: Path) -> None:
    async with store_at(path) as store:
        life(store, "ci", "session-1")
        records = (await store.records(LogQuery())).records
    assert [(each.table, each.operation, each.level, each.reason) for each in records] == [
        (LogTable.LIFECYCLE, LogOperation.SESSION_ALLOCATED, LogLevel.INFORMATION, None),
        (LogTable.EXECUTIONS, LogOperation.EXECUTION_ENDED, LogLevel.INFORMATION, "KeyError"),
        (LogTable.EXECUTIONS, LogOperation.FILE_UPLOADED, LogLevel.INFORMATION, None),
        (LogTable.LIFECYCLE, LogOperation.SESSION_ENDED, LogLevel.INFORMATION, "cooled_down"),
    ]
    assert {(each.pool, each.identifier) for each in records} == {("ci", "session-1")}
    assert (records[1].status, records[1].duration, records[1].output) == ("failed", 0.5, 4)
    assert (records[2].status, records[2].size) == ("succeeded", 10)
    assert abs(records[0].time - time.time()) < 60


async def test_filters_choose_and_pages_join(path: Path) -> None:
    async with store_at(path) as store:
        for number in range(5):
            life(store, "ci" if number % 2 else "other", f"session-{number}")
        store.observer_of("ci")(EngineLost())
        store.observer_of("ci")(AllocationRefused("session-9", AllocationRefusal.POOL_FULL, 3))

        async def count(**query: Any) -> int:
            return len((await store.records(LogQuery(**query))).records)

        everything = await store.records(LogQuery())
        assert len(everything.records) == 22
        assert everything.complete
        assert await count(pool="ci") == 10
        assert await count(identifier="session-3") == 4
        assert await count(operations=[LogOperation.SESSION_ENDED, LogOperation.ENGINE_LOST]) == 6
        assert await count(level=LogLevel.WARNING) == 2
        assert await count(level=LogLevel.ERROR) == 1
        assert await count(tables=[LogTable.POOL_EVENTS]) == 1
        assert await count(since=time.time() + 60) == 0
        assert await count(until=time.time() - 60) == 0
        found, after = list[object](), 0
        while True:
            page = await store.records(LogQuery(after=after, limit=4))
            found += page.records
            after = page.last
            if page.complete:
                break
        assert found == everything.records


async def test_usage_is_one_row_for_each_ended_session_and_adds_up(path: Path) -> None:
    async with store_at(path) as store:
        for number in range(10):
            life(store, "ci" if number < 6 else "other", f"session-{number % 3}")
        life(store, "other", "unknown", SessionUsage(wall=1.0))
        store.observer_of("ci")(SandboxRemoved(EndCause.SURPLUS, None, replace(USAGE, wall=0, executions=0)))
        (total,) = await store.usage(UsageQuery())
        by_pool = await store.usage(UsageQuery(), ["pool"])
        by_both = await store.usage(UsageQuery(identifier="session-0"), ["pool", "identifier"])
        page = await store.sessions(UsageQuery(pool="other"), limit=3)
        rest = await store.sessions(UsageQuery(pool="other"), after=page.last, limit=3)
        assert await store.usage(UsageQuery(pool="nobody's")) == []
    assert (total.sessions, total.wall, total.executions, total.uploaded) == (11, 21.0, 30, 100)
    assert (total.cpu, total.memory_time, total.peak_memory, total.unmeasured) == (2.5, 1000.0, 7, 1)
    assert (total.spare_cpu, total.spare_memory_time) == (0.25, 100.0)
    assert set(total.sources) == {UsageSource.CONTROL_GROUPS, UsageSource.NONE}
    assert [(each.pool, each.sessions, each.cpu) for each in by_pool] == [("ci", 6, 1.5), ("other", 5, 1.0)]
    assert [(each.pool, each.identifier, each.sessions) for each in by_both] == [
        ("ci", "session-0", 2), ("other", "session-0", 2),
    ]  # fmt: skip
    assert not page.complete
    assert [each.identifier for each in (*page.sessions, *rest.sessions)] == [
        "session-0", "session-1", "session-2", "session-0", "unknown",
    ]  # fmt: skip
    assert page.sessions[0].usage == USAGE
    assert page.sessions[0].ended - page.sessions[0].began == pytest.approx(2.0)


async def test_written_records_exist_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with store_at(path) as store:
        life(store, "ci", "session-1")
    async with store_at(path) as store:
        life(store, "ci", "session-2")
        assert [each.identifier for each in (await store.sessions(UsageQuery())).sessions] == ["session-1", "session-2"]


async def test_logs_are_bounded_by_size_each_for_itself(path: Path) -> None:
    async with store_at(path, LogLimits(size=100_000)) as store:
        life(store, "ci", "the-first")
        observe = store.observer_of("ci")
        for number in range(4000):
            observe(ExecutionEnded(f"session-{number}", "succeeded", 0.1))
            observe(SandboxRemoved(EndCause.DELETED, f"session-{number}", USAGE))
        executions = await store.records(LogQuery(tables=[LogTable.EXECUTIONS], limit=10_000))
        others = await store.records(LogQuery(tables=[LogTable.LIFECYCLE]))
        sessions = await store.sessions(UsageQuery(), limit=10_000)
    assert 300 < len(executions.records) < 1000
    assert 300 < len(sessions.sessions) < 1000
    assert sessions.sessions[-1].identifier == "session-3999"
    assert executions.records[-1].identifier == "session-3999"
    assert [each.identifier for each in others.records] == ["the-first"] * 2


async def test_logs_are_bounded_by_age(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with store_at(path) as store:
        life(store, "ci", "old")
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE records SET time = time - 100")
        database.execute("UPDATE usage SET ended = ended - 100")
    async with store_at(path, LogLimits(age=50)) as store:
        life(store, "ci", "new")
        assert {each.identifier for each in (await store.records(LogQuery())).records} == {"new"}
        assert [each.identifier for each in (await store.sessions(UsageQuery())).sessions] == ["new"]


async def test_a_locked_file_causes_no_delay_and_writing_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.db"
    events: list[TelemetryEvent] = []
    async with store_at(path) as store:
        store.observer = events.append
        life(store, "ci", "before")
        await store.records(LogQuery())
        observe = store.observer_of("ci")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            observe(SandboxStarted(0.5))
            await eventually(lambda: "cannot be written" in caplog.text)
            began = time.monotonic()
            for _ in range(12_000):
                observe(SandboxStarted(0.1))
            assert time.monotonic() - began < 30, "12,000 puts wait for nothing"
            assert len((await store.records(LogQuery())).records) == 4, "it can be read meanwhile"
            await eventually(lambda: any(isinstance(event, RecordsDropped) for event in events))
            other.execute("ROLLBACK")
        await eventually(lambda: "are being written again" in caplog.text)
        told = (await store.records(LogQuery(operations=[LogOperation.RECORDS_DROPPED]))).records
        kept = (await store.records(LogQuery(operations=[LogOperation.SANDBOX_STARTED], limit=20_000))).records
        await asyncio.sleep(0)
    counted = sum(event.count for event in events if isinstance(event, RecordsDropped))
    assert counted == store.dropped == 12_001 - len(kept) > 0
    assert [each.log for each in told] == [f"{counted} records could not be written and are missing."]


async def test_a_full_disk_drops_records_until_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def limited(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connections.append(connection)
        return connection

    path = tmp_path / "state.db"
    async with store_at(path) as store:
        monkeypatch.setattr("greenroom.server.state.logs.sqlite3.connect", limited)
        life(store, "ci", "before")
        await store.records(LogQuery())
        writer = connections[0]
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(1000):
            life(store, "ci", f"session-{number}")
        await eventually(lambda: "database or disk is full" in caplog.text)
        assert (await store.records(LogQuery())).records
        writer.execute("PRAGMA max_page_count = 1000000")
        await eventually(lambda: "are being written again" in caplog.text)
        assert (await store.sessions(UsageQuery(identifier="session-999"))).sessions
        assert store.dropped == 0, "the queue kept them all"


@given(
    pool=st.text(max_size=400), identifier=st.text(max_size=400), text=st.text(st.characters(exclude_characters="\n"))
)
@settings(max_examples=examples(60))
def test_hostile_names_stay_text(pool: str, identifier: str, text: str) -> None:
    async def stored() -> tuple[LogPage, UsagePage]:
        async with store_at(IN_MEMORY) as store:
            life(store, pool, identifier)
            store.observer_of(pool)(ConsoleWritten(identifier, "stdout", text))
            query = LogQuery(pool=clean(pool), identifier=clean(identifier))
            return await store.records(query), await store.sessions(UsageQuery(identifier=clean(identifier)))

    records, sessions = asyncio.run(stored())
    assert {(each.pool, each.identifier) for each in records.records} == {(clean(pool), clean(identifier))}
    assert len(records.records) == 5
    assert records.records[-1].log == text.encode("utf-8", "backslashreplace").decode()
    assert [(each.pool, each.identifier) for each in sessions.sessions] == [(clean(pool), clean(identifier))]
    if len(pool) <= 300 and pool.isascii():
        assert records.records[0].pool == pool


async def test_a_state_from_the_first_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript(MIGRATIONS[0])
        database.execute("INSERT INTO deleted VALUES ('gone', 1)")
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute("PRAGMA user_version = 1")
    async with store_at(path) as store:
        life(store, "ci", "session-1")
        assert len((await store.records(LogQuery())).records) == 4
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM deleted").fetchall() == [("gone",)]
        assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
