"""Runs without a conversation: each has a session, which ends with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_framework import MiddlewareFailure

from greenroom import PoolClosed, SessionPool
from greenroom.testing import ENDLESS_CODE, ScriptedBackend, memory_pool, wait_until
from greenroom_agent_framework import GreenroomMiddleware, GreenroomProvider, GreenroomTools

from .doubles import Script, agent_with, call, play, results

TWICE = play([call("run_python", code="1")], [call("run_python", code="2")], "Done.")


def ending(pool: SessionPool, script: Script = TWICE) -> Any:
    """An agent that ends the sessions of its runs."""
    return agent_with(GreenroomTools(pool=pool), script, middleware=[GreenroomMiddleware()])


async def runs_of_two_users(pool: SessionPool, number: int, *, stream: bool) -> None:
    tools = GreenroomTools(pool=pool)
    before = len(await pool.asessions())

    async def user(name: str) -> None:
        for run in range(number):
            secret = f"{name}-{run}"
            codes = f"before = globals().get('secret')\nsecret = {secret!r}", "before, secret"
            script = play(*([call("run_python", code=code)] for code in codes), "Done.")
            agent = agent_with(tools, script, middleware=[GreenroomMiddleware()])
            if stream:
                response = await agent.run("Go.", stream=True).get_final_response()
            else:
                response = await agent.run("Go.")
            assert results(response.messages) == ["The code ran without output.", f"result:\n(None, {secret!r})"]

    await asyncio.gather(user("ann"), user("bob"))
    assert len(await pool.asessions()) == before


@pytest.mark.parametrize("stream", [False, True])
async def test_two_agents_without_a_conversation_never_meet(stream: bool) -> None:
    with memory_pool() as pool:
        await runs_of_two_users(pool, 20, stream=stream)


async def test_two_agents_without_a_conversation_never_meet_in_sandboxes(sandboxes: SessionPool) -> None:
    await runs_of_two_users(sandboxes, 4, stream=False)


async def test_the_session_of_a_run_is_deleted_at_its_end(pool: SessionPool, backend: ScriptedBackend) -> None:
    await ending(pool).run("Go.")
    assert backend.codes == ["1", "2"]
    assert backend.deleted == [backend.identifiers[0]] == [backend.identifiers[1]]


async def test_the_session_of_a_run_that_fails_is_deleted(pool: SessionPool, backend: ScriptedBackend) -> None:
    backend.answers["2"] = PoolClosed("Closed.")
    with pytest.raises(MiddlewareFailure):
        await ending(pool).run("Go.")
    assert backend.deleted == [backend.identifiers[0]]


async def test_the_session_of_a_run_that_is_cancelled_is_deleted(pool: SessionPool, backend: ScriptedBackend) -> None:
    task = asyncio.ensure_future(ending(pool, play([call("run_python", code=ENDLESS_CODE)])).run("Go."))
    await wait_until(lambda: bool(backend.runs))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.deleted == backend.identifiers


async def test_the_session_of_a_stream_is_deleted_at_its_end(pool: SessionPool, backend: ScriptedBackend) -> None:
    updates = [update async for update in ending(pool).run("Go.", stream=True)]
    assert "".join(update.text for update in updates) == "Done."
    assert backend.deleted == [backend.identifiers[0]] == [backend.identifiers[1]]


async def test_the_calls_of_a_run_share_a_session_without_any_middleware(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    tools = GreenroomTools(pool=pool)
    for number in (1, 2):
        await agent_with(tools, TWICE).run("Go.")
        await wait_until(lambda number=number: len(backend.deleted) == number)
    first, second, third, fourth = backend.identifiers
    assert first == second != third == fourth
    assert backend.deleted == [first, third]


@pytest.mark.parametrize("ends", [False, True])
async def test_a_provider_ends_the_session_of_a_run_with_the_middleware_only(
    pool: SessionPool, backend: ScriptedBackend, ends: bool
) -> None:
    providers = [GreenroomProvider(GreenroomTools(pool=pool))]
    middleware = [GreenroomMiddleware()] if ends else []
    await agent_with(None, TWICE, context_providers=providers, middleware=middleware).run("Go.")
    assert len(set(backend.identifiers)) == 1
    assert backend.deleted == ([backend.identifiers[0]] if ends else [])
