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

from greenroom import adapters
from llama_index.tools.greenroom import GreenroomToolSpec, execution_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import ScriptedModel

    from greenroom import SessionPool

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


async def test_two_agents_without_a_conversation_never_meet(
    default_pool: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec()

    async def user(name: str) -> None:
        for number in range(20):
            secret = f"{name}-{number}"
            model = scripted(
                calls("run_python", code=f"before = globals().get('secret')\nsecret = {secret!r}\nbefore"),
                calls("run_python", code="secret"),
                "Done.",
            )
            handler: Any = FunctionAgent(llm=model, tools=spec.to_tool_list()).run(user_msg="Go.")
            async with await spec.asession_for(handler.ctx):
                answer = await handler
            results = [execution_of(call) for call in answer.tool_calls]
            assert [execution and execution.result for execution in results] == [None, repr(secret)]

    await asyncio.gather(user("ann"), user("bob"))


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
