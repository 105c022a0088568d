"""Queries of the log and usage tables, and the rows that are written to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from greenroom.models import SessionUsage, UsageSource
from greenroom.telemetry import EndCause
from greenroom.telemetry.records import EndedSession, LogLevel, LogOperation, LogRecord, LogTable

_OF_A_ROW = 100
"""Bytes of a row in addition to its texts."""

_RECORD = "time, log, pool, operation, level, text, identifier, status, reason, duration, output, size"
_ENDED = (
    "pool, identifier, cause, began, ended, removed, wall, executions, uploaded, downloaded, source, cpu, memory_time,"
    " peak_memory, session_hours, node_hours"
)
# For None, sqlite3 looks for an adapter each time, which takes longer than the column: so rows have '' and -1.
_GIVEN = "?, ?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, -1), nullif(?, -1), nullif(?, -1), ?"
INSERT_RECORD = f"INSERT INTO records ({_RECORD}, weight) VALUES ({_GIVEN})"  # noqa: S608
INSERT_USAGE = f"INSERT INTO usage ({_ENDED}, weight) VALUES ({', '.join('?' * 17)})"  # noqa: S608
_WORDS: dict[str, str] = {word: word.value for words in (LogTable, LogOperation, LogLevel) for word in words}
_CAUSES = {cause.label: cause for cause in EndCause}
_GROUPS = {"pool": "pool", "identifier": "identifier", "day": "date(ended, 'unixepoch')"}
"""The columns by which usage can be grouped, as SQL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Selects records. Times are seconds since 1970; empty fields and `None` exclude nothing."""

    tables: Sequence[LogTable] = ()
    pool: str | None = None
    identifier: str | None = None
    operations: Sequence[LogOperation] = ()
    level: LogLevel = LogLevel.INFORMATION
    """The lowest level."""
    since: float | None = None
    until: float | None = None
    """Exclusive."""
    after: int = 0
    """The number of the last record that the caller has received."""
    before: int | None = None
    """The number of a record: the page ends before it. Without it, the page starts after `after`."""
    limit: int = 500


@dataclass(frozen=True, slots=True)
class LogPage:
    """Records, the earliest first."""

    records: list[LogRecord]
    last: int
    """The number of the last record, after which the next page starts."""
    complete: bool
    """Whether there are no more at the moment."""
    first: int = 0
    """The number of the first record, before which the previous page ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Selects ended sessions by the time of their end."""

    pool: str | None = None
    identifier: str | None = None
    since: float | None = None
    until: float | None = None
    """Exclusive."""
    removed_until: float | None = None
    """By the time at which their sandboxes were removed; inclusive."""


@dataclass(frozen=True, slots=True)
class UsagePage:
    """The usage of sessions and unused sandboxes, in the order of their end."""

    sessions: list[EndedSession]
    last: int
    complete: bool


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The sum of the usage of ended sessions; units as in `greenroom.SessionUsage`."""

    pool: str | None
    """`None` if it was not grouped by."""
    identifier: str | None
    day: str | None
    """The day of their ends in UTC, such as 2026-11-27."""
    sessions: int
    began: float
    """When the first of them started, in seconds since 1970."""
    ended: float
    """When the last of them ended."""
    wall: float
    executions: int
    uploaded: int
    downloaded: int
    cpu: float
    memory_time: float
    peak_memory: int
    """The highest value of a single session."""
    sources: tuple[UsageSource, ...]
    """The source of `cpu` and memory."""
    unmeasured: int
    """The number of sessions for which they are unknown."""
    spare_cpu: float
    """The usage of sandboxes that served no session; not grouped by identifier."""
    spare_memory_time: float
    session_hours: int
    node_hours: float


def record_row(record: LogRecord) -> Sequence[Any]:
    """Return the row of a record, its weight last."""
    when, table, pool, operation, level, log, identifier, status, reason, duration, output, size = record
    return (
        when, _WORDS[table], pool, _WORDS[operation], _WORDS[level], log, identifier, status or "", reason or "",
        -1 if duration is None else duration, -1 if output is None else output, -1 if size is None else size,
        _OF_A_ROW + len(log) + len(pool) + len(identifier or ""),
    )  # fmt: skip


def usage_row(ended: EndedSession) -> Sequence[Any]:
    """Return the row of an ended session, its weight last."""
    usage = ended.usage
    weight = _OF_A_ROW + len(ended.pool) + len(ended.identifier or "")
    return (
        ended.pool, ended.identifier, ended.cause.label, ended.began, ended.ended, ended.removed, usage.wall,
        usage.executions, usage.uploaded, usage.downloaded, usage.source.value, usage.cpu, usage.memory_time,
        usage.peak_memory, usage.session_hours, usage.node_hours, weight,
    )  # fmt: skip


def select_records(database: sqlite3.Connection, query: LogQuery) -> LogPage:
    """Return one page of records."""
    levels = list(LogLevel)
    conditions = _Conditions()
    conditions.add("id > ?", query.after)
    conditions.add_one_of("log", [each.value for each in query.tables])
    conditions.add_one_of("operation", [each.value for each in query.operations])
    if query.level is not levels[0]:
        conditions.add_one_of("level", [each.value for each in levels[levels.index(query.level) :]])
    conditions.add_pool(query.pool)
    conditions.add_equal("identifier", query.identifier)
    conditions.add_times("time", query.since, query.until)
    order = "id"
    if query.before is not None:
        conditions.add("id < ?", query.before)
        order = "id DESC"
    rows = database.execute(
        f"SELECT id, {_RECORD} FROM records WHERE {conditions.text} ORDER BY {order} LIMIT ?",  # noqa: S608
        (*conditions.values, query.limit + 1),
    ).fetchall()
    page = sorted(rows[: query.limit])
    return LogPage(
        [
            LogRecord(when, LogTable(table), pool, LogOperation(operation), LogLevel(level), *others)
            for _, when, table, pool, operation, level, *others in page
        ],
        page[-1][0] if page else query.after,
        len(rows) <= query.limit,
        page[0][0] if page else 0,
    )


def select_usage(database: sqlite3.Connection, query: UsageQuery, after: int, limit: int) -> UsagePage:
    """Return one page of the usage of ended sessions."""
    conditions = _of_usage(query)
    conditions.add("id > ?", after)
    rows = database.execute(
        f"SELECT id, {_ENDED} FROM usage WHERE {conditions.text} ORDER BY id LIMIT ?",  # noqa: S608
        (*conditions.values, limit + 1),
    ).fetchall()
    page = rows[:limit]
    return UsagePage(
        [
            EndedSession(
                pool,
                identifier,
                _CAUSES[cause],
                began,
                ended,
                removed,
                SessionUsage(wall, executions, up, down, UsageSource(source), *measured),
            )
            for _, pool, identifier, cause, began, ended, removed, wall, executions, up, down, source, *measured in page
        ],
        page[-1][0] if page else after,
        len(rows) <= limit,
    )


def sum_usage(database: sqlite3.Connection, query: UsageQuery, by: Sequence[str]) -> list[UsageSum]:
    """Return sums of the usage of ended sessions, in the order of what they are grouped by."""
    groups = [expression for name, expression in _GROUPS.items() if name in by]
    conditions = _of_usage(query)
    if "identifier" in groups:
        conditions.add("identifier IS NOT NULL")
    chosen = ", ".join(expression if name in by else "NULL" for name, expression in _GROUPS.items())
    own = "CASE WHEN identifier IS NOT NULL THEN {} END"

    def total(column: str) -> str:
        return f"coalesce(sum({own.format(column)}), 0)"

    sums = [
        "count(identifier)",
        f"coalesce(min({own.format('began')}), min(began))",
        f"coalesce(max({own.format('ended')}), max(ended))",
        *(total(each) for each in ("wall", "executions", "uploaded", "downloaded")),
        *(f"coalesce(total({own.format(each)}), 0)" for each in ("cpu", "memory_time")),
        f"coalesce(max({own.format('peak_memory')}), 0)",
        f"coalesce(group_concat(DISTINCT {own.format('source')}), '')",
        f"count({own.format('nullif(source <> ' + repr(UsageSource.NONE.value) + ', 1)')})",
        *(f"total(CASE WHEN identifier IS NULL THEN {each} END)" for each in ("cpu", "memory_time")),
        total("session_hours"),
        f"coalesce(total({own.format('node_hours')}), 0)",
    ]
    grouping = f" GROUP BY {', '.join(groups)} ORDER BY {', '.join(groups)}" if groups else " HAVING count(*) > 0"
    rows = database.execute(
        f"SELECT {chosen}, {', '.join(sums)} FROM usage WHERE {conditions.text}{grouping}",  # noqa: S608
        conditions.values,
    )
    return [_sum_of(row) for row in rows]


def _sum_of(row: Sequence[Any]) -> UsageSum:
    values: dict[str, Any] = dict(zip((each.name for each in fields(UsageSum)), row, strict=True))
    sources: str = values["sources"]
    values["sources"] = tuple(UsageSource(each) for each in sorted(sources.split(",")) if each)
    return UsageSum(**values)


def _of_usage(query: UsageQuery) -> _Conditions:
    conditions = _Conditions()
    conditions.add_pool(query.pool)
    conditions.add_equal("identifier", query.identifier)
    conditions.add_times("ended", query.since, query.until)
    if query.removed_until is not None:
        conditions.add("removed <= ?", query.removed_until)
    return conditions


class _Conditions:
    """The conditions of a query; columns are constants, values are parameters."""

    def __init__(self) -> None:
        self._parts = ["1"]
        self.values: list[Any] = []

    @property
    def text(self) -> str:
        return " AND ".join(self._parts)

    def add(self, condition: str, *values: Any) -> None:
        self._parts.append(condition)
        self.values += values

    def add_equal(self, column: str, value: str | None) -> None:
        if value is not None:
            self.add(f"{column} = ?", value)

    def add_pool(self, name: str | None) -> None:
        """Select a pool by its name, case-insensitively, as in Azure."""
        if name is not None:
            self.add("pool = ? COLLATE NOCASE", name)

    def add_one_of(self, column: str, values: Sequence[str]) -> None:
        if values:
            self.add(f"{column} IN ({', '.join('?' * len(values))})", *values)

    def add_times(self, column: str, since: float | None, until: float | None) -> None:
        if since is not None:
            self.add(f"{column} >= ?", since)
        if until is not None:
            self.add(f"{column} < ?", until)
