"""How many threads of synchronous tools there can be in this process, whatever its pools and executions."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from concurrent.futures import Future

_MOST = 256


class Threads:
    """Permits for threads, which event loops wait for and the threads give back. Thread-safe.

    Python cannot end a thread, so one of a function that never returns keeps its permit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Begin anew, as in a fork of the process, where no thread is left."""
        self._lock = threading.Lock()
        self._free = self._most
        self._waiting: deque[Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a permit, in the order of arrival."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            place: Future[None] = Future()
            self._waiting.append(place)
        try:
            await asyncio.wrap_future(place)
        except BaseException:
            if not place.cancel() and not place.cancelled():  # it came just now
                self.release()
            raise

    def release(self) -> None:
        """Give a permit to the first that waits for one."""
        with self._lock:
            while self._waiting:
                place = self._waiting.popleft()
                if place.set_running_or_notify_cancel():
                    place.set_result(None)
                    return
            self._free += 1


THREADS = Threads(_MOST)
os.register_at_fork(after_in_child=THREADS.reset)
