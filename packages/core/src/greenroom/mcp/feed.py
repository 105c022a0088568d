"""Sends the output of running code to a client as progress and log messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, TypeAlias

from greenroom.mcp.protocol import LEVELS, Json
from greenroom.models import Event, Execution, StreamText
from greenroom.text import shorten
from greenroom.untrusted import visible

Notify: TypeAlias = Callable[[str, Json], Awaitable[None]]
"""Sends a notification: its method and its params. It waits for a slow client, or raises `ClientGone`."""

_PAUSE = 0.1
"""Seconds between two rounds of messages: output in between is joined."""
_HEARTBEAT = 5.0
"""Seconds without output after which progress is reported anyway."""
_MOST_TEXT = 16_000
"""Characters of a stream that wait for the next round; if there are more, the middle is left out."""
_MOST_LINE = 200
"""Characters of the last line, which is the message of the progress."""

# The level of the log messages for each stream.
_LEVEL: dict[Literal["stdout", "stderr"], str] = {"stdout": "info", "stderr": "warning"}


class ClientGone(Exception):
    """The client cannot be reached any more."""


class OutputFeed:
    """Reports the output of running code to a client that asked for it: `async with OutputFeed(…) as feed`.

    A slow client delays the reports, not the code, and the waiting output is bounded.
    """

    def __init__(self, notify: Notify | None, progress_token: str | int | None, level: str | None) -> None:
        """
        Args:
            notify: sends notifications to the client; `None` if that is not possible before the response.
            progress_token: the client's name for the progress of this request, if it asked for progress.
            level: the lowest level of log messages that it asked for; `None` for none.
        """
        self._notify = notify
        self._token = progress_token
        self._levels = () if level is None else LEVELS[LEVELS.index(level) :]
        self._began = time.monotonic()
        self._written: dict[Literal["stdout", "stderr"], str] = {}
        self._message = ""
        self._wake = asyncio.Event()
        self._over = asyncio.Event()
        self._reported = -0.001
        self._pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._notify is not None and (self._token is not None or self._levels):
            self._pump = asyncio.create_task(self._run(self._notify))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pump is None:
            return
        self._over.set()
        self._wake.set()
        try:
            if error is None:  # the rest is sent before the response
                await asyncio.wait([self._pump])
        finally:
            self._pump.cancel()
        await asyncio.wait([self._pump])
        if not self._pump.cancelled() and error is None and (failed := self._pump.exception()) is not None:
            raise failed

    def put(self, event: Event) -> None:
        """Take an event, on the client's event loop; this never waits."""
        if self._pump is None or isinstance(event, Execution):
            return
        if isinstance(event, StreamText):
            self._written[event.stream] = shorten(self._written.get(event.stream, "") + event.text, _MOST_TEXT)
            if end := event.text[-10 * _MOST_LINE :].strip():
                self._message = end.rpartition("\n")[2][:_MOST_LINE]
        self._wake.set()

    async def _run(self, notify: Notify) -> None:
        while not self._over.is_set():
            await _within(_HEARTBEAT, self._wake)
            self._wake.clear()
            if not self._over.is_set() or self._written:
                await self._round(notify)
                await _within(_PAUSE, self._over)
        if self._written:
            await self._round(notify)

    async def _round(self, notify: Notify) -> None:
        written, self._written = self._written, {}
        for stream, text in written.items():
            if _LEVEL[stream] in self._levels:
                message = {"level": _LEVEL[stream], "logger": stream, "data": visible(text)}
                await notify("notifications/message", message)
        if self._token is not None:
            elapsed = round(time.monotonic() - self._began, 3)
            self._reported = max(elapsed, round(self._reported + 0.001, 3))  # it must increase
            progress: Json = {"progressToken": self._token, "progress": self._reported}
            if self._message:
                progress["message"] = visible(self._message)
            await notify("notifications/progress", progress)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, up to a time limit."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
