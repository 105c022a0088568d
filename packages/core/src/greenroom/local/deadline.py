"""The time limit of an execution, which pauses while the code waits for the host."""

from __future__ import annotations

import asyncio
import math


class Deadline:
    """Counts the time while code runs. Waiting pauses it, up to a limit in total; after that, waiting counts, too.

    The time while nothing works on its calls counts toward neither: calls have their own limit for that.
    """

    def __init__(self, seconds: float, *, waits: float = 0.0) -> None:
        """
        Args:
            seconds: the time limit.
            waits: how long it can pause in total.
        """
        self._loop = asyncio.get_running_loop()
        self._left = seconds
        self._waits_left = waits
        self._since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False
        self._parked = False
        self.passed: asyncio.Future[None] = self._loop.create_future()
        """Done when the time is used up."""
        self._count()

    def set_waiting(self, waiting: bool) -> None:
        """Stop counting while the code waits, or continue."""
        if waiting != self._waiting:
            self._note_time()
            self._waiting = waiting
            self._count()

    def set_parked(self, parked: bool) -> None:
        """Count nothing while nothing works on a call, or continue."""
        if parked != self._parked:
            self._note_time()
            self._parked = parked
            self._count()

    def end(self) -> None:
        """Stop counting, even if calls end later."""
        self._left = self._waits_left = math.inf
        if self._timer is not None:
            self._timer.cancel()
        self.passed.cancel()

    @property
    def _stands_still(self) -> bool:
        return self._waiting and self._waits_left > 0

    def _note_time(self) -> None:
        now = self._loop.time()
        passed, self._since = now - self._since, now
        if self._parked:
            return
        if self._stands_still:
            self._waits_left -= passed
        else:
            self._left -= passed

    def _count(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._parked:
            return
        left, act = (self._waits_left, self._go_on) if self._stands_still else (self._left, self._pass)
        if math.isfinite(left):
            self._timer = self._loop.call_later(max(left, 0), act)

    def _go_on(self) -> None:
        self._note_time()
        self._waits_left = 0
        self._count()

    def _pass(self) -> None:
        if not self.passed.done():
            self.passed.set_result(None)
