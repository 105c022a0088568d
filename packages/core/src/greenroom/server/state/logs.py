"""The logs and the usage of ended sessions: written by one thread, read by another. They are in the state file or, if
the server keeps its state in memory, in a database in memory. Failures do not affect pools: on a full disk, records are
dropped and counted until they can be written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from greenroom.server.state.file import IN_MEMORY
from greenroom.server.state.migrations import MIGRATIONS
from greenroom.server.state.queries import (
    INSERT_RECORD,
    INSERT_USAGE,
    LogPage,
    LogQuery,
    UsagePage,
    UsageQuery,
    UsageSum,
    record_row,
    select_records,
    select_usage,
    sum_usage,
    usage_row,
)
from greenroom.telemetry import Observer, RecordsDropped, ignore
from greenroom.telemetry.records import EndedSession, Item, LogRecord, LogTable, record_of, recorder
from greenroom.telemetry.writer import Writer

T = TypeVar("T")

_LOCKED_TIMEOUT = 1.0
"""Seconds for which the writer waits for other writers, such as the control plane."""
_FLUSH_TIMEOUT = 2.0
_CONSOLE = LogTable.CONSOLE
_TRIM_INTERVAL = 60.0
"""Seconds between two searches for expired rows."""
_TRIMMED_TOGETHER = 5000
_KEPT = 0.9
"""The share of the limit to which an oversized log is trimmed."""
_USAGE = "usage"
_UNSUITABLE = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of each log and of the usage is kept."""

    age: float = 30 * 86400.0
    """Seconds."""
    size: int = 32 << 20
    """Bytes, about."""


class LogStore:
    """Writes log records of pools, and answers queries. Created on the event loop that uses it."""

    def __init__(self, path: Path, limits: LogLimits, observer: Observer = ignore) -> None:
        """
        Args:
            path: a state file with the current schema, or `IN_MEMORY`.
            limits: how much is kept.
            observer: called on this event loop when records were dropped.
        """
        self.observer = observer
        self._path = path
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader = ThreadPoolExecutor(1, "greenroom-log-reader")
        self._writing: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None
        self._memory_lock = threading.RLock()
        """Held while the one connection of a database in memory is used."""
        self._weights: dict[str, int] = {}
        """The sizes of the logs and the usage; empty until they are read."""
        self._trimmed = 0.0
        self._noted = 0
        """How many dropped records have been reported in the log."""
        self._writer = Writer[Item](
            self._write, "greenroom-log", passing=(sqlite3.DatabaseError, OSError), on_dropped=self._dropped
        )

    @property
    def dropped(self) -> int:
        """How many records could not be written."""
        return self._writer.dropped

    def observer_of(self, pool: str) -> Observer:
        """Return the consumer of a pool's events, by its name in metrics and traces."""
        return recorder(self._put, pool)

    async def records(self, query: LogQuery) -> LogPage:
        """Return records in the order in which they were written, including the most recent ones.

        Raises:
            sqlite3.Error: they cannot be read.
        """
        return await self._read(lambda database: select_records(database, query))

    async def sessions(self, query: UsageQuery, after: int = 0, limit: int = 1000) -> UsagePage:
        """Return the usage of each ended session, in the order of their ends. Raises as `records`."""
        return await self._read(lambda database: select_usage(database, query, after, limit))

    async def usage(self, query: UsageQuery, by: Sequence[str] = ()) -> list[UsageSum]:
        """Return the usage of ended sessions, added up.

        Args:
            query: selects the sessions.
            by: columns to group by, of `pool`, `identifier` and `day`; without any, there is one sum.

        Raises:
            sqlite3.Error: they cannot be read.
        """
        return await self._read(lambda database: sum_usage(database, query, by))

    async def close(self) -> None:
        """Write the waiting records as far as possible, and close the database. Idempotent."""
        await asyncio.to_thread(self._close)

    def _put(self, item: Item) -> None:
        self._writer.put(item, minor=isinstance(item, LogRecord) and item.table is _CONSOLE)

    # In the thread of the writer

    def _write(self, items: Sequence[Item]) -> None:
        database = self._open_to_write()
        now = time.time()
        noted = self._writer.dropped
        try:
            with self._lock(), _transaction(database):
                for item in items:
                    self._insert(database, item)
                if noted > self._noted:
                    told = record_of(RecordsDropped(noted - self._noted), "", now)
                    assert told is not None  # noqa: S101  it has one
                    self._insert(database, told)
                self._trim(database, now)
        except BaseException as error:
            self._weights.clear()  # read again later
            if isinstance(error, _UNSUITABLE):  # trying again would not help
                raise ValueError(f"a record cannot be stored: {error}") from error
            raise
        self._noted = noted

    def _insert(self, database: sqlite3.Connection, item: Item) -> None:
        match item:
            case LogRecord():
                row, log = record_row(item), item.table.value
                database.execute(INSERT_RECORD, row)
            case EndedSession():
                row, log = usage_row(item), _USAGE
                database.execute(INSERT_USAGE, row)
        self._weights[log] = self._weights.get(log, 0) + int(row[-1])

    def _open_to_write(self) -> sqlite3.Connection:
        if self._writing is None:
            database = _connect(self._path)
            try:
                if self._path == IN_MEMORY:
                    for statements in MIGRATIONS:
                        database.executescript(statements)
                # A power loss can cost the last records, but with a write-ahead log the file stays intact.
                database.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                database.close()
                raise
            self._writing = database
        if not self._weights:
            with self._lock():
                self._weights = dict(self._writing.execute("SELECT log, sum(weight) FROM records GROUP BY log"))
                (self._weights[_USAGE],) = self._writing.execute("SELECT total(weight) FROM usage").fetchone()
        return self._writing

    def _trim(self, database: sqlite3.Connection, now: float) -> None:
        """Delete expired and excess rows."""
        if now - self._trimmed > _TRIM_INTERVAL or now < self._trimmed:
            self._trimmed = now
            for log in list(self._weights):
                self._delete(database, log, "time < ?" if log != _USAGE else "ended < ?", now - self._limits.age)
        for log, weight in list(self._weights.items()):
            surplus = weight - self._limits.size
            if surplus > 0:
                self._delete_oldest(database, log, weight - int(self._limits.size * _KEPT))

    def _delete_oldest(self, database: sqlite3.Connection, log: str, surplus: int) -> None:
        where, arguments = ("WHERE log = ?", (log,)) if log != _USAGE else ("", ())
        rows = database.execute(
            f"SELECT id, weight FROM {_table(log)} {where} ORDER BY id LIMIT {_TRIMMED_TOGETHER}",  # noqa: S608
            arguments,
        )
        last = 0
        for number, weight in rows:
            last, surplus = number, surplus - weight
            if surplus <= 0:
                break
        rows.close()
        self._delete(database, log, "id <= ?", last)

    def _delete(self, database: sqlite3.Connection, log: str, condition: str, value: float) -> None:
        where, arguments = (f"log = ? AND {condition}", (log, value)) if log != _USAGE else (condition, (value,))
        table = _table(log)
        found = database.execute(f"SELECT coalesce(sum(weight), 0) FROM {table} WHERE {where}", arguments).fetchone()  # noqa: S608
        if found[0]:
            database.execute(f"DELETE FROM {table} WHERE {where}", arguments)  # noqa: S608
            self._weights[log] -= found[0]

    def _dropped(self, count: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(lambda: self.observer(RecordsDropped(count)))

    # In the thread of the reader

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def read() -> T:
            self._writer.flush(_FLUSH_TIMEOUT)
            with self._lock():
                return query(self._open_to_read())

        return await asyncio.shield(self._loop.run_in_executor(self._reader, read))

    def _open_to_read(self) -> sqlite3.Connection:
        if self._path == IN_MEMORY:
            return self._open_to_write()
        if self._reading is None:
            self._reading = _connect(self._path)
            self._reading.execute("PRAGMA query_only = ON")
        return self._reading

    def _lock(self) -> contextlib.AbstractContextManager[object]:
        return self._memory_lock if self._path == IN_MEMORY else contextlib.nullcontext()

    def _close(self) -> None:
        self._writer.close()
        self._reader.shutdown()
        for database in (self._writing, self._reading):
            if database is not None:
                with contextlib.suppress(sqlite3.Error):  # the disk is full
                    database.close()
        self._writing = self._reading = None


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_LOCKED_TIMEOUT, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Generator[None, None, None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _table(log: str) -> str:
    return _USAGE if log == _USAGE else "records"
