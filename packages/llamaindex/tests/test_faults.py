"""Faults of other integrations that take an agent to show; `AdapterSuite` keeps the others away."""

# pyright: reportDeprecated=false
# Every call of an agent's `run` with a message matches its deprecated signature first.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.workflow import Context
from workflows.errors import WorkflowCancelledByUser

from greenroom import PoolFull, SessionPool
from greenroom.testing import ENDLESS_CODE, wait_until
from llama_index.tools.greenroom import GreenroomToolSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenroom.testing import ScriptedBackend

    from .conftest import ScriptedModel

# LlamaIndex's agents look for their steps among all their attributes, deprecated ones of pydantic included.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")


def runs(code: str) -> ToolCallBlock:
    return ToolCallBlock(tool_call_id=code, tool_name="run_python", tool_kwargs={"code": code})


async def test_an_error_that_is_dropped(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    full = PoolFull("All 2 sessions are taken. Delete one.", sessions=2, retry_after=30)
    backend.answers["1"] = full
    agent = FunctionAgent(llm=scripted([runs("1")], "Later."), tools=GreenroomToolSpec(pool).to_tool_list())
    handler = agent.run(user_msg="go")
    outputs = [event.tool_output async for event in handler.stream_events() if "tool_output" in event.model_fields_set]
    assert [output.exception for output in outputs] == [full]
    assert outputs[0].is_error
    assert outputs[0].content == str(full)


async def test_a_cancelled_run_whose_code_runs_on(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    llm = scripted([runs(ENDLESS_CODE)])
    handler = FunctionAgent(llm=llm, tools=GreenroomToolSpec(pool).to_tool_list()).run(user_msg="go")
    await wait_until(lambda: bool(backend.runs))
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    await wait_until(lambda: backend.interrupted == backend.identifiers)


async def test_sessions_that_are_never_deleted(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool)
    agent = FunctionAgent(llm=scripted([runs("1")], "Done.", [runs("2")], "Done."), tools=spec.to_tool_list())
    ctx = Context(agent)
    async with await spec.asession_for(ctx):
        await agent.run(user_msg="go", ctx=ctx)
        assert backend.deleted == []
    assert backend.deleted == backend.identifiers

    handler = agent.run(user_msg="go")
    await handler
    spec.session_for(handler.ctx).delete()
    assert backend.deleted == backend.identifiers


async def test_one_session_that_all_users_of_a_tool_share(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    tools = GreenroomToolSpec(pool).to_tool_list()
    names = ("alice", "bob", "carol")
    agents = [FunctionAgent(llm=scripted([runs(name)], "Done.", [runs(name)], "Done."), tools=tools) for name in names]
    conversations = [(agent, Context(agent)) for agent in agents]
    for _ in range(2):
        await asyncio.gather(*(agent.run(user_msg="go", ctx=ctx) for agent, ctx in conversations))
    assert len(backend.runs) == 6
    assert len({(session, code) for session, code, _ in backend.runs}) == 3
    assert len(set(backend.identifiers)) == 3
