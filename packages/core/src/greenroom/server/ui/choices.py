"""The filters that a person chose for the log and the usage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar
from urllib.parse import unquote

from greenroom.server.state.queries import LogQuery, UsageQuery
from greenroom.telemetry.records import LogLevel, LogOperation, LogTable, clean

_WordT = TypeVar("_WordT", bound=StrEnum)

PAGE = 100
"""Records on one page."""
NEWEST = (1 << 63) - 1

WINDOWS: Mapping[str, tuple[str, float | None]] = {
    "15m": ("last 15 minutes", 900.0),
    "1h": ("last hour", 3600.0),
    "24h": ("last 24 hours", 86400.0),
    "7d": ("last 7 days", 7 * 86400.0),
    "all": ("all available", None),
}
"""Periods by their word in a link: label and seconds."""

TABLES: Mapping[str, tuple[str, tuple[LogTable, ...]]] = {
    "": ("all", (LogTable.LIFECYCLE, LogTable.POOL_EVENTS, LogTable.EXECUTIONS)),
    "sessions": ("session lifecycle", (LogTable.LIFECYCLE,)),
    "pools": ("pool events", (LogTable.POOL_EVENTS,)),
    "executions": ("executions and files", (LogTable.EXECUTIONS,)),
}
"""The logs, except the console log, which contains the output of containers."""


@dataclass(frozen=True, slots=True)
class LogChoice:
    """The filters of a log page. Unknown words, from an edited address, are ignored."""

    pool: str
    session: str
    log: str
    operation: LogOperation | None
    level: LogLevel
    window: str
    before: int | None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> LogChoice:
        before = query.get("before", "")
        return cls(
            unquote(query.get("pool", "")),
            unquote(query.get("session", "")),
            query.get("log", "") if query.get("log", "") in TABLES else "",
            _word(LogOperation, query.get("operation", "")),
            _word(LogLevel, query.get("level", "")) or LogLevel.INFORMATION,
            _window(query, "24h"),
            int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else None,
        )

    def to_query(self, now: float) -> LogQuery:
        """Return the query for the store: the last records before the previous page."""
        return LogQuery(
            tables=TABLES[self.log][1],
            pool=clean(self.pool) if self.pool else None,
            identifier=clean(self.session) if self.session else None,
            operations=() if self.operation is None else (self.operation,),
            level=self.level,
            since=_since(self.window, now),
            before=NEWEST if self.before is None else self.before,
            limit=PAGE,
        )


@dataclass(frozen=True, slots=True)
class UsageChoice:
    """The filters and the grouping of the usage page."""

    by: str
    window: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> UsageChoice:
        return cls("session" if query.get("by") == "session" else "pool", _window(query, "24h"))

    @property
    def groups(self) -> tuple[str, ...]:
        return ("pool",) if self.by == "pool" else ("pool", "identifier")

    def to_query(self, now: float) -> UsageQuery:
        return UsageQuery(since=_since(self.window, now))


def _window(query: Mapping[str, str], default: str) -> str:
    chosen = query.get("window", default)
    return chosen if chosen in WINDOWS else default


def _since(window: str, now: float) -> float | None:
    seconds = WINDOWS[window][1]
    return None if seconds is None else now - seconds


def _word(words: type[_WordT], text: str) -> _WordT | None:
    return next((word for word in words if word.value == text), None)
