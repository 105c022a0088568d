"""The transports on real sockets: the bytes on the wire, the trusted certificates, and the errors that they raise."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import greenroom
from greenroom import InvalidRequest, ServiceFailed
from greenroom.azure.httpx_transport import HttpxTransport
from greenroom.azure.plain_transport import PlainTransport
from greenroom.azure.transport import Broken, Request, Transport, TransportError, Unreachable
from greenroom.server.transport.tls import Certificate, self_signed

from .hostile import Behaviour, always, closing, endpoint, response
from .scripted import executed

SOURCES = Path(__file__).parents[2] / "packages"
HELLO = executed(stdout="hi").content
assert isinstance(HELLO, bytes)
ANSWER = always(response(HELLO))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


Exchange: TypeAlias = Callable[[str, Request], Awaitable[tuple[int, dict[str, str], bytes]]]
"""Sends a request; returns the status, the headers and the body of the response."""


async def received(transport: Transport, request: Request) -> tuple[int, dict[str, str], bytes]:
    response = await transport.send(request)
    try:
        return response.status, dict(response.headers), b"".join([chunk async for chunk in response.chunks])
    finally:
        await response.close()


@pytest.fixture(params=[HttpxTransport, PlainTransport])
def exchange(request: pytest.FixtureRequest) -> Exchange:
    """Sends a request with a new transport."""

    async def exchange(url: str, sent: Request) -> tuple[int, dict[str, str], bytes]:
        transport: Transport = request.param(url)
        try:
            return await received(transport, sent)
        finally:
            await transport.close()

    return exchange


# The wire


async def test_a_url_is_sent_unchanged(exchange: Exchange) -> None:
    heads: list[bytes] = []
    path = "/files/a%26b%23%3F%252F%C3%A9.txt/content?identifier=a%26identifier%3Dother%23%3F&path=sub%20dir%2Fx%2By"
    with endpoint(always(response(b"x")), heads) as url:
        assert await exchange(url, Request("GET", url + path)) == (200, {"content-length": "1"}, b"x")
    assert heads[0].startswith(b"GET " + path.encode() + b" HTTP/1.1\r\n")


async def test_headers_are_in_lower_case_and_a_repeated_one_is_joined(exchange: Exchange) -> None:
    with endpoint(always(response(b"", "Content-Encoding: gzip", "CONTENT-ENCODING: br", status=503))) as url:
        status, headers, _ = await exchange(url, Request("GET", url))
    assert (status, headers["content-encoding"]) == (503, "gzip, br")


async def test_a_body_is_not_decompressed(exchange: Exchange) -> None:
    with endpoint(always(response(b"nonsense", "Content-Encoding: gzip"))) as url:
        assert (await exchange(url, Request("GET", url)))[2] == b"nonsense"


async def test_an_iterator_is_sent_in_chunks(exchange: Exchange) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"defg"

    bodies: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(response(b""))

    with endpoint(behave) as url:
        await exchange(url, Request("POST", url, content=content()))
    assert bodies == [b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"]


async def test_a_redirect_is_not_followed(exchange: Exchange) -> None:
    with endpoint(always(response(b"", "Location: http://127.0.0.1:1/", status=302))) as url:
        assert (await exchange(url, Request("GET", url)))[0] == 302


# Errors


async def test_a_port_without_a_listener_is_unreachable(exchange: Exchange) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"."):
            await exchange(url, Request("GET", url))


@pytest.mark.parametrize(
    "behave",
    [
        closing(b""),
        closing(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        closing(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
        always(response(b"", "Location: http://[bad", status=302)),
        always(response(b"", "Location: http://\x00/", status=302)),
    ],
    ids=["closes", "is not HTTP", "closes in the body", "a redirect to nowhere", "a redirect with a NUL"],
)
async def test_any_other_failure_is_a_broken_connection(exchange: Exchange, behave: Behaviour) -> None:
    with endpoint(behave) as url, contextlib.suppress(Broken):
        assert (await exchange(url, Request("GET", url)))[0] == 302


async def test_a_response_that_does_not_come_is_a_broken_connection(exchange: Exchange) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.read()

    with endpoint(behave) as url, pytest.raises(Broken, match=r"."):
        await exchange(url, Request("GET", url, read_timeout=0.2))


async def test_library_errors_are_not_chained(exchange: Exchange) -> None:
    with endpoint(closing(b"")) as url, pytest.raises(TransportError) as caught:
        await exchange(url, Request("GET", url))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# Connections of `PlainTransport`


Opened: TypeAlias = Callable[[str], PlainTransport]


@pytest.fixture
async def plain() -> AsyncGenerator[Opened, None]:
    """Opens transports, and closes them."""
    async with contextlib.AsyncExitStack() as stack:

        def open_transport(url: str) -> PlainTransport:
            transport = PlainTransport(url)
            stack.push_async_callback(transport.close)
            return transport

        yield open_transport


async def test_a_connection_is_used_again(plain: Opened) -> None:
    ports: set[int] = set()

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        writer.write(response(b"x"))

    with endpoint(behave) as url:
        transport = plain(url)
        for _ in range(3):
            assert (await received(transport, Request("POST", url, content=b"1+1")))[2] == b"x"
    assert len(ports) == 1


async def test_a_connection_that_the_server_closed_is_not_used_again(plain: Opened) -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"x"))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        loop.call_soon_threadsafe(closed.set)

    with endpoint(behave) as url:
        transport = plain(url)
        for _ in range(3):
            closed.clear()
            assert (await received(transport, Request("GET", url)))[2] == b"x"
            await closed.wait()


async def test_a_response_that_nobody_asked_for_is_not_taken_for_that_to_the_next_request(plain: Opened) -> None:
    loop = asyncio.get_running_loop()
    received_one, sent_another = threading.Event(), asyncio.Event()

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"x"))
        await asyncio.to_thread(received_one.wait, 60)
        received_one.clear()
        writer.write(response(b"unasked"))
        loop.call_soon_threadsafe(sent_another.set)

    with endpoint(behave) as url:
        transport = plain(url)
        for _ in range(3):
            assert (await received(transport, Request("GET", url)))[2] == b"x"
            received_one.set()
            await sent_another.wait()
            sent_another.clear()


async def test_bodies_larger_than_all_buffers_pass_in_both_directions(plain: Opened) -> None:
    size = 32 << 20

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(await reader.readexactly(size)))

    async def content() -> AsyncIterator[bytes]:
        for _ in range(size >> 16):
            yield bytes(1 << 16)

    with endpoint(behave) as url:
        fields = {"Content-Length": str(size)}
        for body in (content(), bytes(size)):
            _, _, echoed = await received(
                plain(url), Request("PUT", url, fields, body, read_timeout=60, write_timeout=60)
            )
            assert echoed == bytes(size)


async def test_the_head_is_sent_while_the_body_is_awaited(plain: Opened) -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop.call_soon_threadsafe(arrived.set)
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(response(b""))

    async def content() -> AsyncIterator[bytes]:
        async with asyncio.timeout(60):
            await arrived.wait()
        yield b"x"

    with endpoint(behave) as url:
        assert (await received(plain(url), Request("POST", url, content=content())))[0] == 200


@pytest.mark.parametrize("size", [1 << 10, 1 << 16])
async def test_a_server_that_does_not_receive_is_a_broken_connection(plain: Opened, size: int) -> None:
    taken = 0

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        transport.pause_reading()
        await asyncio.sleep(60)

    async def content() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            await asyncio.sleep(0)  # as if it waited for its own source
            yield bytes(size)
            taken += size

    with endpoint(behave) as url, pytest.raises(Broken, match=r"."):
        await received(plain(url), Request("POST", url, content=content(), write_timeout=0.2, read_timeout=0.2))
    assert taken < 32 << 20, "only the kernel's buffers take what the server does not"


async def test_a_refusal_of_a_body_arrives_though_the_connection_is_reset(plain: Opened) -> None:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        reset = struct.pack("ii", 1, 0)  # no lingering: closing sends RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.close()

    with endpoint(behave) as url:
        transport = plain(url)
        status, _, _ = await received(transport, Request("GET", url, read_timeout=60))
    assert status == 413


async def test_a_connection_that_was_closed_while_the_client_was_busy_is_not_used(plain: Opened) -> None:
    with endpoint(closing(response(b"x"))) as url:
        transport = plain(url)
        for _ in range(3):
            status, _, body = await received(transport, Request("POST", url, content=b"1", read_timeout=60))
            assert (status, body) == (200, b"x")
            time.sleep(0.5)  # noqa: ASYNC251  the event loop cannot notice the end of the connection meanwhile


async def test_a_cancelled_request_ends_its_connection(plain: Opened) -> None:
    loop = asyncio.get_running_loop()
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def behave(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        loop.call_soon_threadsafe(arrived.set)
        await reader.read()
        loop.call_soon_threadsafe(ended.set)

    with endpoint(behave) as url:
        sending = asyncio.create_task(received(plain(url), Request("GET", url, read_timeout=60)))
        async with asyncio.timeout(60):
            await arrived.wait()
            sending.cancel()
            await asyncio.wait([sending])
            await ended.wait()
    assert sending.cancelled()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of this machine, signed by an authority that is not trusted by default."""
    return self_signed(tmp_path_factory.mktemp("tls") / "own", ["localhost", "127.0.0.1"])


@pytest.fixture
def serving_tls(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


@pytest.fixture
def trusting(certificate: Certificate) -> ssl.SSLContext:
    assert certificate.authority is not None
    return ssl.create_default_context(cafile=certificate.authority)


def test_an_ssl_context_decides_which_servers_to_trust(serving_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with endpoint(ANSWER, certificate=serving_tls) as url:
        with greenroom.connect(url, api_version="2025-10-02-preview", ssl_context=trusting) as pool:
            assert pool.session("abcd").execute("1").stdout == "hi"
        with greenroom.connect(url) as pool, pytest.raises(ServiceFailed, match=r"(?i)certificate.*Nothing was run"):
            pool.session("abcd").execute("1")


def test_an_ssl_context_comes_as_an_argument_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="The option ssl_context must be an instance of SSLContext, not 'x'"):
        greenroom.connect("http://127.0.0.1:8080?ssl_context=x")
    monkeypatch.setenv("GREENROOM_SSL_CONTEXT", "x")
    greenroom.connect("http://127.0.0.1:8080").close()


# A proxy


class Proxy:
    """An HTTP proxy on the loopback, for plain requests and for tunnels; records the head of each request."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.heads: list[str] = []
        self._context = context
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.contextmanager
    def running(self) -> Generator[str, None, None]:
        loop, started = asyncio.new_event_loop(), threading.Event()
        addresses: list[str] = []

        async def serve() -> None:
            server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._context)
            scheme = "http" if self._context is None else "https"
            addresses.append(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            started.set()
            with contextlib.suppress(asyncio.CancelledError):
                await server.serve_forever()
            handlers = asyncio.all_tasks() - {asyncio.current_task()}
            for each in handlers:
                each.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0)  # what was aborted is closed in the next turn of the loop

        task = loop.create_task(serve())
        thread = threading.Thread(target=loop.run_until_complete, args=(task,))
        thread.start()
        assert started.wait(60)
        try:
            yield addresses[0]
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(60)
            loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        method, target, _ = head.split(b" ", 2)
        address = target if method == b"CONNECT" else target.split(b"/", 3)[2]
        host, _, port = address.decode().partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self._writers.append(far_writer)
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far_writer.write(head)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


def test_a_proxy_carries_plain_requests() -> None:
    proxy = Proxy()
    with (
        endpoint(ANSWER) as url,
        proxy.running() as address,
        greenroom.connect(url, api_version="2025-10-02-preview", proxy=address) as pool,
    ):
        assert pool.session("abcd").execute("1").stdout == "hi"
    assert proxy.heads[0].startswith(f"POST {url}/executions?")


def test_a_proxy_carries_tls_without_reading_it(serving_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    proxy = Proxy()
    with (
        endpoint(ANSWER, certificate=serving_tls) as url,
        proxy.running() as address,
        greenroom.connect(url, api_version="2025-10-02-preview", proxy=address, ssl_context=trusting) as pool,
    ):
        assert pool.session("abcd").execute("1").stdout == "hi"
    authority = url.removeprefix("https://")
    assert [head.splitlines()[0] for head in proxy.heads] == [f"CONNECT {authority} HTTP/1.1"]
    assert "Bearer" not in proxy.heads[0]


def test_a_proxy_can_use_tls_itself(serving_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    proxy = Proxy(serving_tls)
    with (
        endpoint(ANSWER, certificate=serving_tls) as url,
        proxy.running() as address,
        greenroom.connect(url, api_version="2025-10-02-preview", proxy=address, ssl_context=trusting) as pool,
    ):
        assert pool.session("abcd").execute("1").stdout == "hi"
    assert len(proxy.heads) == 1


def test_a_proxy_gets_its_user_and_password() -> None:
    proxy = Proxy()
    with (
        endpoint(ANSWER) as url,
        proxy.running() as address,
        greenroom.connect(url, api_version="2025-10-02-preview", proxy=address.replace("//", "//user:secret@")) as pool,
    ):
        assert "secret" not in repr(pool)
        assert pool.session("abcd").execute("1").stdout == "hi"
    assert "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in proxy.heads[0]


def test_a_missing_proxy_is_reported_as_unreachable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with (
            endpoint(ANSWER) as url,
            greenroom.connect(url, api_version="2025-10-02-preview", proxy=address) as pool,
            pytest.raises(ServiceFailed, match="cannot be reached"),
        ):
            pool.session("abcd").execute("1")


@pytest.mark.parametrize(
    "proxy", ["socks5://user:secret@h:1", "h:8080", "http://", "http://user:secret@h:port", "http://user:secret@h/x"]
)
def test_a_proxy_is_the_url_of_an_http_proxy(proxy: str) -> None:
    with pytest.raises(InvalidRequest, match="The option proxy must") as caught:
        greenroom.connect("http://127.0.0.1:8080", proxy=proxy)
    assert "secret" not in str(caught.value)


def test_a_proxy_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    with endpoint(ANSWER) as url, proxy.running() as address:
        monkeypatch.setenv("GREENROOM_PROXY", address)
        with greenroom.connect(url, api_version="2025-10-02-preview") as pool:
            assert pool.session("abcd").execute("1").stdout == "hi"
    assert len(proxy.heads) == 1


# The library


def _imports(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def test_two_modules_import_httpx() -> None:
    sources: Any = SOURCES.glob("*/src/**/*.py")
    found = [path.name for path in sources if _imports(path.read_text()) & {"httpx", "httpx2", "httpcore"}]
    assert sorted(found) == ["httpx_transport.py", "plain_transport.py"]
