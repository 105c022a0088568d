"""The pool for tools without a pool of their own: opened on first use, shared by the process."""

from __future__ import annotations

import asyncio
import os
import threading

from greenroom import connecting
from greenroom.sessions import SessionPool


class _Default:
    """The pool of one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: SessionPool | None = None

    def open(self) -> SessionPool:
        with self.lock:
            if self.pool is None:
                self.pool = connecting.connect()
            return self.pool

    def close(self) -> None:
        with self.lock:
            pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()

    def forget(self) -> None:
        """A fork cannot use the pool of its parent, nor the lock, which another thread may have held."""
        self.__init__()


_default = _Default()
os.register_at_fork(after_in_child=_default.forget)


def default_pool() -> SessionPool:
    """Return the pool that this process shares: `greenroom.connect()`, opened by the first call.

    It is closed at the end of the process.

    Raises:
        GreenroomError: as `greenroom.connect`; the next call tries again.
    """
    return _default.open()


async def adefault_pool() -> SessionPool:
    """As `default_pool`, without blocking the event loop."""
    return _default.pool or await asyncio.to_thread(default_pool)


def close_default_pool() -> None:
    """Close the default pool and end its sessions. Idempotent; the next use opens a new one."""
    _default.close()
