"""Executions whose calls wait on a server, as their client has left: killed, replaced, or too many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from tests.server.served import listening, memory_backend

from greenroom import connect
from greenroom.server.access.keys import ApiKeys, digest
from greenroom.testing import wait_until
from greenroom.testing.parking import Decisions
from greenroom.testing.server import serving

CODE = "try:\n    print(decide(1))\nexcept ToolError as error:\n    print(error)"
STUB = {"name": "decide", "parameters": [{"name": "number", "annotation": "int", "required": True}]}

FIRST = """
import os, sys, time
import greenroom

def answered(number: int) -> int:
    return number

def stuck(number: int) -> int:
    os.write(1, b"stuck\\n")
    time.sleep(600)

def deferred(number: int) -> int:
    raise greenroom.CallDeferred

session = greenroom.connect(sys.argv[1]).session("parked-session")
code = '''
import asyncio
async def main():
    values = await asyncio.gather(answered(1), stuck(2), deferred(3))
    return values + [await later(4)]
print(before, asyncio.run(main()))
'''
session.execute("before = 'kept'")

def later(number: int) -> int:
    raise AssertionError

handle = session.submit(code, tools=[answered, stuck, deferred, later], id="the-run")
while [call.state for call in handle.calls()] != ["answered", "waiting", "deferred"]:
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(600)
"""

SECOND = """
import json, sys
import greenroom

seen = []

def note(number):
    call = greenroom.current_call()
    seen.append([call.tool, call.arguments, call.delivered_again])
    return number * 10

async def answered(number: int) -> int:
    return note(number)

async def stuck(number: int) -> int:
    return note(number)

async def deferred(number: int) -> int:
    return note(number)

async def later(number: int) -> int:
    return note(number)

session = greenroom.connect(sys.argv[1]).session("parked-session")
handle = session.resume("the-run", tools=[answered, stuck, deferred, later])
before = [[call.tool, call.state, call.arguments] for call in handle.calls()][:3]
execution = handle.result(60)
print(json.dumps({"seen": seen, "stdout": execution.stdout, "first": before[0]}))
"""


async def process(script: str, url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", script, url, stdout=asyncio.subprocess.PIPE)


async def test_a_new_process_continues_after_the_first_was_killed() -> None:
    async with listening(await memory_backend()) as server:
        first = await process(FIRST, server.url)
        try:
            assert first.stdout is not None
            async with asyncio.timeout(60):
                while (await first.stdout.readline()) != b"ready\n":
                    assert first.returncode is None
        finally:
            first.send_signal(signal.SIGKILL)
            await first.wait()
        status = await asyncio.to_thread(_status, server.url)
        assert (status.parked, status.parked_calls) == (1, 2)
        second = await process(SECOND, server.url)
        output, _ = await asyncio.wait_for(second.communicate(), 60)
    assert json.loads(output) == {
        "seen": [["stuck", {"number": 2}, True], ["deferred", {"number": 3}, False], ["later", {"number": 4}, False]],
        "stdout": "kept [1, 20, 30, 40]\n",
        "first": ["answered", "answered", {"number": 1}],
    }


def _status(url: str) -> Any:
    with connect(url) as pool:
        return pool.status()


@contextlib.asynccontextmanager
async def client(url: str, key: str | None = None) -> AsyncGenerator[httpx.AsyncClient, None]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as opened:
        yield opened


async def begin(http: httpx.AsyncClient, session: str, **limits: Any) -> dict[str, Any]:
    """Begin an execution, read its call, and leave; return the call."""
    order = {"id": "run", "code": CODE, "background": True, "tools": [STUB], "tool_limits": limits}
    query = {"identifier": session}
    async with http.stream("POST", "/greenroom/1/executions", params=query, json=order) as response:
        async for line in response.aiter_lines():
            if line and json.loads(line)["type"] == "call":
                return json.loads(line)
    raise AssertionError(response)


async def end(http: httpx.AsyncClient, session: str) -> str:
    """Receive an execution without its calls, and return its text."""
    response = await http.get(
        "/greenroom/1/executions/run", params={"identifier": session, "calls": "false"}, timeout=60
    )
    return json.loads(response.text.splitlines()[-1])["execution"]["stdout"]


async def answer(http: httpx.AsyncClient, session: str, **fields: Any) -> tuple[int, str]:
    given = {"content": "Nw==", **fields}
    path, query = "/greenroom/1/executions/run/answers", {"identifier": session}
    response = await http.post(path, params=query, json=given)
    return response.status_code, response.json()["error"]["code"] if response.content else ""


async def test_an_answer_after_the_client_has_left_or_was_replaced_is_refused() -> None:
    async with listening(await memory_backend()) as server, client(server.url) as http:
        call = await begin(http, "session")
        old = {"call": call["call"], "key": call["key"]}
        await wait_until(lambda: _parked(server) == 1)
        assert await answer(http, "session", **old) == (409, "CallNotYours")
        path, query = "/greenroom/1/executions/run", {"identifier": "session"}
        async with http.stream("GET", path, params=query) as response:
            lines = response.aiter_lines()
            new = await anext(json.loads(line) async for line in lines if line and "call" in json.loads(line))
            assert new["again"] is True
            assert new["key"] != call["key"]
            assert await answer(http, "session", **old) == (409, "CallNotYours")
            current = {"call": new["call"], "key": new["key"]}
            assert await answer(http, "session", **current, deferred=True) == (204, "")
            assert await answer(http, "session", **current) == (204, "")
            assert (await answer(http, "session", **current))[0] in {404, 409}, "a replay"
            text = [line async for line in lines if line][-1]
        assert json.loads(text)["execution"]["stdout"] == "7\n"


async def test_executions_without_a_client_are_bounded_for_each_key() -> None:
    guard = ApiKeys({"one": digest("key-one"), "two": digest("key-two")})
    async with (
        listening(await memory_backend(), guard=guard, max_parked=1) as server,
        client(server.url, "key-one") as one,
        client(server.url, "key-two") as two,
    ):
        await begin(one, "session-1")
        await wait_until(lambda: _parked(server) == 1)
        await begin(two, "session-2")
        await wait_until(lambda: _parked(server) == 2)
        await begin(one, "session-3")
        assert "its client has disconnected, and the limit of calls" in await end(one, "session-3")
        assert _parked(server) == 2
        await one.delete("/greenroom/1/executions/run", params={"identifier": "session-1"})
        await wait_until(lambda: _parked(server) == 1)
        await begin(one, "session-4")
        await wait_until(lambda: _parked(server) == 2)


async def test_the_server_bounds_for_how_long_they_wait() -> None:
    async with listening(await memory_backend(), max_parked_time=0.3) as server, client(server.url) as http:
        await begin(http, "session")
        assert await end(http, "session") == "decide was not answered: no decision was made within 0.3 seconds.\n"


async def test_a_server_that_shuts_down_does_not_wait_for_them() -> None:
    async with listening(await memory_backend(), shutdown_grace=600) as server, client(server.url) as http:
        await begin(http, "session")
        await wait_until(lambda: _parked(server) == 1)


def test_a_deferred_call_of_a_client_that_stays_is_resumed_by_another() -> None:
    tool = Decisions()
    with serving("bubblewrap:", preload=()) as url, connect(url) as first, connect(url) as second:
        handle = first.session("session").submit(CODE, tools=[tool.decide], id="run")
        deadline = time.monotonic() + 60
        while [call.state for call in handle.calls()] != ["deferred"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        resumed = second.session("session").resume("run", tools=[Decisions(decided=True).decide])
        assert resumed.result(60).stdout == "10\n"


@pytest.mark.parametrize("limits", [{"timeout": 1e9}, {"total_timeout": 90_000}, {"timeout": float("inf")}])
async def test_calls_on_a_server_end(limits: dict[str, float]) -> None:
    order = json.dumps({"id": "1", "code": "1", "tools": [STUB], "tool_limits": limits})
    async with listening(await memory_backend()) as server, client(server.url) as http:
        response = await http.post("/greenroom/1/executions", params={"identifier": "session"}, content=order)
        assert response.status_code == 400
        assert "must be at most 86,400 on a server" in response.text


def _parked(server: Any) -> int:
    (pool,) = server.application.pools
    return sum(record.live.calls.is_parked for record in pool.records.running)
