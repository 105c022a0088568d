"""The queue of an execution's events between the pool's event loop and their consumer."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Generic, Literal, NamedTuple, Never, TypeAlias, TypeVar

from greenroom.backend import OnEvent
from greenroom.models import Event, Execution, Output, StreamText
from greenroom.sessions.open_pool import OpenPool

_Execute: TypeAlias = Callable[[OnEvent], Coroutine[Any, Any, Execution]]
"""Starts an execution whose events are passed to the function."""

OtherT = TypeVar("OtherT")

_MANY = 100  # events waiting for their consumer


class _Text(NamedTuple):
    """Waiting text, in pieces."""

    stream: Literal["stdout", "stderr"]
    content: io.StringIO


class Events(Generic[OtherT]):
    """The events of an execution that wait for their consumer; `OtherT` are internal ones that no caller sees.

    If there are many, a piece of text is joined with the previous piece of its stream, so that millions of pieces take
    no more memory than their text. `on_arrival` is called for each event that `take` will return.
    """

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        self._on_arrival = on_arrival
        self._lock = threading.Lock()
        self._waiting: deque[OtherT | Output | _Text | Future[Execution]] = deque()

    def put(self, event: Event | OtherT | Future[Execution]) -> None:
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
        """The waiting text to which the next piece of this stream can be added, if any."""
        if len(self._waiting) < _MANY:
            return None
        recent = (self._waiting[-1], self._waiting[-2])  # two, as code can alternate between the streams
        return next((event for event in recent if isinstance(event, _Text) and event.stream == stream), None)

    def take(self) -> StreamText | OtherT | Output | Future[Execution]:
        with self._lock:
            event = self._waiting.popleft()
        return StreamText(event.stream, event.content.getvalue()) if isinstance(event, _Text) else event


def streamed(pool: OpenPool, execute: _Execute) -> Generator[Event, None, None]:
    """Yield the events of an execution, and finally the whole execution; leaving early interrupts it."""
    arrived = threading.Semaphore(0)
    events = Events[Never](arrived.release)
    future = pool.submit(execute(events.put))
    future.add_done_callback(events.put)
    try:
        while arrived.acquire() and not isinstance(event := events.take(), Future):
            yield event
        yield future.result()
    finally:
        future.cancel()


async def astreamed(pool: OpenPool, execute: _Execute) -> AsyncGenerator[Event, None]:
    """Like `streamed`."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Semaphore(0)

    def release() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
            loop.call_soon_threadsafe(arrived.release)

    events = Events[Never](release)
    future = pool.submit(execute(events.put))
    future.add_done_callback(events.put)
    try:
        while await arrived.acquire() and not isinstance(event := events.take(), Future):
            yield event
        yield future.result()
    finally:
        future.cancel()
