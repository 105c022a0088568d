"""A malicious endpoint: its data is counted before it is kept, and no call waits for it forever."""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import json
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import greenroom
from greenroom import AccessDenied, Execution, FileRefused, ServiceFailed, SessionPool, wire
from greenroom.connecting import open_backend
from greenroom.wire.content import encode_chunk, encode_content_end
from greenroom.wire.executions import execution_lines
from greenroom.wire.values import dump

from .hostile import Behaviour, Resident, always, endless, endpoint, response
from .scripted import TOKEN, Answer, Azure, Request, answered, executed, pool_of

_MIB = 1 << 20
SOON = 60.0  # seconds, a safety limit
_PAUSE = 5.0


@dataclass(frozen=True)
class Contract:
    """A version, and the bytes that an endpoint answers in it."""

    version: str
    said_hi: bytes
    """An execution that printed it."""

    def connect(self, url: str, **options: Any) -> SessionPool:
        return greenroom.connect(url, api_version=self.version, **options)

    def file(self, content: bytes) -> bytes:
        """The body of a download."""
        native = self.version == wire.VERSION
        return encode_chunk(content) + encode_content_end() if native else content

    def begun(self, size: int) -> bytes:
        """The beginning of the body of a download."""
        return encode_chunk(bytes(size))[:-size] if self.version == wire.VERSION else b""

    @property
    def uploaded(self) -> bytes:
        file = {"path": "/mnt/data/a", "size": 1, "modified": "2024-11-11T09:05:02Z"}
        return json.dumps(file if self.version == wire.VERSION else _entry("a")).encode()


@pytest.fixture(params=["2025-10-02-preview", wire.VERSION])
def contract(request: pytest.FixtureRequest) -> Contract:
    if request.param == wire.VERSION:
        said = b"".join(map(dump, execution_lines(Execution("1", "succeeded", stdout="hi"))))
    else:
        said = executed(stdout="hi").content
    assert isinstance(said, bytes)
    return Contract(request.param, said)


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of time are small ones."""
    _limit_times(monkeypatch, 0.3)


@pytest.fixture
def sufficient_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of time are shorter than the pauses of `_PAUSE`, and longer than those of a busy machine."""
    _limit_times(monkeypatch, _PAUSE - 1)


def _limit_times(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in ("client", "native"):
        monkeypatch.setattr(f"greenroom.azure.{module}._TIMEOUT", seconds)
        monkeypatch.setattr(f"greenroom.azure.{module}.MARGIN", seconds)
    monkeypatch.setattr("greenroom.azure.remote._TIMEOUT", seconds)
    monkeypatch.setattr("greenroom.azure.http._CONNECT_TIMEOUT", seconds)


@functools.cache
def bomb(size: int) -> bytes:
    """Zeros, packed."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(_MIB)) for _ in range(size // _MIB)) + packer.flush()


# What is packed


def test_one_gzip_is_unpacked(contract: Contract) -> None:
    packed = response(gzip.compress(contract.said_hi), "Content-Encoding: gzip")
    with endpoint(always(packed)) as url, contract.connect(url) as pool:
        assert pool.session("abcd").execute("1").stdout == "hi"
    packed = response(gzip.compress(contract.file(bytes(3 * _MIB))), "Content-Encoding: x-gzip")
    with endpoint(always(packed)) as url, contract.connect(url) as pool:
        assert pool.session("abcd").download("a") == bytes(3 * _MIB)


def test_every_request_asks_for_an_uncompressed_response() -> None:
    azure = Azure(executed())
    with pool_of(azure) as pool:
        pool.session("abcd").execute("1")
    assert azure.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("coding", ["gzip, gzip", "GZIP,gzip", "deflate", "br", "zstd", "compress", "gzip;q=1", "x"])
def test_a_response_with_another_encoding_than_gzip_is_refused(contract: Contract, status: int, coding: str) -> None:
    twice = gzip.compress(bomb(512 * _MIB))
    with (
        endpoint(always(response(twice, f"Content-Encoding: {coding}", status=status))) as url,
        contract.connect(url, acquire_timeout=0) as pool,
        Resident() as memory,
    ):
        with pytest.raises(ServiceFailed):
            pool.session("abcd").execute("1")
        with pytest.raises(ServiceFailed):
            pool.session("abcd").download("a")
    assert memory.grown < 100 * _MIB


@pytest.mark.parametrize(
    "content",
    [b"nonsense", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"more", gzip.compress(b"{}") * 2, b""],
    ids=["not gzip", "cut", "more", "two", "nothing"],
)
def test_an_invalid_gzip_is_refused(contract: Contract, content: bytes) -> None:
    packed = response(content, "Content-Encoding: gzip")
    with endpoint(always(packed)) as url, contract.connect(url) as pool, pytest.raises(ServiceFailed):
        pool.session("abcd").download("a")


def test_a_gzip_bomb_takes_no_more_memory_than_its_limit(contract: Contract) -> None:
    packer = zlib.compressobj(9, wbits=31)  # one gzip of the head of a chunk and of zeros
    begun = packer.compress(contract.begun(512 * _MIB))
    content = begun + b"".join(packer.compress(bytes(_MIB)) for _ in range(512)) + packer.flush()
    with (
        endpoint(always(response(content, "Content-Encoding: gzip"))) as url,
        contract.connect(url, file_limit="1Mi") as pool,
        Resident() as memory,
    ):
        with pytest.raises(FileRefused, match="over the limit"):
            pool.session("abcd").download("a")
        with pytest.raises(ServiceFailed, match="at most"):
            pool.session("abcd").execute("1")
    assert memory.grown < 300 * _MIB  # an answer may have 64 MiB


def test_a_gzip_that_never_yields_anything_ends(contract: Contract) -> None:
    start = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
    empty = b"\x00\x00\x00\xff\xff" * 10_000  # blocks that hold nothing
    with (
        endpoint(endless(start, empty)) as url,
        contract.connect(url, file_limit="1Mi") as pool,
        pytest.raises(ServiceFailed, match="at most"),
    ):
        pool.session("abcd").download("a")


# Time


HEADS: dict[str, Behaviour] = {
    "silence": endless(b"", b"", pause=0.05),
    "a head of one line after the other": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", pause=0.05),
    "early hints without end": endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", pause=0.01),
    "early hints as fast as they are taken": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000),
}


@pytest.mark.usefixtures("short_timeouts")
@pytest.mark.parametrize("behave", HEADS.values(), ids=HEADS)
def test_a_response_that_does_not_start_is_abandoned(contract: Contract, behave: Behaviour) -> None:
    with endpoint(behave) as url, contract.connect(url) as pool:
        began = time.monotonic()
        with pytest.raises(ServiceFailed, match=r"in time|Timeout"):
            pool.session("abcd").submit("1", timeout=0.2).result(SOON)
        with pytest.raises(ServiceFailed):
            pool.session("abcd").download("a")
        assert time.monotonic() - began < SOON


@pytest.mark.usefixtures("short_timeouts")
def test_a_trickling_download_is_abandoned(contract: Contract) -> None:
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + contract.begun(90_000_000)
    with endpoint(endless(start, b"x", pause=0.05)) as url, contract.connect(url) as pool:
        began = time.monotonic()
        with pytest.raises(ServiceFailed, match="slowly"):
            pool.session("abcd").download("a")
        assert time.monotonic() - began < SOON


@pytest.mark.usefixtures("sufficient_timeouts")
async def test_a_download_waits_for_a_slow_consumer(contract: Contract) -> None:
    content = bytes(8 * _MIB)
    with endpoint(always(response(contract.file(content)))) as url:
        pool = await open_backend(url, api_version=contract.version)
        size = 0
        async for chunk in pool.download("abcd", "/mnt/data/a"):
            size += len(chunk)
            if size % (4 * _MIB) < len(chunk):
                await asyncio.sleep(_PAUSE)  # more than the endpoint may take
        await pool.close()
    assert size == len(content)


@pytest.mark.usefixtures("short_timeouts")
def test_an_upload_that_the_endpoint_does_not_read_is_abandoned(contract: Contract) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader, writer
        await asyncio.sleep(SOON)

    with endpoint(behave) as url, contract.connect(url, file_limit="1Gi") as pool:
        began = time.monotonic()
        with pytest.raises(ServiceFailed):
            pool.session("abcd").upload(io.BufferedReader(_Zeros(256 * _MIB)), "a")
        assert time.monotonic() - began < SOON


class _Zeros(io.RawIOBase):
    """A file of zeros."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = min(len(buffer), self._left)
        self._left -= size
        buffer[:size] = bytes(size)
        return size


@pytest.mark.usefixtures("sufficient_timeouts")
async def test_an_upload_waits_for_a_slow_source(contract: Contract) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(SOON):
            while not (await reader.read(1 << 16)).endswith(b"0\r\n\r\n"):
                pass
        writer.write(response(contract.uploaded))

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield bytes(3 * _MIB)
            await asyncio.sleep(_PAUSE)  # more than the endpoint may take

    with endpoint(behave) as url:
        pool = await open_backend(url, api_version=contract.version)
        assert (await pool.upload("abcd", "/mnt/data/a", slow())).name == "a"
        await pool.close()


async def test_errors_of_an_upload_source_arrive_unchanged(contract: Contract) -> None:
    class OfTheCallers(Exception):
        pass

    async def broken(error: Exception) -> AsyncIterator[bytes]:
        for _ in range(6):
            yield bytes(_MIB)
        raise error

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        while await reader.read(1 << 16):
            pass

    with endpoint(behave) as url:
        pool = await open_backend(url, api_version=contract.version)
        for error in (OfTheCallers(), TimeoutError("the caller's own")):
            with pytest.raises(type(error)) as caught:
                await pool.upload("abcd", "/mnt/data/a", broken(error))
            assert caught.value is error
        await pool.close()


# Lists


def _entry(name: str, kind: str = "file") -> dict[str, Any]:
    return {"name": name, "type": kind, "sizeInBytes": 1, "lastModifiedAt": "2024-11-11T09:05:02Z"}


def _session(identifier: str) -> dict[str, Any]:
    moment = "2024-11-11T09:05:02Z"
    return {"identifier": identifier, "createdAt": moment, "lastAccessedAt": moment, "expireAt": moment}


def _pages(name: str, entries: list[Any]) -> Azure:
    numbers: Iterator[int] = iter(range(1, 1_000_000))
    return Azure(lambda _: answered({name: entries, "nextLink": f"?skip={next(numbers)}"}))


@pytest.mark.parametrize("version", ["2024-02-02-preview", "2025-02-02-preview", "2025-10-02-preview"])
def test_a_list_has_no_more_entries_than_a_local_one_over_all_its_pages(version: str) -> None:
    legacy = version < "2024-10"
    moment = "2024-11-11T09:05:02Z"
    entry = {"properties": {"filename": "a", "size": 1, "lastModifiedTime": moment}} if legacy else _entry("a")
    azure = _pages("value", [entry] * 5001)
    with (
        pool_of(azure, api_version=version) as pool,
        Resident() as memory,
        pytest.raises(ServiceFailed, match="at most 20000 entries"),
    ):
        pool.session("abcd").files(recursive=not legacy)
    assert len(azure.requests) == 4
    assert memory.grown < 100 * _MIB


def test_the_directories_of_a_list_have_no_more_entries_together() -> None:
    azure = Azure(answered({"value": [_entry("d", "directory"), *([_entry("a")] * 7000)]}))
    with (
        pool_of(azure, api_version="2025-02-02-preview") as pool,
        pytest.raises(ServiceFailed, match="at most 20000 entries"),
    ):
        pool.session("abcd").files(recursive=True)
    assert len(azure.requests) == 3


def test_a_list_of_sessions_has_a_limit() -> None:
    azure = _pages("sessions", [_session("abcd")] * 5001)
    with pool_of(azure) as pool, pytest.raises(ServiceFailed, match="at most 20000 entries"):
        pool.sessions()
    assert len(azure.requests) == 4


def test_a_long_list_that_is_allowed_arrives() -> None:
    first = {"value": [_entry(f"a{number}") for number in range(15_000)], "nextLink": "?skip=15000"}
    last = {"value": [_entry(f"b{number}") for number in range(5_000)]}
    with pool_of(Azure(answered(first), answered(last))) as pool:
        assert len(pool.session("abcd").files()) == 20_000


def test_a_list_that_takes_too_long_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.azure.client._LIST_TIMEOUT", 0.5)

    async def slow(request: Request) -> Answer:
        await asyncio.sleep(0.1)
        return answered({"value": [], "nextLink": f"?skip={len(azure.requests)}"})

    azure = Azure(slow)
    with pool_of(azure, acquire_timeout=0) as pool, pytest.raises(ServiceFailed, match="complete within"):
        pool.session("abcd").files()
    assert len(azure.requests) < 100


@pytest.mark.parametrize("name", [".", "..", ""])
def test_a_list_does_not_contain_the_parent_directory(name: str) -> None:
    azure = Azure(answered({"value": [_entry(name, "directory")]}))
    with pool_of(azure, api_version="2025-02-02-preview") as pool, pytest.raises(ServiceFailed):
        pool.session("abcd").files(recursive=True)
    assert len(azure.requests) == 1


def test_the_next_page_of_a_list_is_of_the_same_session_and_version() -> None:
    link = "?skip=1&identifier=another&api-version=2000-01-01"
    azure = Azure(answered({"value": [], "nextLink": link}), answered({"value": []}))
    with pool_of(azure) as pool:
        pool.session("abcd").files()
    assert azure.requests[1].params["identifier"] == "abcd"
    assert azure.requests[1].params["api-version"] == "2025-10-02-preview"


# Values, and what else would be kept


@pytest.mark.parametrize("piece", [b"{},", b"[],", b'{"a":1},', b"1,", b'"",'])
def test_json_that_grows_is_not_parsed(piece: bytes) -> None:
    body = b"[" + piece * (16 * _MIB // len(piece)) + b"1]"
    azure = Azure(Answer(200, body))
    with pool_of(azure) as pool, Resident() as memory, pytest.raises(ServiceFailed, match="values"):
        pool.session("abcd").execute("1")
    assert memory.grown < 200 * _MIB


def test_a_large_output_arrives() -> None:
    text = '[{},"\\' * (2 * _MIB)
    with pool_of(Azure(executed(stdout=text))) as pool:
        assert pool.session("abcd").execute("1").stdout == text


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deeply_nested_json_is_an_error_of_the_service(depth: int) -> None:
    azure = Azure(Answer(200, b"[" * depth + b"]" * depth))
    with pool_of(azure) as pool, pytest.raises(ServiceFailed, match="nested"):
        pool.session("abcd").execute("1")


def test_no_cookie_is_kept(contract: Contract) -> None:
    heads: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(response(contract.said_hi, "Set-Cookie: a=b; Path=/"))

    with endpoint(behave, heads) as url, contract.connect(url) as pool:
        for _ in range(2):
            pool.session("abcd").execute("1")
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


def test_the_id_of_a_running_execution_has_a_limit() -> None:
    answer = answered({"id": "x" * 100_000, "status": "Running"})
    with pool_of(Azure(answer)) as pool, pytest.raises(ServiceFailed, match="at most 1000 characters"):
        pool.session("abcd").execute("1")


def test_the_length_of_an_error_is_limited() -> None:
    headers = {"x-ms-error-code": "c" * 50_000, "x-ms-request-id": "r" * 50_000}
    azure = Azure(answered({"error": {"message": "m" * 50_000, "traceId": "t" * 9000}}, 500, **headers))
    with pool_of(azure) as pool, pytest.raises(ServiceFailed) as caught:
        pool.session("abcd").execute("1")
    assert len(str(caught.value)) < 5000


def test_a_credentials_token_that_no_header_can_hold_is_not_shown() -> None:
    class Token:
        token = "the-secret\nö"
        expires_on = 2**31

    class Credential:
        def get_token(self, *_: object) -> Token:
            return Token()

    with pool_of(Azure(), credential=Credential()) as pool, pytest.raises(AccessDenied) as caught:
        pool.session("abcd").execute("1")
    assert "secret" not in str(caught.value)
    assert TOKEN not in str(caught.value)
