"""The table of background executions, which clients can poll even after a restart of the server."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from greenroom.server.state.file import StateFile, StateNotWritten

_log = logging.getLogger("greenroom.server")


@dataclass(frozen=True, slots=True)
class StoredExecution:
    """A row."""

    identifier: str
    id: str
    request: bytes
    ended: float
    """Seconds since 1970."""
    end: bytes


class ExecutionTable:
    """The executions of one pool in a state file. Calls are carried out in order."""

    def __init__(self, file: StateFile, pool: str) -> None:
        """
        Args:
            file: the state; the caller closes it.
            pool: a name that no other pool of the server has.
        """
        self._file = file
        self._pool = pool

    async def take_over(self, interrupted: bytes, retention: float) -> list[StoredExecution]:
        """Return the executions that the previous server left, in the order of their end.

        Args:
            interrupted: the outcome for executions that were running, which is stored.
            retention: seconds for which an execution is kept after its end.

        Raises:
            StateNotWritten: the state cannot be read or written.
        """
        now = time.time()

        def change(database: sqlite3.Connection) -> list[StoredExecution]:
            database.execute("DELETE FROM executions WHERE ended < ?", (now - retention,))
            database.execute(
                "UPDATE executions SET ended = ?, outcome = ? WHERE pool = ? AND ended IS NULL",
                (now, interrupted, self._pool),
            )
            rows = database.execute(
                "SELECT identifier, id, request, ended, outcome FROM executions WHERE pool = ? ORDER BY ended, rowid",
                (self._pool,),
            )
            return [StoredExecution(*row) for row in rows]

        return await self._file.write(change)

    async def begin(self, identifier: str, id: str, request: bytes) -> None:  # noqa: A002  the model's own word
        """Store an execution that starts.

        Raises:
            StateNotWritten: it was not stored.
        """

        def change(database: sqlite3.Connection) -> None:
            database.execute(
                "INSERT OR REPLACE INTO executions (pool, identifier, id, request) VALUES (?, ?, ?, ?)",
                (self._pool, identifier, id, request),
            )

        await self._file.write(change)

    async def end(self, identifier: str, id: str, encode: Callable[[], bytes]) -> None:  # noqa: A002
        """Store the end of an execution, unless it was forgotten; `encode` is called in the file's thread. A failure is
        logged, and the next server treats the execution as interrupted.
        """

        def change(database: sqlite3.Connection) -> None:
            database.execute(
                "UPDATE executions SET ended = ?, outcome = ? WHERE pool = ? AND identifier = ? AND id = ?",
                (time.time(), encode(), self._pool, identifier, id),
            )

        await self._try(change, "the end of an execution was not stored")

    async def forget(self, identifier: str, id: str) -> None:  # noqa: A002
        """Remove an execution. A failure is logged, and the execution is removed when it is too old."""

        def change(database: sqlite3.Connection) -> None:
            database.execute(
                "DELETE FROM executions WHERE pool = ? AND identifier = ? AND id = ?", (self._pool, identifier, id)
            )

        await self._try(change, "an execution was not deleted")

    async def clear(self) -> None:
        """Remove all executions of the pool; a failure is handled as in `forget`."""

        def change(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM executions WHERE pool = ?", (self._pool,))

        await self._try(change, "the executions of a deleted pool were not deleted")

    async def _try(self, change: Callable[[sqlite3.Connection], None], failure: str) -> None:
        if self._file.is_closed:  # a second signal does not wait for executions
            return
        try:
            await self._file.write(change)
        except StateNotWritten:
            _log.exception(failure)
