"""Slow clients: nobody holds a connection for nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_BYTES_A_SECOND = 4096
_PIECE = 64 * 1024
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class TooSlow(Exception):
    """A client sends its body more slowly than it must."""


def paced(receive: Receive, patience: float) -> Receive:
    """An ASGI application's `receive` from a client that must send its body.

    The client may leave the server waiting for `patience` seconds in all, and longer for each 4 KiB that have come.
    Time in which it owes nothing, such as that of an execution, does not count. What `receive` raises then is
    `TooSlow`.
    """
    left = patience
    complete = False

    async def paced_receive() -> Message:
        nonlocal complete, left
        if complete:
            return await receive()  # it waits for the end of the connection
        began = time.monotonic()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            raise TooSlow from None
        left += len(message.get("body", b"")) / _BYTES_A_SECOND - (time.monotonic() - began)
        complete = not message.get("more_body", False)
        return message

    return paced_receive


def in_pieces(send: Send) -> Send:
    """An ASGI application's `send` that waits for the client more often.

    What TLS has encrypted is out of sight of `PacedProtocol`, so that must be little.
    """

    async def send_in_pieces(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = memoryview(message.get("body", b""))
            while len(body) > _PIECE:
                await send({"type": "http.response.body", "body": bytes(body[:_PIECE]), "more_body": True})
                body = body[_PIECE:]
            message = {**message, "body": bytes(body)}
        await send(message)

    return send_in_pieces


class PacedProtocol(H11Protocol):
    """A connection whose client must come to the point.

    Within `patience` seconds the head of a request has to arrive, and what is left of a body that was answered
    already; and of an answer it has to take 4 KiB a second.
    """

    patience = 20.0
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _untaken = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            # uvicorn would wait for a request before it refuses, and the connections that wait have no limit.
            transport.write(_FULL)
            transport.close()
            return
        # Writing pauses as soon as there is anything that the client has to take; with 0, over TLS, even if not.
        transport.set_write_buffer_limits(high=1, low=0)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._head_timer = _cancelled(self._head_timer)
        self._answer_timer = _cancelled(self._answer_timer)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_timer = _cancelled(self._answer_timer)

    def _watch_head(self) -> None:
        cycle: Any = self.cycle  # there is none before the first request, whatever its type says
        if cycle is not None and not cycle.response_complete:
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.patience, self.transport.close)

    def _watch_answer(self) -> None:
        self._untaken = self.transport.get_write_buffer_size()
        self._answer_timer = self.loop.call_later(self.patience, self._check_answer)

    def _check_answer(self) -> None:
        if self._untaken - self.transport.get_write_buffer_size() < _BYTES_A_SECOND * self.patience:
            self.transport.abort()  # closing would wait for what is not taken
        else:
            self._watch_answer()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
