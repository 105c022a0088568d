"""Time limits for clients: a connection is closed if its client neither sends nor receives data in time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_BYTES_PER_SECOND = 4096
_PIECE = 64 * 1024
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class TooSlow(Exception):
    """A client sent its body too slowly."""


def within_time(receive: Receive, client_timeout: float) -> Receive:
    """Limit the time that an ASGI application's `receive` waits for a request's body.

    The client can keep the server waiting for `client_timeout` seconds in total, and a second longer for each 4 KiB
    received. Then `receive` raises `TooSlow`. Time in which the client has nothing to send, such as during an
    execution, does not count.
    """
    left = client_timeout
    complete = False

    async def timed_receive() -> Message:
        nonlocal complete, left
        if complete:
            return await receive()  # waits for the connection to end
        began = time.monotonic()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            raise TooSlow from None
        left += len(message.get("body", b"")) / _BYTES_PER_SECOND - (time.monotonic() - began)
        complete = not message.get("more_body", False)
        return message

    return timed_receive


def in_pieces(send: Send) -> Send:
    """Make an ASGI application's `send` wait for the client after each 64 KiB.

    `SlowClientProtocol` cannot see how much data TLS has encrypted but not sent, so that must be little.
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


class JoinedWrites:
    """A transport that writes the head of a response together with its first piece, if they come in the same turn.

    At most one piece waits, until the end of the turn of the event loop.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._waiting:
            data, self._waiting = self._waiting + data, b""
            self._transport.write(data)
        elif data:
            self._waiting = data
            self._loop.call_soon(self.written_out)

    def close(self) -> None:
        self.written_out().close()

    def get_write_buffer_size(self) -> int:
        return len(self._waiting) + self._transport.get_write_buffer_size()

    def written_out(self) -> Any:
        """Write what waits; return the transport itself."""
        data, self._waiting = self._waiting, b""
        if data:
            self._transport.write(data)
        return self._transport


TakeOver: TypeAlias = Callable[[], AbstractContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Takes the connection of a request that asked for another protocol; it is closed at the end of the context."""


class SlowClientProtocol(H11Protocol):
    """Disconnects clients that are too slow.

    Within `client_timeout` seconds, a client must send the head of a request, and the rest of a body whose response was
    sent early; it must receive a response at 4 KiB per second or more.
    """

    client_timeout = 20.0
    _head_timer: asyncio.TimerHandle | None = None
    _response_timer: asyncio.TimerHandle | None = None
    _untaken = 0
    _taken_over = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        application: Any = self.app

        async def with_connection(scope: Any, receive: Receive, send: Send) -> None:
            scope["greenroom.take_over"] = self._take_over
            await application(scope, receive, send)

        self.app = with_connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            # uvicorn refuses only after a request, and does not limit connections without requests.
            transport.write(_FULL)
            transport.close()
            return
        # Writing pauses as soon as data waits for the client; with 0, over TLS, it would pause even without data.
        transport.set_write_buffer_limits(high=1, low=0)
        joining: Any = JoinedWrites(transport, self.loop)
        self.transport = joining
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._head_timer = _cancelled(self._head_timer)
        self._response_timer = _cancelled(self._response_timer)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_response()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._response_timer = _cancelled(self._response_timer)

    def shutdown(self) -> None:
        if self._taken_over:
            self.transport.close()
        else:
            super().shutdown()

    @contextlib.contextmanager
    def _take_over(self) -> Generator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None, None]:
        """Hand over the connection, with the data that the client sent after its request."""
        joining: Any = self.transport
        transport: Any = joining.written_out()
        reader = asyncio.StreamReader(limit=_PIECE, loop=self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        # For uvicorn, the response is complete; it gets no further events of the connection.
        self._taken_over = self.cycle.response_started = self.cycle.response_complete = True
        self._head_timer = _cancelled(self._head_timer)
        self._response_timer = _cancelled(self._response_timer)
        transport.set_write_buffer_limits(high=_PIECE)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if transport.is_closing():
            reader.feed_eof()
        elif early := bytes(self.conn.trailing_data[0]):
            reader.feed_data(early)
        with contextlib.suppress(RuntimeError):  # it is not paused
            transport.resume_reading()
        writer = asyncio.StreamWriter(transport, protocol, reader, self.loop)
        try:
            yield reader, writer
        finally:
            transport.close()
            self.connections.discard(self)

    def _watch_head(self) -> None:
        cycle: Any = self.cycle  # None before the first request, despite its type
        if cycle is not None and not cycle.response_complete:
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.client_timeout, self.transport.close)

    def _watch_response(self) -> None:
        self._untaken = self.transport.get_write_buffer_size()
        self._response_timer = self.loop.call_later(self.client_timeout, self._check_response)

    def _check_response(self) -> None:
        if self._untaken - self.transport.get_write_buffer_size() < _BYTES_PER_SECOND * self.client_timeout:
            self.transport.abort()  # closing would wait until everything is sent
        else:
            self._watch_response()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
