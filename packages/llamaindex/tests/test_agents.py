"""The loops of LlamaIndex's agents, with scripted models, over real sandboxes."""

# pyright: reportDeprecated=false
# Every call of an agent's `run` with a message matches its deprecated signature first.

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.agent.workflow import (
    AgentOutput,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ImageBlock, ToolCallBlock
from llama_index.core.workflow import Context

from llama_index.tools.greenroom import CodeOutput, Download, GreenroomToolSpec, execution_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenroom import SessionPool

    from .conftest import ScriptedModel

pytestmark = [
    # LlamaIndex's agents look for their steps among all their attributes, pydantic's deprecated ones too.
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    # ReActAgent asks in a step whether its workflow runs.
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

SALES = b"month,region,total\n1,north,10\n1,south,30\n2,north,20\n2,south,50\n"
BEST = """
import pandas as pd
sales = pd.read_csv("/mnt/data/sales.csv")
sales.groupby("region").total.sum().idxmax()
"""
CHART = """
import matplotlib.pyplot as plt
plt.plot(sales.groupby("month").total.sum())
print("drawn")
"""
WAIT = """
import pathlib, time
print("waiting", flush=True)
while not pathlib.Path("/mnt/data/go").exists():
    time.sleep(0.02)
"""


def calls(tool: str, **arguments: str) -> list[ToolCallBlock]:
    return [ToolCallBlock(tool_call_id="1", tool_name=tool, tool_kwargs=arguments)]


async def watched(handler: Any) -> tuple[AgentOutput, list[ToolCallResult]]:
    """The end of a run, and the results of its tool calls."""
    results = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
    return await handler, results


@pytest.fixture
def spec(sandboxes: SessionPool) -> GreenroomToolSpec:
    return GreenroomToolSpec(sandboxes)


async def test_a_function_agent_analyses_a_file_and_draws(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]
) -> None:
    llm = scripted(calls("run_python", code=BEST), calls("run_python", code=CHART), "The south.")
    agent = FunctionAgent(llm=llm, tools=spec.to_tool_list())
    ctx = Context(agent)
    async with await spec.asession_for(ctx) as session:
        await session.aupload(SALES, "sales.csv")
        answer, _ = await watched(agent.run(user_msg="Which region sells most?", ctx=ctx))
    assert str(answer) == "The south."

    first, second = (message for message in llm.told if message.role == "tool")
    assert first.content == "result:\n'south'"
    assert "drawn" in (second.content or "")
    assert [block.image_mimetype for block in second.blocks if isinstance(block, ImageBlock)] == ["image/png"]

    execution = execution_of(answer.tool_calls[1])
    assert execution is not None
    assert execution.images[0].data.startswith(b"\x89PNG")


async def test_a_react_agent_corrects_its_code(spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]) -> None:
    def acts(code: str) -> str:
        return f"Thought: I compute.\nAction: run_python\nAction Input: {json.dumps({'code': code})}"

    llm = scripted(
        acts("numbers = [1, 2, 3]\nprint('so far')\nsum(number)"),
        acts("sum(numbers)"),
        "Thought: I know.\nAnswer: 6",
    )
    agent = ReActAgent(llm=llm, tools=spec.to_tool_list())
    handler = agent.run(user_msg="Add 1, 2 and 3.")
    async with await spec.asession_for(handler.ctx):
        answer, results = await watched(handler)
    assert str(answer) == "6"
    assert [result.tool_output.is_error for result in results] == [True, False]
    failure, success = (result.tool_output.content for result in results)
    assert failure.startswith("The code failed.")
    assert "so far" in failure
    assert "NameError: name 'number' is not defined" in failure
    assert success == "result:\n6"
    assert any("result:\n6" in (message.content or "") for message in llm.told)


async def test_a_code_act_agent_writes_code_for_its_session(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]
) -> None:
    llm = scripted(
        "<execute>\ntotal = 40\nprint(total)\n</execute>",
        "<execute>\n```python\ntotal + 2\n```\n</execute>",
        "42.",
    )
    agent = CodeActAgent(code_execute_fn=spec.to_code_execute_fn(), llm=llm)
    handler = agent.run(user_msg="What is 40 + 2?")
    async with await spec.asession_for(handler.ctx):
        answer, results = await watched(handler)
    assert str(answer) == "42."
    assert [result.tool_output.content for result in results] == ["stdout:\n40", "result:\n42"]
    executions = [execution_of(result) for result in results]
    assert [execution and execution.result for execution in executions] == [None, "42"]
    assert any((message.content or "").endswith("result:\n42") for message in llm.told)


async def test_output_is_on_the_event_stream_while_the_code_runs(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]
) -> None:
    agent = FunctionAgent(llm=scripted(calls("run_python", code=WAIT), "Done."), tools=spec.to_tool_list())
    ctx = Context(agent)
    async with await spec.asession_for(ctx) as session:
        handler = agent.run(user_msg="go", ctx=ctx)
        written = ""
        async for event in handler.stream_events():
            if isinstance(event, CodeOutput):
                assert event.stream == "stdout"
                written += event.text
                await session.aupload(b"", "go")  # the code waits for it
        await handler
    assert written == "waiting\n"


async def test_a_cancelled_run_leaves_a_session_that_works(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]
) -> None:
    code = "import time\nx = 1\nprint('asleep', flush=True)\ntime.sleep(100)"
    agent = FunctionAgent(llm=scripted(calls("run_python", code=code)), tools=spec.to_tool_list())
    ctx = Context(agent)
    async with await spec.asession_for(ctx) as session, asyncio.timeout(30):
        handler = agent.run(user_msg="go", ctx=ctx)
        async for event in handler.stream_events():
            if isinstance(event, CodeOutput):
                await handler.cancel_run()
                break
        assert (await session.aexecute("x")).result == "1"


async def test_a_model_hands_over_a_file_that_its_code_wrote(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]
) -> None:
    llm = scripted(
        calls("run_python", code="open('/mnt/data/report.txt', 'w').write('All is well.')"),
        calls("list_files"),
        calls("download_file", path="report.txt"),
        "There you are.",
    )
    agent = FunctionAgent(llm=llm, tools=spec.to_tool_list())
    handler = agent.run(user_msg="Write a report.")
    async with await spec.asession_for(handler.ctx):
        _, results = await watched(handler)
    assert results[1].tool_output.content == "/mnt/data/report.txt (12 bytes)"
    download: Any = results[2].tool_output.raw_output.artifact
    assert isinstance(download, Download)
    assert (download.data, download.mime) == (b"All is well.", "text/plain")


async def test_two_users_of_one_tool_object_do_not_see_each_other(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel]
) -> None:
    tools = spec.to_tool_list()
    mine = FunctionAgent(llm=scripted(calls("run_python", code="secret = 42"), "Kept."), tools=tools)
    yours = FunctionAgent(llm=scripted(calls("run_python", code="secret"), "None."), tools=tools)
    my_ctx, your_ctx = Context(mine), Context(yours)
    async with await spec.asession_for(my_ctx), await spec.asession_for(your_ctx):
        await mine.run(user_msg="Keep a secret.", ctx=my_ctx)
        answer, _ = await watched(yours.run(user_msg="Which secret?", ctx=your_ctx))
    execution = execution_of(answer.tool_calls[0])
    assert execution is not None
    assert execution.error is not None
    assert execution.error.name == "NameError"
