"""One HTTP request over one connection to a container, which can respond with anything."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

from greenroom.backend import HttpRequest, HttpResponse, RawHeaders
from greenroom.engines.base import Connection
from greenroom.errors import EngineUnavailable, InvalidRequest, ServiceFailed
from greenroom.untrusted import brief

try:
    import h11
except ModuleNotFoundError as error:
    raise EngineUnavailable(
        "Custom containers need the package h11. Install it with: pip install 'greenroom[docker]'."
    ) from error

_MOST_INFORMATIONAL = 20
_EVENTS_IN_A_TURN = 50
_MOST_HEAD = 64 * 1024
_SWITCHING = 101

# Headers of the connection, not of the message (RFC 9110, 7.6.1).
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_METHOD = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}")
_TARGET = re.compile("/[!-~]*")


class ConnectionEnded(ServiceFailed):
    """The container closed the connection before its response was complete."""


def end_to_end(headers: RawHeaders) -> RawHeaders:
    """Return the headers without those of the connection, and without those that `Connection` lists."""
    named = {
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    }
    return tuple((name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP | named)


def upgrade_of(headers: RawHeaders) -> bytes | None:
    """Return the protocol to which a request asks to switch."""
    fields = [(name.lower(), value) for name, value in headers]
    asked = any(b"upgrade" in value.lower() for name, value in fields if name == b"connection")
    return next((value for name, value in fields if name == b"upgrade" and asked), None)


@contextlib.asynccontextmanager
async def exchange(connection: Connection, request: HttpRequest) -> AsyncGenerator[HttpResponse, None]:
    """Send a request, and yield its response; the content of the request is sent at the same time.

    Raises:
        InvalidRequest: the request cannot be sent as HTTP/1.1.
        ServiceFailed: the response is not HTTP, or ended early.
    """
    running = _Exchange(connection, _head(request))
    sender = asyncio.create_task(running.send(request.content))
    try:
        response = await running.head()
        upgraded = None
        if response.status_code == _SWITCHING:
            await sender
            upgraded = _Switched(connection, running.rest)
        headers = tuple(response.headers.raw_items())
        async with contextlib.aclosing(running.content()) as content:
            yield HttpResponse(response.status_code, response.reason, headers, content, upgraded)
    finally:
        sender.cancel()
        await connection.close()
        await asyncio.wait([sender])


class _Exchange:
    """A request that is being sent, and its response."""

    def __init__(self, connection: Connection, head: h11.Request) -> None:
        self._connection = connection
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
        self._head = self._bytes(head)
        self._failure: Exception | None = None
        self._events = 0

    @property
    def rest(self) -> bytes:
        """Data that followed the response that switched to another protocol."""
        return bytes(self._http.trailing_data[0])

    async def send(self, content: bytes | AsyncIterator[bytes]) -> None:
        """Send the whole request; `head` and `content` raise every failure except those of the connection."""
        try:
            if not await self._written(self._head):
                return
            async for piece in _pieces(content):
                if not await self._written(self._bytes(h11.Data(piece))):
                    return
            await self._written(self._bytes(h11.EndOfMessage()))
        except Exception as error:  # noqa: BLE001  from the caller's content
            self._failure = error
            await self._connection.close()

    async def _written(self, data: bytes) -> bool:
        """Write; return whether the container accepts more. If not, its response says why."""
        try:
            await self._connection.write(data)
        except OSError:
            return False
        return True

    async def head(self) -> h11.Response | h11.InformationalResponse:
        """Return the final response, or the one that switches to another protocol."""
        for _ in range(_MOST_INFORMATIONAL + 1):
            event = await self._next()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == _SWITCHING
            ):
                return event
        raise ServiceFailed(f"The container sent more than {_MOST_INFORMATIONAL} informational responses.")

    async def content(self) -> AsyncGenerator[bytes, None]:
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def _next(self) -> h11.Event:
        ended = False
        self._events += 1
        if self._events % _EVENTS_IN_A_TURN == 0:  # small chunks must not delay other sessions
            await asyncio.sleep(0)
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = await self._connection.read()
                ended = not data
                self._http.receive_data(data)
        except OSError as error:
            self._raise_failure()
            raise _ended() from error
        except h11.RemoteProtocolError as error:
            if ended:
                self._raise_failure()
                raise _ended() from error
            raise ServiceFailed(
                f"The container sent a response that is not valid HTTP/1.1: {brief(str(error))}."
            ) from error
        if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            self._raise_failure()
            raise _ended()
        return cast("h11.Event", event)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure from None

    def _bytes(self, event: h11.Event) -> bytes:
        try:
            return self._http.send(event) or b""
        except h11.LocalProtocolError as error:  # such as more content than its Content-Length
            raise InvalidRequest(f"The request must be valid HTTP/1.1: {error}.") from None


def _head(request: HttpRequest) -> h11.Request:
    if not _METHOD.fullmatch(request.method) or request.method == "CONNECT":
        raise InvalidRequest(f"The method must be an HTTP method other than CONNECT, not {brief(request.method)}.")
    if not _TARGET.fullmatch(request.target):
        raise InvalidRequest(f"The path must begin with a slash and be percent-encoded, not {brief(request.target)}.")
    headers = list(end_to_end(request.headers))
    names = {name.lower() for name, _ in headers}
    if b"host" not in names:
        headers.insert(0, (b"Host", b"localhost"))
    if b"content-length" in names:
        pass
    elif not isinstance(request.content, bytes):
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif request.content or request.method in {"POST", "PUT", "PATCH"}:
        headers.append((b"Content-Length", b"%d" % len(request.content)))
    protocol = upgrade_of(request.headers)
    if protocol is None:
        headers.append((b"Connection", b"close"))
    else:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", protocol)]
    try:
        return h11.Request(method=request.method, target=request.target, headers=headers)
    except h11.LocalProtocolError as error:
        raise InvalidRequest(f"The request must be valid HTTP/1.1: {error}.") from None


def _ended() -> ConnectionEnded:
    return ConnectionEnded("The container closed the connection before its response was complete.")


async def _pieces(content: bytes | AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(content, bytes):
        if content:
            yield content
        return
    async for piece in content:
        if piece:
            yield piece


class _Switched:
    """A connection whose first bytes arrived with the response."""

    def __init__(self, connection: Connection, first: bytes) -> None:
        self._connection = connection
        self._first = first

    async def read(self) -> bytes:
        first, self._first = self._first, b""
        return first or await self._connection.read()

    async def write(self, data: bytes) -> None:
        await self._connection.write(data)

    async def end(self) -> None:
        await self._connection.end()

    async def close(self) -> None:
        await self._connection.close()
