"""Limits per user: the rate of requests, over all workers, and concurrent requests, per worker."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

_FORGET_EVERY = 1000
"""Requests after which full buckets are forgotten, as a new one is full."""


class TokenBuckets:
    """A bucket of tokens for each user, in a file that all workers of this machine open.

    Each request takes a token; tokens come back with time. A worker that is killed leaves the file as it should be.
    Workers on several machines need a store that they share, such as Redis, behind the same two methods.
    """

    def __init__(self, path: Path, *, rate: float, burst: int, clock: Callable[[], float] = time.time) -> None:
        """Open or make the file.

        Args:
            path: the file.
            rate: tokens per second.
            burst: the most tokens of one user.
            clock: the time in seconds, the same in all workers.
        """
        self._rate, self._burst, self._clock = rate, burst, clock
        self._taken = 0
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")  # losing this file in a power cut does no harm
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS buckets (user TEXT PRIMARY KEY, tokens REAL NOT NULL, at REAL NOT NULL)"
        )

    def take(self, user: str) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        with self._lock, self._transaction() as database:
            now = self._clock()
            row = database.execute("SELECT tokens, at FROM buckets WHERE user = ?", (user,)).fetchone()
            tokens, at = row or (self._burst, now)
            tokens = min(self._burst, tokens + max(0, now - at) * self._rate)  # a clock can be set back
            left = tokens - 1 if tokens >= 1 else tokens
            database.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", (user, left, now))
            self._taken += 1
            if self._taken % _FORGET_EVERY == 0:
                full = (now, self._rate, self._burst)
                database.execute("DELETE FROM buckets WHERE tokens + (? - at) * ? >= ?", full)
        return 0.0 if tokens >= 1 else (1 - tokens) / self._rate

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection, None, None]:
        """Lock the file, so that two workers cannot take the same token."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        finally:
            self._database.execute("COMMIT")

    def users(self) -> list[str]:
        """The users whose buckets are not known to be full."""
        with self._lock:
            return [user for (user,) in self._database.execute("SELECT user FROM buckets ORDER BY user")]

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._database.close()


class AtATime:
    """Counts the requests of each user in a worker, so that no user can fill it with waiting requests."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, user: str) -> Generator[bool, None, None]:
        """Count a request, and yield whether it is within the limit."""
        room = self._held[user] < self._most
        self._held[user] += room
        try:
            yield room
        finally:
            self._held[user] -= room
            if not self._held[user]:
                del self._held[user]
