"""One conversation, one session."""

import asyncio
from collections.abc import Callable

import pytest
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.exceptions import KernelInvokeException
from semantic_kernel.functions import KernelArguments

from greenroom import InvalidRequest, SessionPool
from greenroom.testing import ScriptedBackend, wait_until
from greenroom_semantic_kernel import GreenroomPlugin

from .doubles import ScriptedModel, call, play

MakeAgent = Callable[..., ChatCompletionAgent]


async def ask(agent: ChatCompletionAgent, question: str, thread: ChatHistoryAgentThread) -> str:
    response = await agent.get_response(question, thread=thread, arguments=KernelArguments(thread_id=thread.id))
    return str(response)


async def test_two_users_of_one_agent_never_meet(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent
) -> None:
    agent = agent_with(GreenroomPlugin(pool=pool))
    alice, bob = ChatHistoryAgentThread(), ChatHistoryAgentThread()
    await asyncio.gather(ask(agent, "a = 1", alice), ask(agent, "b = 2", bob))
    await ask(agent, "a", alice)
    sessions: dict[str, set[str]] = {}
    for identifier, code, _ in backend.runs:
        sessions.setdefault(identifier, set()).add(code)
    assert sorted(map(sorted, sessions.values())) == [["a", "a = 1"], ["b = 2"]]


async def test_a_session_is_found_again_by_a_new_plugin(pool: SessionPool, backend: ScriptedBackend) -> None:
    for _ in range(2):
        await GreenroomPlugin(pool=pool).run_python("1", KernelArguments(thread_id="user 7, chat 1"))
    assert len(set(backend.identifiers)) == 1


async def test_the_application_uses_the_session_of_a_thread(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent
) -> None:
    plugin, thread = GreenroomPlugin(pool=pool), ChatHistoryAgentThread()
    session = plugin.session_for(thread)
    await session.aupload(b"1,2", "data.csv")
    await ask(agent_with(plugin), "read()", thread)
    assert backend.identifiers == [session.identifier]
    assert session.identifier == plugin.session_for(thread.id).identifier


@pytest.mark.parametrize("thread_id", ["", 7])
async def test_a_conversation_without_a_proper_name_runs_no_code(
    pool: SessionPool, backend: ScriptedBackend, thread_id: object
) -> None:
    kernel = Kernel()
    kernel.add_plugin(GreenroomPlugin(pool=pool))
    arguments = KernelArguments(code="1", thread_id=thread_id)
    with pytest.raises(KernelInvokeException) as raised:
        await kernel.invoke(plugin_name="greenroom", function_name="run_python", arguments=arguments)
    assert isinstance(raised.value.__cause__, InvalidRequest)
    assert "KernelArguments(thread_id=thread.id)" in str(raised.value.__cause__)
    assert backend.runs == []


async def test_the_calls_of_a_run_without_a_conversation_share_a_session(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent
) -> None:
    plugin = GreenroomPlugin(pool=pool)
    script = play([call("run_python", code="1")], [call("run_python", code="2")], "done")
    agent = agent_with(plugin, ScriptedModel(ai_model_id="scripted", script=script))
    await agent.get_response("Go.")
    await agent.get_response("Go.")
    first, second, third, fourth = backend.identifiers
    assert first == second != third == fourth


async def test_the_session_of_a_run_is_deleted_at_its_end(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent
) -> None:
    plugin = GreenroomPlugin(pool=pool)
    script = play([call("run_python", code="1")], [call("run_python", code="2")], "done")
    agent = agent_with(plugin, ScriptedModel(ai_model_id="scripted", script=script))
    threads: list[ChatHistoryAgentThread] = []
    for number in (1, 2):
        threads.append(ChatHistoryAgentThread())
        await agent.get_response("Go.", thread=threads[-1])
        await wait_until(lambda number=number: len(backend.deleted) == number)
    assert backend.deleted == list(dict.fromkeys(backend.identifiers))


async def test_the_session_of_a_kernels_first_call_ends_with_its_thread_if_it_was_the_runs_only_one(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent
) -> None:
    agent, thread = agent_with(GreenroomPlugin(pool=pool)), ChatHistoryAgentThread()
    await agent.get_response("1", thread=thread)
    assert backend.deleted == []
    await agent.get_response("2", thread=thread)
    first, second = backend.identifiers
    await wait_until(lambda: backend.deleted == [second])
    del thread
    await wait_until(lambda: backend.deleted == [second, first])


@pytest.mark.parametrize("stolen", [{"thread_id": "alice"}, {"arguments": {"thread_id": "alice"}}])
async def test_a_model_cannot_choose_the_conversation(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent, stolen: dict[str, object]
) -> None:
    script = play([call("run_python", code="print(secret)", **stolen)], "done")
    plugin = GreenroomPlugin(pool=pool)
    agent = agent_with(plugin, ScriptedModel(ai_model_id="thief", script=script))
    await agent.get_response("Go.", arguments=KernelArguments(thread_id="bob"))
    assert plugin.session_for("alice").identifier not in backend.identifiers


async def test_a_fixed_session_serves_every_conversation(pool: SessionPool, backend: ScriptedBackend) -> None:
    session = pool.session("team-analysis")
    plugin = GreenroomPlugin(session=session)
    await plugin.run_python("1")
    await plugin.run_python("2", KernelArguments(thread_id="another"))
    assert backend.identifiers == ["team-analysis", "team-analysis"]
    assert plugin.session_for(ChatHistoryAgentThread()) is session


async def test_with_a_session_per_call_each_is_new_and_deleted_after_it(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent
) -> None:
    agent = agent_with(GreenroomPlugin(pool=pool, session_per_call=True))
    await agent.get_response("1")
    await agent.get_response("2")
    assert len(set(backend.identifiers)) == 2
    assert backend.deleted == backend.identifiers
