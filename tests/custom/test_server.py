"""`greenroom serve` over pools of custom containers: requests pass unchanged, in both directions, as they arrive."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
from tests.server.served import (
    LATEST,
    POOL,
    application,
    client_of,
    current,
    eventually,
    listening,
    memory_backend,
    served,
)

import greenroom
from greenroom.errors import InvalidRequest
from greenroom.server.access.keys import ApiKeys, digest
from greenroom.server.run import Server

from .scripted import ScriptedContainer, ScriptedContainers, answer, scripted_pool

KEY = "0123456789abcdef0123456789abcdef"
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


async def raw(container: ScriptedContainer, reader: Reader, writer: Writer) -> None:
    """Do what the path says."""
    head = await reader.readuntil(b"\r\n\r\n")
    container.requests += 1
    path = head.split(b" ")[1].partition(b"?")[0]
    if path == b"/events":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(10_000):
            writer.write(b"data: %d\n\n" % number)
            await writer.drain()
            await asyncio.sleep(0.02)
    elif path == b"/both":  # answers each chunk as it arrives
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while size := int(await reader.readline(), 16):
            writer.write(await reader.readexactly(size))
            await reader.readline()
    elif path == b"/socket":
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo/1\r\nX-More: a\r\n\r\nhi "
        )
        while data := await reader.read(1000):
            writer.write(data.upper())
    elif path == b"/headers":
        writer.write(
            b"HTTP/1.1 203 Whatever\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
            b"Keep-Alive: 5\r\nContent-Length: 2\r\n\r\nok"
        )
    elif path == b"/silent":
        await reader.read(1)  # until the connection ends
    elif path == b"/chunks":
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"
        )
    elif path == b"/hints":
        while True:
            writer.write(b"HTTP/1.1 100 \r\n\r\n" * 100)
            await writer.drain()
    elif path == b"/bad":
        writer.write(b"nonsense\r\n\r\n")
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))
    await writer.drain()


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[tuple[Server, ScriptedContainers]]:
    engine = ScriptedContainers(raw)
    pool = await scripted_pool(engine, **options)
    async with listening(pool) as server:
        yield server, engine


async def connected(server: Server) -> tuple[Reader, Writer]:
    return await asyncio.open_connection(*server.servers[0].sockets[0].getsockname()[:2])


def in_flight(server: Server) -> int:
    return sum(pool.in_flight for pool in server.application.pools)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as (server, _):
        yield server


async def test_method_path_query_and_headers_arrive_as_they_were_sent(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        response = await client.request(
            "PURGE",
            "/a%2Fb//c/?q=1&q=%2F&identifier=user-0001",
            headers={"X-Kept": "yes", "Authorization": "Bearer secret", "Connection": "X-Hop", "X-Hop": "1", "TE": "x"},
        )
    lines = response.text.lower().split("\r\n")
    assert response.text.startswith("PURGE /a%2Fb//c/?q=1&q=%2F&identifier=user-0001 HTTP/1.1\r\n")
    assert "x-kept: yes" in lines
    assert f"host: {server.url.removeprefix('http://')}" in lines
    assert not [line for line in lines if line.startswith(("authorization", "x-hop", "te:"))]
    assert "api-supported-versions" not in response.headers


async def test_a_response_arrives_as_it_was_sent(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        response = await client.get("/headers?identifier=user-0001")
    assert (response.status_code, response.text) == (203, "ok")
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert {"x-hop", "keep-alive", "cache-control", "x-content-type-options"} & response.headers.keys() == set()
    assert len(response.headers.get_list("date")) == 1


async def test_authorization_is_passed_on_only_if_the_owner_asks_for_it() -> None:
    for asked in (False, True):
        pool = await scripted_pool(ScriptedContainers(answer), forward_authorization=asked)
        guard = ApiKeys({"name": digest(KEY)})
        async with served(pool, guard=guard) as client:
            response = await client.get("/?identifier=user-0001", headers={"Authorization": f"Bearer {KEY}"})
            assert response.status_code == 200
            assert (KEY in response.text) is asked
            assert (await client.get("/?identifier=user-0001")).status_code == 401


async def test_events_arrive_as_they_come_and_end_with_their_reader() -> None:
    async with serving() as (server, engine), httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        async with client.stream("GET", "/events?identifier=user-0001") as response:
            assert response.headers["content-type"] == "text/event-stream"
            seen: list[str] = []
            async for line in response.aiter_lines():
                seen.append(line)
                if len(seen) == 4:
                    break
        assert seen == ["data: 0", "", "data: 1", ""]
        await eventually(lambda: not in_flight(server))
        assert len(engine.started) == 1


@pytest.mark.parametrize("path", ["/silent", "/events"], ids=["before the response", "with an unread body"])
async def test_a_client_that_leaves_ends_its_request(server: Server, path: str) -> None:
    _, writer = await connected(server)
    writer.write(b"POST %s?identifier=user-0001 HTTP/1.1\r\nHost: localhost\r\n" % path.encode())
    writer.write(b"Content-Length: 1000000\r\n\r\nbegun")
    await eventually(lambda: bool(in_flight(server)))
    writer.close()
    await eventually(lambda: not in_flight(server))


async def test_a_path_can_look_like_a_pools_path_in_its_middle(server: Server) -> None:
    path = "/a/subscriptions/x/resourceGroups/y/sessionPools/z/b"
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        response = await client.get(f"{path}?identifier=user-0001")
    assert response.text.startswith(f"GET {path}?")


async def test_a_content_length_is_ignored_for_chunked_bodies(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.get("/chunks?identifier=user-0001")).text == "whole"
        response = await client.get("/hints?identifier=user-0001")
    assert (response.status_code, "informational" in response.text) == (502, True)


@pytest.mark.parametrize(
    "path", ["/../other", "/a/%2e%2e/b", "/./a", "/.management/listSessions", "/a?identifier=another-one"]
)
async def test_a_path_cannot_leave_its_session_on_any_pool(server: Server, path: str) -> None:
    pool = await greenroom.aconnect(server.url)
    async with pool:
        with pytest.raises(InvalidRequest, match="must not"):
            await pool.session("user-0001").arequest("GET", path)


async def test_headers_of_one_name_stay_separate_through_the_greenroom_client(server: Server) -> None:
    async with greenroom.aconnect(server.url) as pool:
        response = await pool.session("user-0001").arequest("GET", "/headers")
        assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
        sent = await pool.session("user-0001").arequest("GET", "/", headers=[("X-A", "1"), ("X-A", "2")])
    assert sent.text.lower().count("x-a: ") == 2


async def test_a_body_and_its_response_pass_at_the_same_time(server: Server) -> None:
    async with asyncio.timeout(60):
        reader, writer = await connected(server)
        writer.write(
            b"POST /both?identifier=user-0001 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        for word in (b"one", b"two"):
            writer.write(b"%x\r\n%s\r\n" % (len(word), word))
            assert word in await reader.readuntil(word)
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        writer.close()


async def test_an_upgraded_connection_passes_in_both_directions(server: Server) -> None:
    async with asyncio.timeout(60):
        reader, writer = await connected(server)
        writer.write(
            b"GET /socket?identifier=user-0001 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: echo/1\r\n\r\nearly "
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 101 switching protocols\r\n")
        assert b"upgrade: echo/1\r\n" in head
        assert b"x-more: a\r\n" in head
        assert await reader.readexactly(9) == b"hi EARLY "
        for _ in range(3):
            writer.write(b"more")
            assert await reader.readexactly(4) == b"MORE"
        writer.close()
        await eventually(lambda: not in_flight(server) and not server.server_state.connections)


async def test_a_refused_upgrade_is_a_response(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
        response = await client.get("/?identifier=user-0001", headers=headers)
        assert response.status_code == 200
        assert "upgrade: websocket" in response.text.lower()
        assert (await client.get("/?identifier=user-0001")).status_code == 200


async def test_errors_have_azures_form() -> None:
    async with serving() as (server, engine), httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for path, status, code in (
            ("/", 400, "SessionRequestValidationFailed"),
            ("/?identifier=a", 400, "InvalidLengthOfSessionIdentifier"),
            ("/?identifier=user-0001&identifier=user-0002", 400, "SessionRequestValidationFailed"),
            ("/bad?identifier=user-0001", 502, "SessionRequestFailed"),
        ):
            response = await client.get(path)
            assert response.status_code == status, path
            assert response.headers["x-ms-error-code"] == code, path
        engine.started[0].refuses = True
        response = await client.get("/?identifier=user-0001")
        assert "does not accept connections on port 80" in response.json()["error"]["message"]


async def test_the_greenroom_client_sends_requests_through_the_server() -> None:
    async with serving(max_concurrent_sessions=1, acquire_timeout=0) as (server, engine):
        async with greenroom.aconnect(server.url, acquire_timeout=0) as pool:
            session = pool.session("user-0001")
            response = await session.arequest("POST", "/a?b=c", json={"x": 1}, headers={"X-Kept": "yes"})
            assert response.text.startswith("POST /a?b=c&identifier=user-0001 HTTP/1.1\r\n")
            assert "x-kept: yes" in response.text.lower()
            async with session.stream_request("GET", "/events") as events:
                lines = events.aiter_lines()
                assert [await anext(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]
            assert (await session.arequest("GET", "/headers")).status == 203
            with pytest.raises(greenroom.ServiceFailed, match="not valid HTTP"):
                await session.arequest("GET", "/bad")
            with pytest.raises(greenroom.PoolFull):
                await pool.session("user-0002").arequest("GET", "/")
        assert len(engine.started) == 1


async def test_sessions_are_managed_next_to_the_containers_own_paths() -> None:
    async with serving() as (server, engine), httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        query = {"identifier": "user-0001"}
        missing = await client.post("/.management/getSession", params=query)
        assert (missing.status_code, missing.headers["x-ms-error-code"]) == (400, "SessionWithIdentifierNotFound")
        for path in ("/session", "/listSessions", "/metadata", "/executions", "/files", "/healthz"):  # the container's
            assert (await client.get(path, params=query)).text.startswith(f"GET {path}?")
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        assert (await client.get("/.management/getSession", params=query)).json()["identifier"] == "user-0001"
        listed = (await client.get("/.management/listSessions")).json()
        assert [each["identifier"] for each in listed["sessions"]] == ["user-0001"]
        stopped = await client.post("/.management/stopSession", params=query)
        assert stopped.text == "Session user-0001 in session pool p stopped."
        assert engine.started[0].killed
        assert (await client.get("/.management/listSessions")).json()["sessions"] == []


@pytest.mark.parametrize("first", ["custom", "code"])
async def test_no_route_of_another_pool_is_hidden(first: str) -> None:
    custom, code = await scripted_pool(ScriptedContainers(answer)), await memory_backend()
    pools = {"custom": custom, "code": code} if first == "custom" else {"code": code, "custom": custom}
    prefix = POOL.removesuffix("/p")
    query = {"identifier": "user-0001", "api-version": LATEST}
    async with application(pools) as app, client_of(app) as client:
        ran = await client.post(f"{prefix}/code/executions", params=query, json=current("6 * 7"))
        assert ran.json()["result"]["executionResult"] == 42
        assert (await client.get(f"{prefix}/code/listSessions", params=query)).status_code == 200
        for path in ("/executions", "/listSessions", "/healthz", ""):
            forwarded = await client.get(f"{prefix}/custom{path}", params=query)
            assert f"GET {path or '/'}?identifier=user-0001" in forwarded.text
        assert (await client.get(f"{prefix}/other/x", params=query)).status_code in {400, 404}
        at_root = await client.post("/executions", params=query, json=current("6 * 7"))
        assert ("POST /executions?" in at_root.text) is (first == "custom")
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_mcp_reaches_a_container_that_is_named_and_has_no_tools_of_its_own() -> None:
    async with served(await scripted_pool(ScriptedContainers(answer))) as client:
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
        forwarded = await client.post("/mcp", params={"identifier": "user-0001"}, json=message)
        assert "POST /mcp?identifier=user-0001" in forwarded.text
        refused = await client.post("/mcp", json=message)
        assert refused.status_code == 400
        assert "CustomContainer" in refused.json()["error"]["message"]


# Floods and stalls


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_connections_that_are_reset_immediately_leave_no_descriptors(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.get("/?identifier=user-0001")).status_code == 200
    before = _descriptors()
    most = 0
    for _ in range(12):
        writers = [(await connected(server))[1] for _ in range(50)]
        for number, writer in enumerate(writers):
            writer.write(b"GET /silent?identifier=user-%04d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (number % 5))
        await asyncio.sleep(0)
        for writer in writers:
            reset = struct.pack("ii", 1, 0)  # no lingering: closing sends RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.transport.abort()
        await eventually(lambda: not in_flight(server))
        most = max(most, _descriptors())
    assert most < before + 1000
    await eventually(lambda: _descriptors() < before + 100)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.get("/?identifier=user-0001")).status_code == 200


async def test_responses_that_stall_do_not_hold_up_other_sessions(server: Server) -> None:
    stalled = [await connected(server) for _ in range(20)]
    for number, (_, writer) in enumerate(stalled):
        path = (b"/silent", b"/events")[number % 2]  # no response; one that nobody reads
        writer.write(b"GET %s?identifier=user-0001 HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
    await eventually(lambda: in_flight(server) == len(stalled))
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for number in range(20):
            response = await client.get(f"/?identifier=user-{number % 4 + 2:04}")
            assert response.status_code == 200
    assert in_flight(server) >= len(stalled)
    for _, writer in stalled:
        writer.close()
    await eventually(lambda: not in_flight(server))
