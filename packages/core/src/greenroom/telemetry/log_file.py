"""A file of records, one line of JSON each, with access for this user only. A full file is renamed to `NAME.1`."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from greenroom.errors import InvalidRequest
from greenroom.telemetry.columns import columns_of
from greenroom.telemetry.events import Observer
from greenroom.telemetry.records import Item, LogTable, recorder
from greenroom.telemetry.writer import Writer

_MOST = 10 << 20
"""The maximum size of the file in bytes; with the previous file, there is at most twice as much."""
_FLAGS = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT
    | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)  # fmt: skip


class LogFile:
    """Appends records to a file, in its own thread. Several pools and programs can share the file."""

    def __init__(self, path: Path, most: int = _MOST) -> None:
        self._path = path
        self._most = most
        self._writer = Writer[Item](self._write, "greenroom-log-file")

    def check(self) -> None:
        """Check that the file can be written; a missing file is created.

        Raises:
            InvalidRequest: it cannot.
        """
        try:
            os.close(self._open())
        except (OSError, ValueError) as error:
            raise InvalidRequest(
                f"The option log must name a writable file, not {str(self._path)!r:.300}: {error}."
            ) from error

    @property
    def dropped(self) -> int:
        """How many records could not be written."""
        return self._writer.dropped

    def observer_of(self, pool: str) -> Observer:
        """Return the consumer of a pool's events."""
        return recorder(self._put, pool)

    def close(self) -> None:
        """Write the waiting records as far as possible. Idempotent."""
        self._writer.close()

    def _put(self, item: Item) -> None:
        self._writer.put(item, minor=getattr(item, "table", None) is LogTable.CONSOLE)

    # In the thread

    def _write(self, items: Sequence[Item]) -> None:
        content = b"".join(json.dumps(columns_of(item)).encode() + b"\n" for item in items)
        file = self._open()
        try:
            _lock(file)
            before = os.fstat(file).st_size
            if before and before + len(content) > self._most:
                os.replace(self._path, f"{self._path}.1")  # noqa: PTH105  keeps the suffix of the name
                os.close(file)
                file = self._open()
                _lock(file)
                before = os.fstat(file).st_size
            try:
                _write_all(file, content)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, before)  # removes a partial line
                raise
        finally:
            os.close(file)

    def _open(self) -> int:
        """Open the current file of this name: another program may have started a new one.

        Raises:
            OSError: it cannot be opened, or is not a regular file of this user.
        """
        file = os.open(self._path, _FLAGS, 0o600)
        facts = os.fstat(file)
        owned = sys.platform == "win32" or facts.st_uid == os.geteuid()
        if not stat.S_ISREG(facts.st_mode) or not owned:
            os.close(file)
            raise OSError(errno.EPERM, "it must be a regular file owned by this user")
        if sys.platform != "win32" and facts.st_mode & 0o077:
            os.fchmod(file, 0o600)  # it contains identifiers
        return file


def _lock(file: int) -> None:
    """Lock the file until it is closed.

    Raises:
        OSError: another program has it.
    """
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
