"""One conversation, one session."""

# pyright: reportDeprecated=false
# Every call of an agent's `run` with a message matches its deprecated signature first.

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ImageBlock, ToolCallBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.workflow import (
    Context,
    StartEvent,
    StopEvent,
    Workflow,
    step,  # pyright: ignore[reportUnknownVariableType]
)
from pydantic import BaseModel

from greenroom import Execution, GreenroomError, Output, SessionPool
from llama_index.tools.greenroom import CONVERSATION_KEY, GreenroomToolSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenroom.testing import ScriptedBackend

    from .conftest import ScriptedModel


# LlamaIndex's agents look for their steps among all their attributes, deprecated ones of pydantic included.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")


def runs(code: str) -> ToolCallBlock:
    return ToolCallBlock(tool_call_id=code, tool_name="run_python", tool_kwargs={"code": code})


@pytest.fixture
def spec(pool: SessionPool) -> GreenroomToolSpec:
    return GreenroomToolSpec(pool)


@pytest.fixture
def agent(spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]) -> FunctionAgent:
    """An agent that makes one call in each of many runs."""
    turns = [turn for number in range(20) for turn in ([runs(f"{number}")], "Done.")]
    return FunctionAgent(llm=scripted(*turns), tools=spec.to_tool_list())


async def test_the_runs_of_a_context_share_a_session(agent: FunctionAgent, backend: ScriptedBackend) -> None:
    ctx = Context(agent)
    await agent.run(user_msg="first", ctx=ctx)
    await agent.run(user_msg="second", ctx=ctx)
    assert len(backend.identifiers) == 2
    assert len(set(backend.identifiers)) == 1


async def test_runs_without_a_context_are_separate_conversations(
    agent: FunctionAgent, spec: GreenroomToolSpec, backend: ScriptedBackend
) -> None:
    handler = agent.run(user_msg="first")
    await handler
    await agent.run(user_msg="second")
    assert len(set(backend.identifiers)) == 2
    assert (await spec.asession_for(handler.ctx)).identifier == backend.identifiers[0]


async def test_the_session_outlives_the_process_with_the_serialized_context(
    agent: FunctionAgent, backend: ScriptedBackend
) -> None:
    ctx = Context(agent)
    await agent.run(user_msg="first", ctx=ctx)
    stored = json.dumps(ctx.to_dict())
    await agent.run(user_msg="second", ctx=Context.from_dict(agent, json.loads(stored)))
    assert len(backend.identifiers) == 2
    assert len(set(backend.identifiers)) == 1


async def test_a_figure_does_not_make_an_agent_forget_the_conversation(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel], backend: ScriptedBackend
) -> None:
    figure = Output({"image/png": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()})
    backend.answers["plot()"] = Execution("1", "succeeded", outputs=(figure,))
    llm = scripted([runs("plot()")], "Here.", "It rises.", "Thank you.")
    agent = FunctionAgent(llm=llm, tools=spec.to_tool_list())
    ctx = Context(agent)
    held = ChatMemoryBuffer(token_limit=10_000)
    await agent.run(user_msg="Plot it.", ctx=ctx, memory=held)
    assert (await held.aget())[-1].content == "Here."
    for question in ("Does it rise?", "Good."):
        await agent.run(user_msg=question, ctx=ctx)
        assert llm.told[0].content == "Plot it."
        assert any(isinstance(block, ImageBlock) for message in llm.told for block in message.blocks)
        ctx = Context.from_dict(agent, json.loads(json.dumps(ctx.to_dict())))


async def test_a_memory_chosen_by_the_application_is_left_alone(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel], backend: ScriptedBackend
) -> None:
    class OwnMemory(ChatMemoryBuffer): ...

    figure = Output({"image/png": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()})
    backend.answers["plot()"] = Execution("1", "succeeded", outputs=(figure,))
    agent = FunctionAgent(llm=scripted([runs("plot()")], "Here."), tools=spec.to_tool_list())
    own = OwnMemory(token_limit=10_000)
    handler = agent.run(user_msg="Plot it.", memory=own)
    await handler
    assert await handler.ctx.store.get("memory") is own


async def test_the_application_reaches_the_session_before_during_and_after_a_run(
    agent: FunctionAgent, spec: GreenroomToolSpec, backend: ScriptedBackend
) -> None:
    ctx = Context(agent)
    before = await spec.asession_for(ctx)
    handler = agent.run(user_msg="first", ctx=ctx)
    during = await spec.asession_for(handler.ctx)
    await handler
    after = await spec.asession_for(ctx)
    assert {before.identifier, during.identifier, after.identifier} == set(backend.identifiers)


async def test_blocking_code_reaches_the_same_session(agent: FunctionAgent, spec: GreenroomToolSpec) -> None:
    ctx = Context(agent)
    here = spec.session_for(ctx)
    elsewhere = await asyncio.to_thread(spec.session_for, ctx)
    assert here.identifier == elsewhere.identifier == (await spec.asession_for(ctx)).identifier


async def test_concurrent_first_calls_of_a_conversation_share_a_session(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel], backend: ScriptedBackend
) -> None:
    llm = scripted([runs(f"{number}") for number in range(4)], "Done.")
    await FunctionAgent(llm=llm, tools=spec.to_tool_list()).run(user_msg="go")
    assert len(backend.identifiers) == 4
    assert len(set(backend.identifiers)) == 1


async def test_agents_that_hand_over_to_each_other_share_the_session(
    pool: SessionPool, scripted: Callable[..., ScriptedModel], backend: ScriptedBackend
) -> None:
    handover = ToolCallBlock(
        tool_call_id="h", tool_name="handoff", tool_kwargs={"to_agent": "plotter", "reason": "charts"}
    )
    reader, plotter = (
        FunctionAgent(
            name=name,
            description=name,
            llm=scripted(*turns),
            tools=GreenroomToolSpec(pool).to_tool_list(),
        )
        for name, turns in [("reader", ([runs("1")], [handover])), ("plotter", ([runs("2")], "Done."))]
    )
    await AgentWorkflow(agents=[reader, plotter], root_agent="reader").run(user_msg="go")
    assert len(backend.identifiers) == 2
    assert len(set(backend.identifiers)) == 1


async def test_the_application_can_name_the_conversation(agent: FunctionAgent, backend: ScriptedBackend) -> None:
    for _ in range(2):
        ctx = Context(agent)
        await ctx.store.set(CONVERSATION_KEY, "user-42")
        await agent.run(user_msg="go", ctx=ctx)
    assert len(set(backend.identifiers)) == 1


async def test_the_memory_that_the_application_holds_stays_that_of_the_workflow(agent: FunctionAgent) -> None:
    memory = ChatMemoryBuffer(token_limit=10_000)
    await agent.run(user_msg="first", memory=memory)
    assert (await memory.aget())[-1].content == "Done."


class TypedState(BaseModel):
    greenroom_conversation: str | None = None


class OwnWorkflow(Workflow):
    """One that has a typed state and calls the function itself."""

    def __init__(self, spec: GreenroomToolSpec) -> None:
        super().__init__()
        self._spec = spec

    @step
    async def only(self, ctx: Context[TypedState], ev: StartEvent) -> StopEvent:
        return StopEvent(result=await self._spec.arun_python("1", ctx))


async def test_a_workflow_with_a_typed_state_and_a_field_for_it_has_a_session(
    spec: GreenroomToolSpec, backend: ScriptedBackend
) -> None:
    workflow = OwnWorkflow(spec)
    ctx: Context[Any] = Context(workflow)
    await workflow.run(ctx=ctx)
    await workflow.run(ctx=ctx)
    assert len(backend.identifiers) == 2
    assert len(set(backend.identifiers)) == 1


async def test_without_a_conversation_the_tools_of_a_pool_refuse_to_guess(
    spec: GreenroomToolSpec, backend: ScriptedBackend
) -> None:
    for tool in spec.to_tool_list():
        schema = tool.metadata.to_openai_tool()["function"]["parameters"]
        arguments: dict[str, str] = dict.fromkeys(schema["properties"], "x")
        with pytest.raises(GreenroomError, match="session="):
            tool.call(**arguments)
        with pytest.raises(GreenroomError, match="session="):
            await tool.acall(**arguments)
    assert not backend.runs


async def test_a_fixed_session_serves_every_conversation_and_calls_without_one(
    pool: SessionPool, scripted: Callable[..., ScriptedModel], backend: ScriptedBackend
) -> None:
    spec = GreenroomToolSpec(session=pool.session("for-everybody"))
    agent = FunctionAgent(llm=scripted([runs("1")], "Done.", [runs("2")], "Done."), tools=spec.to_tool_list())
    await agent.run(user_msg="one user")
    await agent.run(user_msg="another")
    spec.run_python("3")
    assert backend.identifiers == ["for-everybody"] * 3
    assert spec.session_for().identifier == "for-everybody"
