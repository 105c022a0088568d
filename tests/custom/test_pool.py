"""The pool of custom containers: which instance a session gets, and the error if there is none."""

from __future__ import annotations

import asyncio

import pytest

from greenroom.backend import HttpRequest
from greenroom.errors import EngineUnavailable, SandboxLost, ServiceFailed
from greenroom.local.container_pool import ContainerPool
from greenroom.runner.relay import MOST_OPEN

from .scripted import Program, ScriptedContainer, ScriptedContainers, answer, scripted_pool


async def ask(pool: ContainerPool, identifier: str = "session") -> str:
    async with pool.request(identifier, HttpRequest("GET", "/"), timeout=60) as response:
        return b"".join([piece async for piece in response.content]).partition(b"\n")[0].decode()


async def until_ready(pool: ContainerPool, count: int) -> None:
    async with asyncio.timeout(60):
        while (await pool.status()).ready < count:  # noqa: ASYNC110  the condition changes elsewhere
            await asyncio.sleep(0.01)


async def test_the_next_ready_instance_is_tried_when_one_does_not_listen() -> None:
    engine = ScriptedContainers(answer)
    pool = await scripted_pool(engine, ready_session_instances=2)
    await until_ready(pool, 2)
    engine.started[0].refuses = True
    assert await ask(pool) == "2 1"
    assert await ask(pool) == "2 2"
    assert engine.started[0].killed
    await pool.close()
    assert all(container.killed for container in engine.started)


async def test_a_session_with_a_state_is_not_replaced_behind_its_back() -> None:
    engine = ScriptedContainers(answer)
    pool = await scripted_pool(engine)
    assert await ask(pool) == "1 1"
    engine.started[0].refuses = True
    with pytest.raises(ServiceFailed, match="does not accept connections on port 80: Connection refused"):
        await ask(pool)
    engine.started[0].refuses = False
    assert await ask(pool) == "1 2"
    engine.started[0].end()
    with pytest.raises(SandboxLost, match=r"it exited with code 3\. .* Its last output:\nthe last line of 1"):
        await asyncio.gather(*(ask(pool) for _ in range(1)))
    assert await ask(pool) == "2 1"
    await pool.close()


async def test_a_caller_gets_the_next_instance_when_one_fails_its_probe() -> None:
    def first_refuses(container: ScriptedContainer) -> None:
        container.refuses = container.number == 1

    engine = ScriptedContainers(answer, first_refuses)
    probe = {"startup": {"port": 80, "period": 0.2, "failure_threshold": 1}}
    with pytest.warns(match="Azure accepts"):
        pool = await scripted_pool(engine, ready_session_instances=1, container=probe)
    assert await ask(pool) == "2 1"
    await pool.close()


async def test_open_requests_leave_connections_to_the_probe() -> None:
    waiting, most = 0, 0

    async def stall(_: ScriptedContainer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting, most
        del writer
        if await reader.read(1):  # otherwise it was the probe
            waiting += 1
            most = max(most, waiting)
            try:
                await reader.read()
            finally:
                waiting -= 1

    pool = await scripted_pool(ScriptedContainers(stall), container={"startup": {"port": 80}})
    requests = [asyncio.create_task(ask(pool)) for _ in range(MOST_OPEN + 10)]
    ended = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(each, ServiceFailed) for each in ended)
    assert 0 < most < MOST_OPEN
    await pool.close()


async def silent(_: ScriptedContainer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def nonsense(_: ScriptedContainer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"nonsense\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            silent,
            r"GET /ready on port 80\) failed 2 times, the last time with no response within 0\.2 seconds\. Its ",
        ),
        (nonsense, r"with the error: The container sent a response that is not valid HTTP/1\.1: .* Its last output:"),
    ],
)
async def test_the_reason_for_a_failed_probe_is_reported(program: Program, message: str) -> None:
    engine = ScriptedContainers(program)
    probe = {"startup": {"path": "/ready", "period": 0.2, "timeout": 0.2, "failure_threshold": 2}}
    with pytest.warns(match="Azure accepts"):
        pool = await scripted_pool(engine, container=probe)
    with pytest.raises(EngineUnavailable, match=message):
        await ask(pool)
    await pool.close()
    assert all(container.killed for container in engine.started)


async def test_a_container_that_never_starts_fails_every_caller() -> None:
    def refuses(container: ScriptedContainer) -> None:
        container.refuses = True

    engine = ScriptedContainers(answer, refuses)
    probe = {"startup": {"port": 80, "period": 0.2, "failure_threshold": 2}}
    with pytest.warns(match="Azure accepts"):
        pool = await scripted_pool(engine, ready_session_instances=1, container=probe)
    results = await asyncio.gather(*(ask(pool, f"session-{n}") for n in range(4)), return_exceptions=True)
    assert {type(result) for result in results} == {EngineUnavailable}
    await pool.close()
    assert all(container.killed for container in engine.started)
