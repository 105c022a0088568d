"""Whatever an endpoint does, a call returns or raises one of Greenroom's errors, in bounded time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.effort import examples

import greenroom
from greenroom import GreenroomError, SessionPool
from greenroom.azure.codecs.shared import API_VERSIONS
from greenroom.azure.httpx_transport import HttpxTransport

from .hostile import Behaviour, Resident, always, closing, endless, endpoint, response
from .scripted import ENDPOINT, pool_of

_MIB = 1 << 20
LIMIT = 60.0  # seconds, a safety limit
LARGE = bytes(5 * _MIB)  # an upload that is sent in pieces

Call: TypeAlias = Callable[[SessionPool], object]
AsyncCall: TypeAlias = Callable[[SessionPool], Awaitable[object]]

CALLS: dict[str, Call] = {
    "execute": lambda pool: pool.session("abcd").execute("1", timeout=0.1),
    "stream": lambda pool: list(pool.session("abcd").stream("1", timeout=0.1)),
    "submit": lambda pool: pool.session("abcd").submit("1", timeout=0.1).result(LIMIT),
    "upload": lambda pool: pool.session("abcd").upload(b"x", "sub/a"),
    "upload in pieces": lambda pool: pool.session("abcd").upload(LARGE, "sub/a"),
    "download": lambda pool: pool.session("abcd").download("sub/a"),
    "files": lambda pool: pool.session("abcd").files(),
    "files below": lambda pool: pool.session("abcd").files(recursive=True),
    "file": lambda pool: pool.session("abcd").file("sub/a"),
    "delete_file": lambda pool: pool.session("abcd").delete_file("sub/a"),
    "delete": lambda pool: pool.session("abcd").delete(),
    "info": lambda pool: pool.session("abcd").info(),
    "sessions": lambda pool: pool.sessions(),
    "status": lambda pool: pool.status(),
}


async def _astream(pool: SessionPool) -> list[object]:
    return [event async for event in pool.session("abcd").astream("1", timeout=0.1)]


ASYNC_CALLS: dict[str, AsyncCall] = {
    "execute": lambda pool: pool.session("abcd").aexecute("1", timeout=0.1),
    "stream": _astream,
    "submit": lambda pool: pool.session("abcd").submit("1", timeout=0.1).aresult(),
    "upload": lambda pool: pool.session("abcd").aupload(b"x", "sub/a"),
    "upload in pieces": lambda pool: pool.session("abcd").aupload(LARGE, "sub/a"),
    "download": lambda pool: pool.session("abcd").adownload("sub/a"),
    "files": lambda pool: pool.session("abcd").afiles(),
    "files below": lambda pool: pool.session("abcd").afiles(recursive=True),
    "file": lambda pool: pool.session("abcd").afile("sub/a"),
    "delete_file": lambda pool: pool.session("abcd").adelete_file("sub/a"),
    "delete": lambda pool: pool.session("abcd").adelete(),
    "info": lambda pool: pool.session("abcd").ainfo(),
    "sessions": lambda pool: pool.asessions(),
    "status": lambda pool: pool.astatus(),
}


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("client._TIMEOUT", "native._TIMEOUT", "native.MARGIN", "native._MAX_WAIT", "remote._TIMEOUT"):
        monkeypatch.setattr(f"greenroom.azure.{name}", 0.4)
    monkeypatch.setattr("greenroom.azure.client.MARGIN", 0.4)
    monkeypatch.setattr("greenroom.azure.client._LIST_TIMEOUT", 5)
    monkeypatch.setattr("greenroom.azure.client._MAX_PAGES", 20)
    monkeypatch.setattr("greenroom.azure.http._CONNECT_TIMEOUT", 0.4)
    monkeypatch.setattr("greenroom.azure.bodies.MIN_RATE", 1 << 20)


# It lies


FIELDS = [
    "id", "identifier", "status", "result", "stdout", "stderr", "executionResult", "executionTimeInMilliseconds",
    "properties", "value", "nextLink", "name", "filename", "type", "directory", "sizeInBytes", "lastModifiedAt", "size",
    "lastModifiedTime", "sessions", "createdAt", "lastAccessedAt", "expireAt", "error", "code", "message", "traceId",
    "target", "format", "base64_data", "detail", "title",
]  # fmt: skip
WORDS = [
    "Succeeded", "Failed", "Running", "Success", "Canceled", "directory", "image", "png", "../..", "/mnt/data", ".",
    "a/b", "\0", "\ud800", "?skip=1", "?skip=2", "//other/x", "http://[bad", "2024-11-11T09:05:02Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "SessionsCountExceedsLimit", "NoSessionFoundError",
    "There are already '99999999999999999999' active sessions and the maximum active sessions count is '1'",
    "Request timed out waiting for code execution to complete", "Execution aborted",
    "Traceback (most recent call last):\nNameError: x", "x" * 5000, "é" * 300,
]  # fmt: skip
texts = st.text(max_size=10) | st.sampled_from(WORDS)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([10**400, -(10**400), 1e308, -1])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=6),
    max_leaves=15,
)
MOMENT = "2024-11-11T09:05:02Z"
FILE = {"name": "a", "type": "directory", "sizeInBytes": 1, "lastModifiedAt": MOMENT, "directory": ""}
SESSION = {"identifier": "abcd", "createdAt": MOMENT, "lastAccessedAt": MOMENT, "expireAt": None}
STREAMS = {"stdout": "a", "stderr": "b", "executionResult": "c", "executionTimeInMilliseconds": 1}
USUAL: list[Any] = [
    {"id": "e1", "status": "Succeeded", "result": STREAMS},
    {"id": "e1", "status": "Failed", "result": STREAMS, "error": {"code": "x"}},
    {"id": "e1", "status": "Running"},
    {"properties": {"status": "Success", "result": 1, **STREAMS}},
    {"value": [FILE]},
    {"value": [{"properties": {"filename": "a", "size": 1, "lastModifiedTime": MOMENT}}], "nextLink": "?skip=1"},
    FILE,
    SESSION,
    {"sessions": [SESSION], "nextLink": "?skip=1"},
    {"error": {"code": "FileNotFound", "message": "no", "traceId": "t"}},
]


def _changed(value: Any, path: list[int], by: Any) -> Any:
    """The value with something in it replaced."""
    if not path or not isinstance(value, dict | list) or not value:
        return by
    old: Any = value  # pyright: ignore[reportUnknownVariableType]
    new = old.copy()
    keys: Any = list(old) if isinstance(value, dict) else range(len(old))
    key = keys[path[0] % len(old)]
    new[key] = _changed(old[key], path[1:], by)
    return new


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


bodies = (
    st.builds(_changed, st.sampled_from(USUAL), st.lists(st.integers(0, 20), max_size=4), values).map(_json)
    | values.map(_json)
    | st.binary(max_size=50)
    | st.sampled_from([b"", b"[" * 5000, b'{"id":' + b"9" * 5000 + b"}", b"\xff\xfe{}", b"NaN", b'"\\ud800"'])
)
headers = st.lists(
    st.tuples(
        st.sampled_from([
            "Retry-After", "Location", "Content-Encoding", "Content-Type", "x-ms-error-code", "x-ms-request-id",
            "operation-id", "Set-Cookie", "Operation-Location", "Link", "X",
        ]),
        st.sampled_from([
            "0", "0.001", "-1", "1e9", "999999999", "nan", "Fri, 31 Dec 1999 23:59:59 GMT", "٣", "gzip", "identity",
            "br", "gzip, gzip", "", "http://evil.example/", "http://[bad", "//", "http://\x00/", "/executions",
            "http://ä.example:99999/", "https://xn--.example/", "SessionsCountExceedsLimit", "x" * 5000,
            "a=b; Domain=.example; Max-Age=x",
        ]).map(lambda text: text.encode())
        | st.binary(max_size=10),
    ),
    max_size=3,
)  # fmt: skip
statuses = st.sampled_from([
    200, 200, 200, 201, 202, 204, 206, 226, 299, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 408, 409, 410,
    413, 418, 422, 429, 500, 501, 502, 503, 504, 599, 600, 999,
])  # fmt: skip
answers = st.lists(st.tuples(statuses, headers, bodies), min_size=1, max_size=3)


class Liar(httpx.AsyncBaseTransport):
    """Answers by its script, the last answer again and again."""

    def __init__(self) -> None:
        self.script: list[tuple[int, list[tuple[str, bytes]], bytes]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async for _ in request.stream:  # type: ignore[union-attr]
            pass
        status, given_headers, body = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        encoded = [(name.encode(), value) for name, value in given_headers]
        return httpx.Response(status, headers=encoded, stream=_Body(body))


class _Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), 100):
            yield self._content[start : start + 100]


@pytest.fixture(scope="module")
def liars() -> Iterator[dict[str, tuple[Liar, SessionPool]]]:
    """A pool of each version with its endpoint."""
    with contextlib.ExitStack() as stack:
        found: dict[str, tuple[Liar, SessionPool]] = {}
        for version in API_VERSIONS:
            liar = Liar()
            transport = HttpxTransport(ENDPOINT)
            # Below the real client, so that its own settings hold, such as to keep no cookie.
            transport._client._transport = liar  # pyright: ignore[reportPrivateUsage]
            pool = pool_of(transport, api_version=version, acquire_timeout=0.01)
            found[version] = liar, stack.enter_context(pool)
        yield found
        for liar, _ in found.values():
            liar.script = [(204, [], b"")]


@settings(max_examples=examples(250), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(API_VERSIONS), st.sampled_from(list(CALLS)), st.booleans(), answers)
def test_a_lying_endpoint_leads_to_a_result_or_a_greenroom_error(
    liars: dict[str, tuple[Liar, SessionPool]],
    version: str,
    name: str,
    asynchronous: bool,
    script: list[tuple[int, list[tuple[str, bytes]], bytes]],
) -> None:
    liar, pool = liars[version]
    liar.script = list(script)

    async def call() -> None:
        async with asyncio.timeout(LIMIT):
            await ASYNC_CALLS[name](pool)

    with contextlib.suppress(GreenroomError):
        if asynchronous:
            asyncio.run(call())
        else:
            CALLS[name](pool)


# It stops, trickles, floods and closes


HEAD = b"HTTP/1.1 200 OK\r\n"
START = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PACKED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
ERROR = b"HTTP/1.1 500 Oops\r\n\r\n"
ZEROS = gzip.compress(bytes(70 * _MIB))
MIB_CHUNK = b"100000\r\n" + b" " * _MIB + b"\r\n"

BEHAVIOURS: dict[str, Behaviour] = {
    "silent": endless(b"", b"", pause=0.05),
    "half a head": endless(HEAD, b"", pause=0.05),
    "a head in drops": endless(HEAD, b"X: y\r\n", pause=0.05),
    "early hints": endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", pause=0.05),
    "a body in drops": endless(START, b" ", pause=0.05),
    "chunks in drops": endless(CHUNKED, b"1\r\n \r\n", pause=0.05),
    "an error in drops": endless(ERROR, b" ", pause=0.05),
    "trailers in drops": endless(CHUNKED + b"0\r\n", b"X: y\r\n", pause=0.05),
    "a head without end": endless(HEAD, b"X: " + b"y" * 1000 + b"\r\n"),
    "a line without end": endless(HEAD + b"X: ", b"y" * 1000),
    "a body without end": endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * _MIB),
    "chunks without end": endless(CHUNKED, MIB_CHUNK),
    "chunk extensions without end": endless(CHUNKED, b"1;" + b"x" * 50_000 + b"\r\n \r\n"),
    "an error without end": endless(ERROR, b" " * _MIB),
    "a gzip without end": endless(PACKED + gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff" * 1000),
    "zeros in a gzip": always(response(ZEROS, "Content-Encoding: gzip")),
    "a gzip in a gzip": always(response(gzip.compress(ZEROS), "Content-Encoding: gzip, gzip")),
    "values": always(response(b"[" + b"{}," * (2 * _MIB) + b"1]")),
    "cookies": always(response(b"", *(f"Set-Cookie: a{number}=b" for number in range(2000)))),
    "closes": closing(b""),
    "closes in the head": closing(HEAD),
    "closes in the body": closing(START + b" " * 1000),
    "closes in a chunk": closing(CHUNKED + b"ff\r\nx"),
    "not HTTP": closing(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "two lengths": always(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "no number": always(b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n"),
    "other protocols": always(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + b"x" * 1000),
    "redirects": always(response(b"", "Location: http://127.0.0.1:1/", status=302)),
    "lists without end": always(response(_json({"value": [], "sessions": [], "nextLink": "?a=1"}))),
    "more than one answer": always(response(b"{}") * 3),
}  # fmt: skip


@pytest.mark.parametrize("version", ["2025-02-02-preview", "greenroom/1"])
@pytest.mark.parametrize("behave", BEHAVIOURS.values(), ids=BEHAVIOURS)
async def test_an_endpoint_that_stalls_trickles_floods_or_closes_does_no_harm(behave: Behaviour, version: str) -> None:
    """All calls at the same time, so that it takes the time of one."""

    async def outcome(call: AsyncCall) -> object:
        try:
            return await call(pool)
        except GreenroomError as error:
            return error

    with endpoint(behave) as url:
        options: dict[str, Any] = {"file_limit": "8Mi", "acquire_timeout": 0.2, "api_version": version}
        async with greenroom.connect(url, **options) as pool:
            with Resident() as memory:
                async with asyncio.timeout(LIMIT):
                    await asyncio.gather(*map(outcome, ASYNC_CALLS.values()))
    # Each of them may hold an answer of 64 MiB for a moment.
    assert memory.grown < 1500 * _MIB


@pytest.mark.parametrize("name", CALLS)
def test_the_blocking_calls_end_as_the_others_do(name: str) -> None:
    with (
        endpoint(BEHAVIOURS["closes in the body"]) as url,
        greenroom.connect(url, acquire_timeout=0.2) as pool,
        contextlib.suppress(GreenroomError),
    ):
        CALLS[name](pool)
