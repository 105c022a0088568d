"""One conversation, one session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_framework import AgentSession, ContextProvider, InMemoryHistoryProvider

from greenroom import SessionPool
from greenroom.testing import ENDLESS_CODE, ScriptedBackend, wait_until
from greenroom_agent_framework import GreenroomTools

from .doubles import agent_with, call, play


async def test_two_users_of_one_agent_never_meet(pool: SessionPool, backend: ScriptedBackend) -> None:
    agent = agent_with(GreenroomTools(pool=pool))
    alice, bob = agent.create_session(), agent.create_session()
    await asyncio.gather(agent.run("a = 1", session=alice), agent.run("b = 2", session=bob))
    await agent.run("a", session=alice)
    sessions: dict[str, set[str]] = {}
    for identifier, code, _ in backend.runs:
        sessions.setdefault(identifier, set()).add(code)
    assert sorted(map(sorted, sessions.values())) == [["a", "a = 1"], ["b = 2"]]


async def test_the_application_uses_the_session_of_a_conversation(pool: SessionPool, backend: ScriptedBackend) -> None:
    tools, conversation = GreenroomTools(pool=pool), AgentSession()
    session = tools.session_for(conversation)
    await session.aupload(b"1,2", "data.csv")
    await agent_with(tools).run("read()", session=conversation)
    assert backend.identifiers == [session.identifier]
    assert session.identifier == tools.session_for(conversation.session_id).identifier


@pytest.mark.parametrize("provider", [ContextProvider("memory"), InMemoryHistoryProvider()])
async def test_where_the_framework_makes_up_a_session_each_run_has_its_own(
    pool: SessionPool, backend: ScriptedBackend, provider: ContextProvider
) -> None:
    agent = agent_with(GreenroomTools(pool=pool), context_providers=[provider])
    await agent.run("1")
    await agent.run("2")
    assert len(set(backend.identifiers)) == 2


async def test_the_name_that_a_service_gives_a_conversation_can_change(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    agent = agent_with(GreenroomTools(pool=pool))
    for response in ("resp_1", "resp_2"):
        await agent.run("1", session=AgentSession(session_id="chat-7", service_session_id=response))
    assert len(set(backend.identifiers)) == 1


@pytest.mark.parametrize(
    "stolen",
    [{"session": "alice"}, {"session_id": "alice"}, {"ctx": {"session": {"session_id": "alice"}}}, {"self": "alice"}],
    ids=lambda stolen: next(iter(stolen)),
)
async def test_a_model_cannot_choose_the_conversation(
    pool: SessionPool, backend: ScriptedBackend, stolen: dict[str, Any]
) -> None:
    tools, bob = GreenroomTools(pool=pool), AgentSession(session_id="bob")
    script = play([call("run_python", code="print(secret)", **stolen)], "done")
    await agent_with(tools, script).run("Go.", session=bob)
    assert set(backend.identifiers) == {tools.session_for("bob").identifier}


async def test_the_arguments_of_a_run_cannot_choose_the_conversation(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    tools, bob = GreenroomTools(pool=pool), AgentSession(session_id="bob")
    alice = {"session": AgentSession(session_id="alice"), "session_id": "alice"}
    await agent_with(tools).run("1", session=bob, function_invocation_kwargs=alice)
    assert set(backend.identifiers) == {tools.session_for("bob").identifier}


async def test_a_fixed_session_serves_every_conversation(pool: SessionPool, backend: ScriptedBackend) -> None:
    session = pool.session("team-analysis")
    tools = GreenroomTools(session=session)
    await agent_with(tools).run("1")
    await agent_with(tools).run("2", session=AgentSession())
    assert backend.identifiers == ["team-analysis", "team-analysis"]
    assert tools.session_for(AgentSession()) is session


async def test_with_a_session_per_call_each_is_new_and_deleted_after_it(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    agent = agent_with(GreenroomTools(pool=pool, session_per_call=True))
    await agent.run("1")
    await agent.run("2", session=AgentSession())
    assert len(set(backend.identifiers)) == 2
    assert backend.deleted == backend.identifiers


async def test_a_session_per_call_is_deleted_when_its_run_is_cancelled(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    task = asyncio.ensure_future(agent_with(GreenroomTools(pool=pool, session_per_call=True)).run(ENDLESS_CODE))
    await wait_until(lambda: bool(backend.runs))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.deleted == backend.identifiers


async def test_a_nested_agent_has_its_own_session(pool: SessionPool, backend: ScriptedBackend) -> None:
    tools, session = GreenroomTools(pool=pool), AgentSession()
    analyst = agent_with(tools).as_tool(name="analyse", arg_name="code")
    await agent_with(analyst, play([call("analyse", code="1")], "Done.")).run("Ask.", session=session)
    assert len(backend.identifiers) == 1
    assert backend.identifiers != [tools.session_for(session).identifier]
