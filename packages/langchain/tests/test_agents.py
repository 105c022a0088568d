"""The real agent loop over real sandboxes; only the model is scripted, and it brings code, never answers."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Any

import pytest
from langchain import agents
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field

from langchain_greenroom import OUTPUT_EVENT, GreenroomTool, GreenroomToolkit, execution_of

if TYPE_CHECKING:
    from pathlib import Path

    from greenroom import SessionPool

CSV = "month,sales\n" + "".join(f"{month},{month * 10}\n" for month in range(1, 13))


class ScriptedModel(GenericFakeChatModel):
    """Plays a model's turns and keeps what it was sent."""

    disable_streaming: bool | Any = True  # the base class would stream no tool calls
    read: list[list[BaseMessage]] = Field(default_factory=list[list[BaseMessage]])

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.read.append(list(messages))
        return super()._generate(messages, *args, **kwargs)


def model(*turns: AIMessage | str) -> ScriptedModel:
    return ScriptedModel(messages=iter(turns))


def make_agent(scripted: ScriptedModel, tools: list[Any], **options: Any) -> Any:
    untyped: Any = agents  # its annotations are incomplete
    return untyped.create_agent(scripted, tools, **options)


def calls(*codes: str) -> AIMessage:
    """A turn that runs each of the codes."""
    return uses(*(("run_python", {"code": code}) for code in codes))


def uses(*tools: tuple[str, dict[str, str]]) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[{"name": name, "args": args, "id": f"call-{n}"} for n, (name, args) in enumerate(tools)],
    )


def ask(question: str = "Go on.") -> Any:
    return {"messages": [HumanMessage(question)]}


def results(state: dict[str, Any]) -> list[ToolMessage]:
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def test_an_agent_analyses_a_csv_and_sees_its_chart(sandboxes: SessionPool, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text(CSV)
    toolkit = GreenroomToolkit(pool=sandboxes, uploads=tmp_path, images=True)
    scripted = model(
        uses(("upload_file", {"name": "sales.csv"})),
        calls("import pandas as pd\ndf = pd.read_csv('/mnt/data/sales.csv')\ndf.sales.sum()"),
        calls("import matplotlib.pyplot as plt\nplt.plot(df.month, df.sales)\nplt.savefig('trend.png')"),
        uses(("list_files", {}), ("download_file", {"path": "trend.png"})),
        "Sales rise.",
    )
    agent = make_agent(scripted, toolkit.get_tools())
    with toolkit.conversation() as config:
        state = agent.invoke(ask("What is the trend?"), config)

    _, total, chart, listing, download = results(state)
    assert "780" in total.text
    assert chart.artifact.images[0].data.startswith(b"\x89PNG")
    sent = next(message for message in scripted.read[-1] if message.id == chart.id)
    assert [block["type"] for block in sent.content_blocks] == ["text", "image"]
    assert "/mnt/data/sales.csv" in listing.text
    assert base64.b64decode(download.artifact["base64"]).startswith(b"\x89PNG")
    assert state["messages"][-1].content == "Sales rise."


async def test_an_agent_corrects_its_code(sandboxes: SessionPool) -> None:
    tool = GreenroomTool(pool=sandboxes)
    agent = make_agent(model(calls("y = undefined"), calls("print('mended')"), "Done."), [tool])
    async with tool.aconversation() as config:
        failed, mended = results(await agent.ainvoke(ask(), config))
    assert (failed.status, mended.status) == ("error", "success")
    assert failed.artifact.error.name == "NameError"
    assert "undefined" in failed.text
    assert "mended" in mended.text


def test_a_call_with_wrong_arguments_is_a_retryable_tool_error(sandboxes: SessionPool) -> None:
    tool = GreenroomTool(pool=sandboxes)
    agent = make_agent(model(uses(("run_python", {"source": "1"})), "Sorry."), [tool])
    with tool.conversation() as config:
        (result,) = results(agent.invoke(ask(), config))
    assert result.status == "error"
    assert "code" in result.text


def test_a_conversation_keeps_its_variables_over_turns_and_no_other_sees_them(sandboxes: SessionPool) -> None:
    tool = GreenroomTool(pool=sandboxes)
    scripted = model(calls("x = 41"), "Set.", calls("x + 1"), "42.", calls("x + 1"), "No x.")
    agent = make_agent(scripted, [tool], checkpointer=InMemorySaver())
    with tool.conversation() as ann, tool.conversation() as bob:
        agent.invoke(ask(), ann)
        agent.invoke(ask(), ann)
        agent.invoke(ask(), bob)
        first, second = results(agent.get_state(ann).values)
        (other,) = results(agent.get_state(bob).values)
    execution = execution_of(second)  # it comes from a checkpoint
    assert execution is not None
    assert execution.result == "42"
    assert (first.status, second.status, other.status) == ("success", "success", "error")


async def test_conversations_run_at_the_same_time(sandboxes: SessionPool) -> None:
    tool = GreenroomTool(pool=sandboxes)

    async def converse(name: str) -> str | None:
        agent = make_agent(model(calls(f"me = {name!r}"), calls("me"), "Done."), [tool])
        async with tool.aconversation(name) as config:
            return results(await agent.ainvoke(ask(), config))[-1].artifact.result

    names = [f"user-{n}" for n in range(4)]
    assert await asyncio.gather(*map(converse, names)) == [repr(name) for name in names]


def test_calls_of_one_turn_share_the_session(sandboxes: SessionPool) -> None:
    tool = GreenroomTool(pool=sandboxes)
    agent = make_agent(model(calls("a = 1", "b = 2"), calls("a + b"), "3."), [tool])
    with tool.conversation() as config:
        assert results(agent.invoke(ask(), config))[-1].artifact.result == "3"


async def test_cancelling_an_agent_stops_its_code_and_keeps_the_session(sandboxes: SessionPool) -> None:
    tool = GreenroomTool(pool=sandboxes)
    agent = make_agent(model(calls("import time\nprint('on it', flush=True)\ntime.sleep(60)"), "x"), [tool])
    async with tool.aconversation() as config:
        await tool.ainvoke("kept = 7", config)
        began = asyncio.Event()

        async def watch() -> None:
            async for event in agent.astream_events(ask(), config, version="v2"):
                if event["event"] == "on_custom_event" and event["name"] == OUTPUT_EVENT:
                    began.set()

        running = asyncio.create_task(watch())
        async with asyncio.timeout(30):
            await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        stopped = time.monotonic()
        assert "7" in await tool.ainvoke("kept", config)
        assert time.monotonic() - stopped < 50


async def test_a_graph_streams_output_while_the_code_runs(sandboxes: SessionPool) -> None:
    tool = GreenroomTool(pool=sandboxes)
    code = "import os, time\nprint('waiting', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)"
    agent = make_agent(model(calls(code), "Done."), [tool])
    with tool.conversation() as config:
        written = ""
        for piece in agent.stream(ask(), config, stream_mode="custom"):
            assert piece[OUTPUT_EVENT]["stream"] == "stdout"
            written += piece[OUTPUT_EVENT]["text"]
            tool.session_for(config).upload(b"", "go")  # the code waits for it
    assert written == "waiting\n"

    agent = make_agent(model(calls(code), "Done."), [tool])
    async with tool.aconversation() as config:
        written = ""
        async for piece in agent.astream(ask(), config, stream_mode="custom"):
            written += piece[OUTPUT_EVENT]["text"]
            await tool.session_for(config).aupload(b"", "go")
    assert written == "waiting\n"
