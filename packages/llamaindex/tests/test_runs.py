"""Runs without a conversation: a session for each."""

# pyright: reportDeprecated=false
# Every call of an agent's `run` with a message matches its deprecated signature first.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.workflow import Context

from greenroom import InvalidRequest, adapters
from llama_index.tools.greenroom import GreenroomToolSpec, execution_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenroom import SessionPool
    from greenroom.testing import ScriptedBackend

    from .conftest import ScriptedModel

# LlamaIndex's agents look for their steps among all their attributes, deprecated ones of pydantic included.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")


def calls(tool: str, **arguments: str) -> list[ToolCallBlock]:
    return [ToolCallBlock(tool_call_id="1", tool_name=tool, tool_kwargs=arguments)]


@pytest.fixture
def default_pool(sandboxes: SessionPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionPool]:
    """What tools without a pool work in."""
    monkeypatch.setattr("greenroom.connecting.connect", lambda: sandboxes)
    yield sandboxes
    monkeypatch.setattr(sandboxes, "close", lambda: None)
    adapters.close_default_pool()


@pytest.mark.timeout(900)  # 80 executions in 40 sandboxes
async def test_two_users_without_a_conversation_never_meet_and_leave_no_session(
    default_pool: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(session_per_run=True)

    async def user(name: str) -> None:
        for number in range(20):
            secret = f"{name}-{number}"
            model = scripted(
                calls("run_python", code=f"before = globals().get('secret')\nsecret = {secret!r}\nbefore"),
                calls("run_python", code="secret"),
                "Done.",
            )
            run: Any = FunctionAgent(llm=model, tools=spec.to_tool_list()).run
            results = [execution_of(call) for call in (await run(user_msg="Go.")).tool_calls]
            assert [execution and execution.result for execution in results] == [None, repr(secret)]

    async def sessions() -> int:
        status = await default_pool.astatus()
        return status.idle + status.executing

    before = await sessions()
    await asyncio.gather(user("ann"), user("bob"))
    async with asyncio.timeout(120):
        while await sessions() > before:  # noqa: ASYNC110  a thread deletes them
            await asyncio.sleep(0.05)


async def test_with_a_session_per_run_the_application_reaches_it_while_it_has_the_context(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, session_per_run=True)
    model = scripted(calls("run_python", code="1"), "Done.", calls("run_python", code="2"), "Done.")
    agent = FunctionAgent(llm=model, tools=spec.to_tool_list())
    handler: Any = agent.run(user_msg="Go.")
    await handler
    assert (await spec.asession_for(handler.ctx)).identifier == backend.identifiers[0]
    await agent.run(user_msg="Go.", ctx=handler.ctx)
    assert len(set(backend.identifiers)) == 2


def test_a_session_per_run_cannot_be_combined_with_another_session(pool: SessionPool) -> None:
    for options in ({"session": pool.session()}, {"pool": pool, "session_per_call": True}):
        with pytest.raises(InvalidRequest, match="session_per_run=True"):
            GreenroomToolSpec(**options, session_per_run=True)  # pyright: ignore[reportArgumentType]


async def test_code_in_the_background_and_a_reset(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(sandboxes, background=True, reset=True)
    tools = {tool.metadata.get_name(): tool for tool in spec.to_tool_list()}
    model = scripted(
        calls("start_execution", code="import time\nx = 1\nprint('begun', flush=True)\ntime.sleep(600)"), "Started."
    )
    agent = FunctionAgent(llm=model, tools=[*tools.values()])
    ctx = Context(agent)
    async with await spec.asession_for(ctx):
        handler: Any = agent.run(user_msg="Go.", ctx=ctx)
        started: str = (await handler).tool_calls[0].tool_output.content
        number = started.split()[2]
        async with asyncio.timeout(60):
            look = tools["look_at_execution"]
            while "begun" not in (await look.acall(execution_id=number, ctx=ctx)).content:  # noqa: ASYNC110  in a sandbox
                await asyncio.sleep(0.05)
        assert "cancelled" in (await tools["stop_execution"].acall(execution_id=number, ctx=ctx)).content
        assert (await tools["run_python"].acall(code="x", ctx=ctx)).content == "result:\n1"
        await tools["reset_session"].acall(ctx=ctx)
        assert "NameError" in (await tools["run_python"].acall(code="x", ctx=ctx)).content
