"""Through real sockets: slow clients, clients that disconnect, and heads that are too large."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from greenroom.models import Execution
from greenroom.server.run import Server
from greenroom.server.transport.tls import self_signed
from greenroom.testing import ENDLESS_CODE, ScriptedBackend

from .served import LATEST, current, eventually, listening, memory_backend, query

TARGET = f"/executions?api-version={LATEST}&identifier=session"


@contextlib.asynccontextmanager
async def connected(server: Server) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    lines = [f"POST {TARGET} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def execute(code: str) -> bytes:
    return post(json.dumps(current(code)).encode())


async def all_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(60):
        return await reader.read()


@pytest.mark.parametrize("code", ["import time; time.sleep(200)", "while True: pass"])
async def test_a_client_that_disconnects_ends_its_execution_but_not_its_session(code: str) -> None:
    backend = await memory_backend()
    async with listening(backend) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await client.post("/executions", params=query(LATEST), json=current("x = 42"))
        async with connected(server) as (_, writer):
            writer.write(execute(code))
            async with asyncio.timeout(60):
                while (await backend.status()).executing != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        began = time.monotonic()
        response = await client.post("/executions", params=query(LATEST), json=current("x"), timeout=120)
        assert response.status_code == 200, response.text
        assert response.json()["status"] == "Succeeded", response.text
        assert response.json()["result"]["executionResult"] == 42, response.text
        assert time.monotonic() - began < 60


async def test_a_client_that_disconnects_does_not_end_an_asynchronous_execution() -> None:
    async with (
        listening(await memory_backend()) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        body = current("import time; time.sleep(0.3); print('done')", executionType="Asynchronous")
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as other:
            location = (await other.post("/executions", params=query(LATEST), json=body)).headers["operation-location"]
        async with asyncio.timeout(60):
            while (ended := (await client.get(location)).json())["status"] == "Running":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert ended["result"]["stdout"] == "done\n"


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /heal",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
    ],
)
async def test_an_incomplete_head_closes_the_connection(beginning: bytes) -> None:
    async with listening(ScriptedBackend(), client_timeout=0.3) as server, connected(server) as (reader, writer):
        writer.write(beginning)
        began = time.monotonic()
        await all_of(reader)
        assert time.monotonic() - began > 0.2


async def test_a_trickling_head_gets_no_more_time() -> None:
    async with listening(ScriptedBackend(), client_timeout=0.5) as server, connected(server) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
        ended = asyncio.create_task(all_of(reader))
        began = time.monotonic()
        while not ended.done():
            assert time.monotonic() - began < 60
            writer.write(b"x")
            await asyncio.sleep(0.1)


async def test_a_body_that_comes_too_slowly_is_refused() -> None:
    async with listening(ScriptedBackend(), client_timeout=0.3) as server, connected(server) as (reader, writer):
        writer.write(post(b"{", length=100))
        answer = await all_of(reader)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"RequestTimeout" in answer


async def test_a_client_can_be_as_slow_as_its_code() -> None:
    async with listening(await memory_backend(), client_timeout=2) as server, connected(server) as (reader, writer):
        writer.write(execute("import time; time.sleep(4); print('done')"))
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_reads_nothing_of_a_response_is_disconnected(tls: bool, tmp_path: Path) -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="x" * (20 << 20))
    certificate = self_signed(tmp_path, ["127.0.0.1"]) if tls else None
    async with listening(backend, certificate, client_timeout=0.3) as server:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem") if tls else None
        port = int(server.url.rpartition(":")[2])
        # An unread stream takes a few hundred kilobytes.
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=4096)
        writer.write(execute("1"))
        await eventually(lambda: len(backend.runs) == 1)
        assert server.server_state.connections
        await eventually(lambda: not server.server_state.connections)
        writer.transport.abort()


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
async def test_a_broken_certificate_is_replaced(tmp_path: Path, name: str) -> None:
    self_signed(tmp_path, ["127.0.0.1"])
    (tmp_path / name).write_text("nonsense")
    certificate = self_signed(tmp_path, ["127.0.0.1"])
    context = ssl.create_default_context(cafile=certificate.authority)
    async with (
        listening(ScriptedBackend(), certificate) as server,
        httpx.AsyncClient(verify=context, base_url=server.url, timeout=60) as client,
    ):
        assert (await client.get("/healthz")).status_code == 200


async def test_a_response_over_tls_arrives_immediately(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, ["127.0.0.1"])
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    async with (
        listening(ScriptedBackend(), certificate) as server,
        httpx.AsyncClient(base_url=server.url, verify=context, timeout=30) as client,
    ):
        for _ in range(3):
            response = await client.post("/executions", params=query(LATEST), json=current("1"))
            assert response.status_code == 200


async def test_a_client_that_reads_nothing_of_a_large_file_stops_the_download() -> None:
    async with listening(await memory_backend(), client_timeout=0.5) as server:
        content = b"x" * (40 << 20)
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            upload = await client.post("/files", params=query(LATEST), files={"file": ("large", content)})
            assert upload.status_code == 200
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                target = f"/files/large/content?api-version={LATEST}&identifier=session"
                slow.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await eventually(lambda: len(server.server_state.tasks) == 1)
                await eventually(lambda: not server.server_state.tasks)
            # What was read holds nothing up.
            response = await client.get("/files/large/content", params=query(LATEST))
            assert response.content == content


@pytest.mark.parametrize("tls", [False, True])
async def test_a_slow_client_receives_the_whole_response(tls: bool, tmp_path: Path) -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="x" * (8 << 20))
    certificate = self_signed(tmp_path, ["127.0.0.1"]) if tls else None
    async with listening(backend, certificate, client_timeout=6) as server:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem") if tls else None
        port = int(server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=4096)
        writer.write(execute("1"))
        received = 0
        async with asyncio.timeout(60):
            while received < 8 << 20:
                piece = await reader.read(1 << 19)
                assert piece
                received += len(piece)
                await asyncio.sleep(0.6 * len(piece) / (1 << 19))  # 9.6 seconds in total
        writer.transport.abort()


async def test_a_head_has_a_limit() -> None:
    small = listening(ScriptedBackend(), max_headers=4096)
    async with small as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for size, status in ((2000, 200), (8000, 431), (300_000, 400)):
            response = await client.get("/files", params=query(LATEST), headers={"X": "x" * size})
            assert response.status_code == status
        response = await client.get("/files", params=query(LATEST, path="x" * 8000))
        assert response.status_code == 431


@pytest.mark.parametrize("length", [str(10 << 30), "-1", "1e3", "18446744073709551617"])
async def test_a_body_has_a_limit_whatever_length_it_claims(length: str) -> None:
    async with (
        listening(ScriptedBackend(), max_body=2000, max_upload=2000) as server,
        connected(server) as (reader, writer),
    ):
        head = f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        writer.write(head.encode() + b"x" * 3000)
        async with asyncio.timeout(60):
            assert (await reader.read(1 << 16)).startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))


async def test_a_chunked_body_has_the_same_limit() -> None:
    async with listening(ScriptedBackend(), max_body=2000) as server, connected(server) as (reader, writer):
        writer.write(f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(10):
            writer.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_request_outside_the_api_is_refused(request_: bytes) -> None:
    async with listening(ScriptedBackend(), client_timeout=0.5) as server, connected(server) as (reader, writer):
        writer.write(request_)
        answer = await all_of(reader)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501"))


async def test_connections_over_the_limit_are_refused() -> None:
    async with listening(ScriptedBackend(), max_connections=3) as server:
        async with connected(server), connected(server), connected(server):
            await eventually(lambda: len(server.server_state.connections) == 3)
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                assert (await client.get("/healthz")).status_code == 503
        await eventually(lambda: not server.server_state.connections)
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            assert (await client.get("/healthz")).status_code == 200


async def test_a_surplus_connection_is_refused_before_it_sends_a_request() -> None:
    async with listening(ScriptedBackend(), max_connections=3) as server:
        async with connected(server), connected(server), connected(server), connected(server) as (reader, _):
            assert (await all_of(reader)).startswith(b"HTTP/1.1 503 ")
        await eventually(lambda: not server.server_state.connections)
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            assert (await client.get("/healthz")).status_code == 200


async def test_a_response_is_completed_after_the_order_to_stop() -> None:
    backend = await memory_backend()
    async with (
        listening(backend, shutdown_grace=60) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        code = current("import time; time.sleep(0.5); print('done')")
        running = asyncio.create_task(client.post("/executions", params=query(LATEST), json=code))
        async with asyncio.timeout(60):
            while (await backend.status()).executing != 1 and not running.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        server.should_exit = True
        assert (await running).json()["result"]["stdout"] == "done\n"


async def test_an_execution_that_outlasts_the_shutdown_grace_is_cancelled_and_reported() -> None:
    backend = ScriptedBackend()
    async with (
        listening(backend, shutdown_grace=0.2) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        running = asyncio.create_task(client.post("/executions", params=query(LATEST), json=current(ENDLESS_CODE)))
        await eventually(lambda: len(backend.runs) == 1)
        server.should_exit = True
        assert (await running).json()["status"] == "Canceled"
    assert backend.interrupted == ["session"]
