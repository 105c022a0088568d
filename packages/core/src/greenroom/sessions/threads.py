"""Limits the threads of synchronous tools in this process, across all pools and executions."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from concurrent.futures import Future

_MOST = 256


class Threads:
    """Permits for threads: event loops wait for them, and the threads return them. Thread-safe.

    Python cannot end a thread, so that of a function that never returns keeps its permit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Reset everything in a fork of the process, where none of the threads exist."""
        self._lock = threading.Lock()
        self._free = self._most
        self._waiting: deque[Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a permit, first come, first served."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            place: Future[None] = Future()
            self._waiting.append(place)
        try:
            await asyncio.wrap_future(place)
        except BaseException:
            if not place.cancel() and not place.cancelled():  # it arrived just now
                self.release()
            raise

    def release(self) -> None:
        """Give a permit to the first waiter."""
        with self._lock:
            while self._waiting:
                place = self._waiting.popleft()
                if place.set_running_or_notify_cancel():
                    place.set_result(None)
                    return
            self._free += 1


THREADS = Threads(_MOST)
os.register_at_fork(after_in_child=THREADS.reset)
