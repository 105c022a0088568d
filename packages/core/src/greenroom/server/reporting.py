"""Reports over all pools of a server: the usage of ended and current sessions, and the current state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from greenroom.errors import GreenroomError
from greenroom.local.changing import ChangeablePool
from greenroom.local.metering import PresentUsage
from greenroom.models import UsageSource
from greenroom.server.registry import ServedPool
from greenroom.server.state.logs import LogStore
from greenroom.server.state.queries import UsageQuery, UsageSum
from greenroom.wire.usage import GroupBy, Overview, PoolState, PresentSession, UsageReport, UsageRow

MOST_ROWS = 10_000
MOST_SESSIONS = 200

Present = Sequence[tuple[str, PresentUsage]]
"""The usage of current sandboxes, with the names of their pools."""


async def usage_report(
    pools: Iterable[ServedPool],
    store: LogStore | None,
    by: GroupBy,
    *,
    pool: str | None = None,
    since: float | None = None,
) -> UsageReport:
    """Return the usage of sessions, counting each once.

    Args:
        pools: the server's pools.
        store: contains the ended sessions; `None` for a report of current sessions only.
        by: what each row sums up.
        pool: the metrics name of one pool; by default all pools.
        since: excludes sessions that ended earlier, in seconds since 1970.

    Raises:
        sqlite3.Error: the ended sessions cannot be read.
    """
    wanted = [each for each in pools if pool in {None, each.signal_name}]
    local = [(each.signal_name, each.backend) for each in wanted if isinstance(each.backend, ChangeablePool)]
    await asyncio.gather(*(backend.refresh_usage() for _, backend in local))
    # Sandboxes that end after this moment count as current; earlier ones do not.
    moment = time.time()
    present = [(name, each) for name, backend in local for each in backend.present_usage()]
    sums: list[UsageSum] = []
    totals: list[UsageSum] = []
    if store is not None:
        query = UsageQuery(pool=pool, since=since, removed_until=moment)
        sums = await store.usage(query, (by.value,))
        totals = await store.usage(query)
    today = datetime.fromtimestamp(moment, UTC).date().isoformat()
    report = await asyncio.to_thread(added_up, sums, totals, present, by, today)
    return report if store is None else replace(report, dropped=store.dropped)


def added_up(
    sums: Sequence[UsageSum], totals: Sequence[UsageSum], present: Present, by: GroupBy, today: str
) -> UsageReport:
    """Return the report.

    Args:
        sums: the sums of ended sessions, grouped.
        totals: the same in one sum, or empty.
        present: the usage of current sandboxes.
        by: the grouping of the sums.
        today: the day to which current sessions belong.
    """
    rows = {(name := str(getattr(each, by.value))): _of_ended(name, each) for each in sums}
    total = UsageRow()
    spare_cpu = spare_memory_time = 0.0
    for ended in totals:
        total = _of_ended("", ended)
        spare_cpu, spare_memory_time = ended.spare_cpu, ended.spare_memory_time
    for pool, each in present:
        if each.identifier is None:
            spare_cpu += each.usage.cpu or 0.0
            spare_memory_time += each.usage.memory_time or 0.0
            continue
        row = _of_present(each)
        name = {GroupBy.IDENTIFIER: each.identifier, GroupBy.POOL: pool, GroupBy.DAY: today}[by]
        rows[name] = _sum(rows.get(name, UsageRow(name)), row)
        total = _sum(total, row)
    largest = sorted(rows.values(), key=lambda row: row.name)
    if by is GroupBy.IDENTIFIER:
        largest.sort(key=lambda row: row.wall, reverse=True)
    shown = tuple(largest[:MOST_ROWS])
    return UsageReport(shown, total, len(largest) - len(shown), spare_cpu, spare_memory_time)


async def overview(pools: Iterable[ServedPool]) -> Overview:
    """Return the state of pools and the sessions that use the most."""
    states: list[PoolState] = []
    sessions: list[PresentSession] = []
    for pool in pools:
        state = PoolState(pool.signal_name, pool.backend.container_type)
        try:
            state = replace(state, status=await pool.backend.status())
            state = replace(state, usage=await pool.backend.pool_usage())
        except GreenroomError:  # it does not respond, or reports no usage
            pass
        states.append(state)
        if isinstance(pool.backend, ChangeablePool):
            sessions += [
                PresentSession(pool.signal_name, each.identifier, each.usage, each.memory, each.running)
                for each in pool.backend.present_usage()
                if each.identifier is not None
            ]
    sessions.sort(key=lambda each: (each.running > 0, each.usage.cpu or 0.0), reverse=True)
    return Overview(tuple(states), tuple(sessions[:MOST_SESSIONS]))


_ADDED: Mapping[str, None] = dict.fromkeys(
    (
        "sessions", "present", "wall", "executions", "uploaded", "downloaded", "cpu", "memory_time", "unmeasured",
        "session_hours", "node_hours",
    )
)  # fmt: skip


def _sum(one: UsageRow, other: UsageRow) -> UsageRow:
    return replace(
        one,
        **{name: getattr(one, name) + getattr(other, name) for name in _ADDED},
        peak_memory=max(one.peak_memory, other.peak_memory),
        sources=tuple(sorted({*one.sources, *other.sources})),
    )


def _of_ended(name: str, ended: UsageSum) -> UsageRow:
    same = {each: getattr(ended, each) for each in _ADDED if each != "present"}
    return UsageRow(name, **same, peak_memory=ended.peak_memory, sources=ended.sources)


def _of_present(present: PresentUsage) -> UsageRow:
    usage = present.usage
    return UsageRow(
        sessions=1,
        present=1,
        wall=usage.wall,
        executions=usage.executions,
        uploaded=usage.uploaded,
        downloaded=usage.downloaded,
        cpu=usage.cpu or 0.0,
        memory_time=usage.memory_time or 0.0,
        peak_memory=usage.peak_memory or 0,
        sources=(usage.source,),
        unmeasured=int(usage.source is UsageSource.NONE),
        session_hours=usage.session_hours,
        node_hours=usage.node_hours,
    )
