"""A thread that writes what a log keeps, so that no disk delays a pool. What cannot be written is counted."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")

_log = logging.getLogger("greenroom")

_GATHER = 0.25
"""Seconds for which items are gathered before they are written together: what `kill -9` can lose."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts while nothing can be written."""
_BATCH = 2000
_CLOSE_TIMEOUT = 5.0


class Writer(Generic[ItemT]):
    """Writes items in a thread of its own, which begins with the first of them.

    Args:
        write: writes a batch, or nothing of it; called in the thread.
        name: the thread's.
        passing: the errors of `write` after which it is tried again: a full disk, a locked file. After any other one,
            the batch is dropped.
        limit: the most items that wait; further ones are dropped.
        on_dropped: called in the thread with the number of items that were dropped.
    """

    def __init__(
        self,
        write: Callable[[Sequence[ItemT]], None],
        name: str,
        *,
        passing: tuple[type[Exception], ...] = (OSError,),
        limit: int = 10_000,
        on_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._write = write
        self._name = name
        self._passing = passing
        self._limit = limit
        self._on_dropped = on_dropped
        self._condition = threading.Condition()
        self._items: deque[ItemT] = deque()
        self._thread: threading.Thread | None = None
        self._taken = 0
        """How many items have ever left the queue."""
        self._hurried = False
        self._closing = False
        self._failing = False
        self._unreported = 0
        self.dropped = 0
        """How many items could not be written so far."""

    def put(self, item: ItemT) -> None:
        """Have an item written soon; from any thread, and without waiting. One too many is dropped."""
        with self._condition:
            if self._closing or len(self._items) >= self._limit:
                self._drop(1)
                return
            self._items.append(item)
            if len(self._items) == 1:
                self._condition.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._items)

    def flush(self, timeout: float) -> None:
        """Wait until what was put before is written, unless nothing can be written at the moment."""
        with self._condition:
            target = self._taken + len(self._items)
            self._hurried = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._taken >= target or self._failing, timeout)

    def close(self) -> None:
        """Write what waits, if that can be done in a few seconds, and end the thread. Idempotent."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_TIMEOUT)

    # In the thread

    def _run(self) -> None:
        pause = _SHORTEST_PAUSE
        while (batch := self._next()) is not None:
            try:
                self._write(batch)
            except self._passing as error:
                if not self._failing:
                    _log.warning("Records of the log cannot be written, and will be dropped: %s", error)
                with self._condition:
                    self._failing = True
                    if self._closing:
                        self._take(len(self._items), dropped=True)
                    self._condition.notify_all()
                self._report()
                with self._condition:
                    self._condition.wait_for(lambda: self._closing, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            except Exception:  # noqa: BLE001  whatever it is, the next ones are written
                _log.exception("Records of the log cannot be written: %d are dropped", len(batch))
                with self._condition:
                    self._take(len(batch), dropped=True)
            else:
                recovered, pause = self._failing, _SHORTEST_PAUSE
                with self._condition:
                    self._failing = False
                    self._take(len(batch), dropped=False)
                if recovered:
                    _log.warning("Records of the log are written again; %d were dropped so far", self.dropped)
            self._report()

    def _next(self) -> list[ItemT] | None:
        """Return the next items, which stay in the queue until they are written; `None` at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._closing)
            self._condition.wait_for(lambda: self._hurried or self._closing, _GATHER)
            self._hurried = False
            return list(itertools.islice(self._items, _BATCH)) or None

    def _take(self, count: int, *, dropped: bool) -> None:
        for _ in range(count):
            self._items.popleft()
        self._taken += count
        if dropped:
            self._drop(count)
        if self._items:
            self._hurried = True
        self._condition.notify_all()

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._unreported += count

    def _report(self) -> None:
        with self._condition:
            count, self._unreported = self._unreported, 0
        if count:
            with contextlib.suppress(Exception):  # whatever it is, writing goes on
                self._on_dropped(count)
