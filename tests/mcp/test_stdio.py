"""The transport over standard streams, over a pool of this process."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from tests.server.served import eventually, memory_backend

from greenroom.models import Execution
from greenroom.testing import ENDLESS_CODE, ScriptedBackend

from .wire import WITH_HANDSHAKE, call, connected, request, stateless


async def test_both_kinds_of_clients_are_served() -> None:
    async with connected(await memory_backend()) as line:
        discovered = await line.ask(stateless("server/discover"))
        assert "2026-07-28" in discovered["result"]["supportedVersions"]
        begun = await line.ask(request("initialize", protocolVersion="2025-06-18"))
        assert begun["result"]["protocolVersion"] == "2025-06-18"
        line.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        tools = {tool["name"] for tool in (await line.ask(request("tools/list")))["result"]["tools"]}
        assert "list_sessions" in tools
        assert "launchShell" not in tools
        made = (await line.ask(call("run_python", code="x = 20")))["result"]["structuredContent"]
        again = await line.ask(call("run_python", code="x + 1", session_id=made["session_id"]))
        assert again["result"]["structuredContent"]["result"] == "21"
        (own,) = (await line.ask(call("list_sessions")))["result"]["structuredContent"]["sessions"]
        assert own["session_id"] == made["session_id"]


async def test_a_request_can_be_cancelled_and_is_not_answered() -> None:
    backend = ScriptedBackend()
    async with connected(backend) as line:
        line.send(call("run_python", "endless", code=ENDLESS_CODE))
        await eventually(lambda: len(backend.runs) == 1)
        again = await line.ask(call("run_python", "endless", code="1"))
        assert again["error"]["code"] == -32600  # the id is in use
        line.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "unknown"}})
        line.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ["endless"]}})
        line.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "endless"}})
        await eventually(lambda: len(backend.interrupted) == 1)
        assert (await line.ask(call("run_python", "endless", code="1")))["result"]["isError"] is False


async def test_progress_and_log_messages_come_before_the_answer() -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="one\ntwo\n")
    async with connected(backend) as line:
        await line.ask(request("initialize", protocolVersion="2025-11-25"))
        line.send(request("tools/call", 5, name="run_python", arguments={"code": "1"}, _meta={"progressToken": 0}))
        logged = await line.receive()
        assert logged["params"] == {"level": "info", "logger": "stdout", "data": "one\ntwo\n"}
        assert (await line.receive())["params"]["progressToken"] == 0
        assert (await line.receive())["id"] == 5


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{\n", -32700),
        (b"\xff\n", -32700),
        (b"5\n", -32600),
        (b"[]\n", -32600),
        (json.dumps([request("initialize")]).encode() + b"\n", -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"unknown"}\n', -32601),
    ],
)
async def test_a_line_that_is_not_valid_has_the_protocols_error_and_the_next_one_works(
    content: bytes, code: int
) -> None:
    async with connected(ScriptedBackend()) as line:
        line.write(content)
        answer = await line.receive()
        first: Any = cast("list[Any]", answer)[0] if isinstance(answer, list) else answer
        assert first["error"]["code"] == code
        line.write(b"\n \n")
        assert (await line.ask(request("ping", "x")))["result"] == {}


@pytest.mark.parametrize("version", WITH_HANDSHAKE)
async def test_batches_belong_to_their_version(version: str) -> None:
    async with connected(ScriptedBackend()) as line:
        await line.ask(request("initialize", protocolVersion=version))
        line.send([request("ping", "a"), request("ping", "b")])
        answer = await line.receive()
        if version == "2025-03-26":
            assert sorted(each["id"] for each in answer) == ["a", "b"]
        else:
            assert answer["error"]["code"] == -32600


async def test_a_message_that_is_too_long_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.mcp.stdio.MOST_BYTES", 100_000)
    async with connected(ScriptedBackend()) as line:
        await asyncio.to_thread(line.write, b"x" * 1_000_000 + b"\n")
        assert (await line.receive())["error"]["code"] == -32600
        assert (await line.ask(request("ping")))["result"] == {}


async def test_too_many_requests_are_refused() -> None:
    backend = ScriptedBackend()
    async with connected(backend) as line:
        line.send(*(call("run_python", number, code=ENDLESS_CODE) for number in range(101)))
        assert (await line.receive())["error"]["code"] == 429
        line.close()
    assert len(backend.interrupted) == 100


async def test_a_client_that_reads_late_gets_every_response() -> None:
    async with connected(ScriptedBackend()) as line:
        writing = asyncio.create_task(asyncio.to_thread(line.write, b"{\n" * 2_000))
        await asyncio.sleep(0.2)
        for _ in range(2_000):
            assert (await line.receive())["error"]["code"] == -32700
        await writing


async def test_a_client_that_never_reads_does_not_block_the_server() -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="x" * 100_000)
    async with connected(backend) as line:
        await line.ask(request("initialize", protocolVersion="2025-11-25"))
        line.send(*(request("tools/call", n, name="run_python", arguments={"code": "1"}) for n in range(50)))
        await eventually(lambda: len(backend.runs) == 50)
        line.close()


class SlowToEnd(ScriptedBackend):
    """Sessions whose end takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.ending = self.ended = 0

    async def delete(self, identifier: str) -> None:
        self.ending += 1
        await asyncio.sleep(0.1)
        self.ended += 1


async def test_a_request_that_is_cancelled_twice_ends_its_session_nevertheless() -> None:
    backend = SlowToEnd()
    async with connected(backend) as line:
        line.send(call("run_python", "endless", code=ENDLESS_CODE))
        await eventually(lambda: len(backend.runs) == 1)
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "endless"}}
        line.send(cancelled)
        await eventually(lambda: backend.ending == 1)
        line.send(cancelled)
        assert (await line.ask(request("ping", "after")))["result"] == {}
        await eventually(lambda: backend.ended == 1)
