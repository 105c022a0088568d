"""HTTP without TLS and without a proxy, to a server on this machine: httpcore, which httpx uses, on asyncio's sockets.

The rest of httpx takes as much processor time again. Its client looks for proxies, redirects and cookies. Its sockets
take several turns of the event loop for each write, and ask the kernel about each connection that is not in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Generator, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import httpcore
import httpx

from greenroom.azure.httpx_transport import KEPT, Chunks, checked_url, reason
from greenroom.azure.transport import Broken, Request, Response, Unreachable

_MOST_UNREAD = 256 << 10
"""Bytes received but not read, above which no more are received."""
_MAX_TARGETS = 1000


class PlainTransport:
    """A `Transport` with a pool of connections."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: the beginning of all request URLs; its scheme is `http`.

        Raises:
            InvalidRequest: the URL's host is not a valid name.
        """
        origin = checked_url(url)
        self._url = partial(httpcore.URL, scheme=b"http", host=origin.raw_host, port=origin.port)
        self._added = ((b"Host", origin.netloc), (b"Accept", b"*/*"), (b"Connection", b"keep-alive"))
        self._pool = httpcore.AsyncConnectionPool(**KEPT, network_backend=_Sockets())

    async def send(self, request: Request) -> Response:
        times = {
            "connect": request.connect_timeout,
            "read": request.read_timeout,
            "write": request.write_timeout,
            "pool": None,
        }
        with _own_errors():
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    request.method.encode(),
                    self._url(target=_target(request.url)),
                    headers=self._headers(request),
                    content=request.content,
                    extensions={"timeout": times},
                )
            )
        headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers:
            name, value = _text(raw_name).lower(), _text(raw_value)
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        chunks = Chunks(response.stream, _own_errors)
        return Response(response.status, headers, chunks, response.aclose, response.headers)

    async def close(self) -> None:
        await self._pool.aclose()

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        """Return the given headers, and those that httpx adds to them."""
        given = request.headers.items() if isinstance(request.headers, Mapping) else request.headers
        fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in given]
        names = {name.lower() for name, _ in fields}
        fields = [*(field for field in self._added if field[0].lower() not in names), *fields]
        if not names & {b"content-length", b"transfer-encoding"}:
            if not isinstance(request.content, bytes | None):
                fields.append((b"Transfer-Encoding", b"chunked"))
            elif request.content or request.method in {"POST", "PUT", "PATCH"}:
                fields.append((b"Content-Length", b"%d" % len(request.content or b"")))
        return fields


def _text(field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError:
        return field.decode("latin-1")


@lru_cache(_MAX_TARGETS)
def _target(url: str) -> bytes:
    """Return the path and the query, percent-encoded as by httpx, which takes long; most requests repeat a URL."""
    return httpx.URL(url).raw_path


class _Sockets(httpcore.AsyncNetworkBackend):
    """Makes connections with asyncio."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        del local_address, socket_options  # the pool has none
        try:
            async with asyncio.timeout(timeout):
                _, stream = await asyncio.get_running_loop().create_connection(_Stream, host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{error}") from None
        except OSError as error:
            raise httpcore.ConnectError(f"{error}") from None
        return stream


class _Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """A connection. It sends the head and the body of a request together, which httpcore writes one after the other."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unsent = b""
        self._unread = bytearray()
        self._ended = False
        """Whether nothing more will be received."""
        self._error: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._sending = True
        """Whether a request is being sent: until the first `read`."""
        self._writable = asyncio.Event()
        self._writable.set()

    # For asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a stream's always is
        transport.set_write_buffer_limits(high=0)  # writing waits until the kernel has everything
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > _MOST_UNREAD:
            self._transport.pause_reading()
        self._arrived()

    def eof_received(self) -> bool:
        self._ended = True
        self._arrived()
        return True  # the request may not be complete

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._error = True, self._error or exc
        self._arrived()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # For httpcore

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._sending = False
        if not self._unread and not self._ended:
            self._arrival = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrival
            except TimeoutError as error:
                raise httpcore.ReadTimeout(f"{error}") from None
        if self._error is not None and not self._unread:
            raise httpcore.ReadError(f"{self._error}") from None
        data = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        if len(self._unread) <= _MOST_UNREAD:
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self._sending:  # the connection has been used before, and the server may have closed it since
            if self._transport.is_closing() or _is_readable(self._transport.get_extra_info("socket").fileno()):
                raise httpcore.ConnectionNotAvailable  # the pool takes another one, as nothing was sent
            self._sending = True
        if self._transport.is_closing():
            raise httpcore.WriteError("the connection was closed")
        if buffer and not self._unsent and self._writable.is_set():
            self._unsent = buffer
            self._loop.call_soon(self._send)
            return
        self._unsent += buffer
        self._send()
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._writable.wait()
            except TimeoutError as error:
                raise httpcore.WriteTimeout(f"{error}") from None

    async def aclose(self) -> None:
        if not self._ended:
            self._error = ConnectionAbortedError("the connection was closed")  # what was received is not complete
        self._transport.abort()  # nothing is unsent, unless the request is given up
        await asyncio.sleep(0)  # asyncio closes the socket in the next turn

    def get_extra_info(self, info: str) -> Any:
        # Asked about a connection that is not in use: it is not used again if it has ended, or has an unasked response.
        return bool(self._ended or self._unread) if info == "is_readable" else None

    def _send(self) -> None:
        data, self._unsent = self._unsent, b""
        if data:
            self._transport.write(data)

    def _arrived(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


def _is_readable(descriptor: int) -> bool:
    """Whether data or the end of a connection has arrived. The event loop may not have had time to notice."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))


@contextlib.contextmanager
def _own_errors() -> Generator[None, None, None]:
    try:
        yield
    except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
        raise Unreachable(reason(error)) from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpx.InvalidURL) as error:
        raise Broken(reason(error)) from None
