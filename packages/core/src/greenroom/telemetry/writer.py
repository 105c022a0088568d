"""A thread that writes log records, so that a slow disk cannot delay a pool. Dropped records are counted."""

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
"""Seconds for which items are collected before they are written together; `kill -9` can lose these."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts while nothing can be written."""
_BATCH = 2000
_CLOSE_TIMEOUT = 5.0


class Writer(Generic[ItemT]):
    """Writes items in its own thread, which starts with the first item.

    Args:
        write: writes a whole batch or nothing; called in the thread.
        name: the thread's name.
        passing: the errors of `write` after which it is retried, such as a full disk or a locked file. After any other
            error, the batch is dropped.
        limit: the maximum number of waiting items; further ones are dropped.
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
        """How many items have left the queue."""
        self._hurried = False
        self._closing = False
        self._failing = False
        self._unreported = 0
        self.dropped = 0
        """How many items could not be written."""

    def put(self, item: ItemT, *, minor: bool = False) -> None:
        """Queue an item for writing, from any thread, without waiting; if the queue is full, it is dropped. `minor`
        items take at most half of the queue.
        """
        with self._condition:
            full = len(self._items) >= (self._limit // 2 if minor else self._limit)
            if self._closing or full or not self._started():
                self._drop(1)
                return
            self._items.append(item)
            if len(self._items) == 1:
                self._condition.notify_all()

    def flush(self, timeout: float) -> None:
        """Wait until earlier items are written, unless nothing can be written at the moment."""
        with self._condition:
            target = self._taken + len(self._items)
            self._hurried = bool(self._items)
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._taken >= target or self._failing, timeout)

    def close(self) -> None:
        """Write the waiting items if that is possible in a few seconds, and end the thread. Idempotent."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_TIMEOUT)

    def _started(self) -> bool:
        """Start the thread if needed, and return whether it runs; an interpreter that is shutting down starts none."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    # In the thread

    def _run(self) -> None:
        pause = _SHORTEST_PAUSE
        while (batch := self._next()) is not None:
            try:
                self._write(batch)
            except self._passing as error:
                if not self._failing:
                    _log.warning("Log records cannot be written and will be dropped: %s", error)
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
            except Exception:  # noqa: BLE001  after any error, later items are still written
                _log.exception("Log records cannot be written: %d were dropped", len(batch))
                with self._condition:
                    self._take(len(batch), dropped=True)
            else:
                recovered, pause = self._failing, _SHORTEST_PAUSE
                with self._condition:
                    self._failing = False
                    self._take(len(batch), dropped=False)
                if recovered:
                    _log.warning("Log records are being written again; %d have been dropped", self.dropped)
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
            with contextlib.suppress(Exception):  # after any error, writing continues
                self._on_dropped(count)
