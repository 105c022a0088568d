"""The queue of an execution's events between the pool's event loop and their consumer."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, NamedTuple

from greenroom.models import Event, Execution, Output, StreamText

_MANY = 100  # events that wait for their consumer


class _Text(NamedTuple):
    """Text that waits, in pieces."""

    stream: Literal["stdout", "stderr"]
    content: io.StringIO


class Events:
    """The events of an execution that wait for their consumer.

    If there are many, a piece of text is joined with the last piece of its stream, so that millions of pieces take no
    more memory than their text. `on_arrival` is called for each event that `take` will return.
    """

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        self._on_arrival = on_arrival
        self._lock = threading.Lock()
        self._waiting: deque[Output | _Text | Future[Execution]] = deque()

    def put(self, event: Event | Future[Execution]) -> None:
        if isinstance(event, Execution):  # the future holds it
            return
        with self._lock:
            if not isinstance(event, StreamText):
                self._waiting.append(event)
            elif (last := self._last_text(event.stream)) is not None:
                last.content.write(event.text)
                return
            else:
                text = _Text(event.stream, io.StringIO(newline=""))
                text.content.write(event.text)
                self._waiting.append(text)
        self._on_arrival()

    def _last_text(self, stream: Literal["stdout", "stderr"]) -> _Text | None:
        """The waiting text that a further piece of this stream is joined with, if there is one."""
        if len(self._waiting) < _MANY:
            return None
        recent = (self._waiting[-1], self._waiting[-2])  # two, as code can write to both streams in turn
        return next((event for event in recent if isinstance(event, _Text) and event.stream == stream), None)

    def take(self) -> StreamText | Output | Future[Execution]:
        with self._lock:
            event = self._waiting.popleft()
        return StreamText(event.stream, event.content.getvalue()) if isinstance(event, _Text) else event
