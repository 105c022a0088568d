"""The state file: opened, locked, migrated to the current schema, and used from its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Self, TypeVar

from greenroom.errors import GreenroomError, InvalidRequest
from greenroom.server.state.migrations import APPLICATION, MIGRATIONS

T = TypeVar("T")

IN_MEMORY = Path(":memory:")
"""Used in place of a file name: the state ends with the server."""


class StateNotWritten(GreenroomError):
    """The state cannot be written; no part of the change was stored."""


def default_path() -> Path:
    """Return the file below the user's data directory."""
    given = Path(os.environ.get("XDG_DATA_HOME", ""))
    if given.is_absolute():
        directory = given
    elif sys.platform == "darwin":
        directory = Path("~/Library/Application Support").expanduser()
    elif sys.platform == "win32":
        directory = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser()
    else:
        directory = Path("~/.local/share").expanduser()
    return directory / "greenroom" / "state.db"


class StateFile:
    """A database in its own thread, so that writes do not block the event loop. A change is durable when `write`
    returns: the log is synchronized with each change.
    """

    def __init__(self, path: Path) -> None:
        """`path` can be `IN_MEMORY`. Made by `open`."""
        self.path = path
        self._thread = ThreadPoolExecutor(1, "greenroom-state")
        self._lock: IO[bytes] | None = None
        self._database: sqlite3.Connection | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the file, creating it if it is missing, and lock it for this process until `close`.

        Raises:
            InvalidRequest: another server uses the file; or it is not a state file, is damaged, or is from a newer
                version; or it cannot be opened.
        """
        file = cls(path)
        try:
            await file._run(file._open)
        except BaseException:
            await file.close()
            raise
        return file

    @property
    def is_closed(self) -> bool:
        return self._closed

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in the thread."""
        return await self._run(lambda: query(self._connection))

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run a change in the thread, in a transaction: afterwards either all of it is durable or none.

        Raises:
            StateNotWritten: the disk is full or fails, or the file was damaged.
        """
        try:
            return await self._run(partial(_in_transaction, lambda: self._connection, change))
        except (sqlite3.Error, OSError) as error:
            raise StateNotWritten(f"The state {str(self.path)!r} could not be written: {error}.") from error

    async def forget(self) -> None:
        """Remove deleted and replaced data from the log too, where it could otherwise stay for long. Failures are
        ignored: the next call retries.
        """

        def checkpoint() -> None:
            with contextlib.suppress(sqlite3.Error):  # for example, the disk is full
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        await self._run(checkpoint)

    async def close(self) -> None:
        """Close the database and release the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._run(self._close)
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._database is not None  # noqa: S101  it is open
        return self._database

    async def _run(self, work: Callable[[], T]) -> T:
        """Run work in the thread, to its end even if the caller is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    # In the thread

    def _open(self) -> None:
        try:
            if self.path != IN_MEMORY:
                _prepare(self.path)
                self._lock = _locked(self.path)
            self._database = sqlite3.connect(self.path, isolation_level=None)
            version = self._version()  # before changing a file that may not be ours
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._connection.execute("PRAGMA secure_delete = ON")  # free pages keep no secrets
            self._migrate(version)
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            raise InvalidRequest(
                f"The state {str(self.path)!r} cannot be used: {error}. "
                f"{'Free space on its disk' if full else 'Restore it from a backup'}, or name another file with "
                "--state."
            ) from error
        except OSError as error:
            raise InvalidRequest(f"The state {str(self.path)!r} cannot be opened: {error}.") from error

    def _version(self) -> int:
        """Return the number of the last migration of the file.

        Raises:
            InvalidRequest: it is another database, or from a newer version.
            sqlite3.Error: it is damaged.
        """

        def pragma(name: str) -> int:
            return self._connection.execute(f"PRAGMA {name}").fetchone()[0]

        version, tables = pragma("user_version"), self._connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        if tables is not None and pragma("application_id") != APPLICATION:
            raise InvalidRequest(
                f"The state {str(self.path)!r} must be a file of greenroom serve, not another database."
            )
        if version > len(MIGRATIONS):
            raise InvalidRequest(
                f"The state {str(self.path)!r} is from a newer version of Greenroom (its schema is {version}, the "
                f"newest known here is {len(MIGRATIONS)}). Update Greenroom, or name another file with --state."
            )
        damage = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)
        return version

    def _migrate(self, version: int) -> None:
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):

            def migrate(database: sqlite3.Connection, number: int = number, statements: str = statements) -> None:
                for statement in filter(str.strip, statements.split(";")):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {number}")

            _in_transaction(lambda: self._connection, migrate)

    def _close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):  # the disk is full; the log still has everything
                self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _in_transaction(connection: Callable[[], sqlite3.Connection], change: Callable[[sqlite3.Connection], T]) -> T:
    database = connection()
    database.execute("BEGIN IMMEDIATE")
    try:
        result = change(database)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    return result


def _prepare(path: Path) -> None:
    """Create the file with access for this user only.

    Raises:
        InvalidRequest: it is another user's, or not a file.
    """
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        facts = path.lstat()
        owned = sys.platform == "win32" or facts.st_uid == os.geteuid()
        if not stat.S_ISREG(facts.st_mode) or not owned:
            raise InvalidRequest(f"The state {str(path)!r} must be a file that this user owns.") from None
        path.chmod(0o600)  # it contains secrets


def _locked(path: Path) -> IO[bytes]:
    """Take the lock of a file, which is released when this process ends, however it ends.

    Raises:
        InvalidRequest: another process has it.
    """
    lock = path.with_name(f"{path.name}.lock")
    file = os.fdopen(os.open(lock, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600), "r+b")
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InvalidRequest(
            f"The state {str(path)!r} is in use by another server. Name another file with --state, or keep the state "
            f"in memory with --state {IN_MEMORY}."
        ) from None
    return file
