"""Plain HTTP without a proxy, as to a server on this machine: h11 on a socket, in half of the time that httpx takes.

Requests that this module cannot send, such as those with a body in pieces, go to the other transport.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import h11

from greenroom.azure.transport import Broken, Request, Response, Transport, Unreachable

_KEPT = 100
"""Idle connections."""
_KEPT_SECONDS = 15.0
_MAX_HEAD = 100 << 10
"""Bytes of a response's head, as httpx has it."""
_HELD = 64 << 10
"""Bytes of a body that are received before they are asked for."""
_ATTEMPT_DELAY = 0.25
"""Seconds until the next address of a host is tried (RFC 8305)."""
_TARGET = re.compile(r"/[A-Za-z0-9\-._~%!$&'()*+,;=:@/?]*")
"""Targets that every client sends as they are."""


class PlainTransport:
    """A `Transport` to one origin, with a pool of connections."""

    def __init__(self, url: str, other: Transport) -> None:
        """
        Args:
            url: what all requests begin with; its scheme is `http`.
            other: sends what this one cannot, and is closed with it.
        """
        parts = urlsplit(url)
        self._origin = f"http://{parts.netloc}"
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._host_header = parts.netloc.rpartition("@")[2].encode()
        self._other = other
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def send(self, request: Request) -> Response:
        target = request.url.removeprefix(self._origin)
        if (
            isinstance(request.content, bytes | None)
            and isinstance(request.headers, Mapping)
            and _TARGET.fullmatch(target)
            and "/." not in target  # of which httpx removes `..`
        ):
            return await self._send(request, target, request.headers, request.content)
        return await self._other.send(request)

    async def close(self) -> None:
        for connection in list(self._open):
            connection.abort()
        await self._other.close()

    async def _send(self, request: Request, target: str, given: Mapping[str, str], content: bytes | None) -> Response:
        connection = self._take_idle() or await self._connect(request.connect_timeout)
        headers = [(b"Host", self._host_header), (b"Accept", b"*/*")]
        headers += [(name.encode("ascii"), value.encode("utf-8")) for name, value in given.items()]
        if content is not None or request.method in {"POST", "PUT", "PATCH"}:
            headers.append((b"Content-Length", b"%d" % len(content or b"")))
        try:
            head = h11.Request(method=request.method, target=target, headers=headers)
            async with asyncio.timeout(request.write_timeout + request.read_timeout):
                response = await connection.exchange(head, content)
        except TimeoutError:
            connection.abort()
            raise Broken("no response came in time") from None
        except h11.ProtocolError as error:
            connection.abort()
            raise Broken(_reason(error)) from None
        except BaseException:
            connection.abort()
            raise
        names: dict[str, str] = {}
        for raw_name, raw_value in response.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            names[name] = f"{names[name]}, {value}" if name in names else value
        chunks = _Chunks(connection, request.read_timeout)
        return Response(response.status_code, names, chunks, connection.release, response.headers.raw_items())

    def _take_idle(self) -> _Connection | None:
        """Return the connection that was used last, which is the least likely to be closed just now."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and now - connection.idle_since <= _KEPT_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self, seconds: float) -> _Connection:
        try:
            async with asyncio.timeout(seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._released, self._open.discard),
                    self._host,
                    self._port,
                    happy_eyeballs_delay=_ATTEMPT_DELAY,
                )
        except TimeoutError:
            raise Unreachable("no connection was made in time") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot exist
            raise Unreachable(_reason(error)) from None
        self._open.add(connection)
        return connection

    def _released(self, connection: _Connection) -> None:
        if len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that it is used for."""

    def __init__(self, on_release: Any, on_end: Any) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self._on_release, self._on_end = on_release, on_end
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self._arrival: asyncio.Future[None] | None = None
        self._held = 0
        self._paused = False
        self._used = False
        self.is_open = False
        self.idle_since = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if not self._used:  # between two exchanges, nothing is expected
            self.abort()
            return
        self._receive(data)
        self._held += len(data)
        if self._held > _HELD and self._arrival is None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self.is_open = False
        self._receive(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._receive(b"")  # also when it was closed here: somebody can wait for more
        self._on_end(self)

    def _receive(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError:  # data after the end: the next event says so
            self.is_open = False
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    # What the transport calls

    async def exchange(self, head: h11.Request, content: bytes | None) -> h11.Response:
        """Send a request; return the head of its response.

        Raises:
            Broken: the connection ended first.
            h11.ProtocolError: the request or the response is not valid.
        """
        self._used = True
        request = [self._http.send(head), self._http.send(h11.Data(content)) if content else b""]
        request.append(self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(each for each in request if each))
        while isinstance(event := await self.next_event(), h11.InformationalResponse):
            pass  # until the caller's time is up
        if isinstance(event, h11.Response):
            return event
        raise Broken("the server disconnected without sending a response")

    async def next_event(self) -> Any:
        """Return h11's next event.

        Raises:
            h11.RemoteProtocolError: what arrived is not valid, or ended early.
        """
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._held = 0
            self._arrival = self._loop.create_future()
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            try:
                await self._arrival
            finally:
                self._arrival = None
        return event

    async def release(self) -> None:
        """Keep the connection for the next exchange, if this one is complete; otherwise close it. Idempotent."""
        if not self._used:
            return
        self._used = False
        if self.is_open and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._held = 0
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            self.idle_since = self._loop.time()
            self._on_release(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection. Idempotent."""
        self.is_open = self._used = False
        self._transport.abort()


class _Chunks:
    """The body of a response."""

    def __init__(self, connection: _Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                event = await self._connection.next_event()
        except h11.ProtocolError as error:
            raise Broken(_reason(error)) from None
        except TimeoutError:
            raise Broken("no more of the response came in time") from None
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            raise StopAsyncIteration
        raise Broken("the server disconnected within its response")


def _reason(error: Exception) -> str:
    return f"{error!s:.500}" or type(error).__name__
