"""The framework's own agent loop, over real sandboxes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from agent_framework import AgentResponseUpdate, AgentSession, Content, Message

from greenroom import SessionPool
from greenroom_agent_framework import GreenroomTools, downloads, executions

from .doubles import ScriptedClient, agent_with, call, play, results

CHART = """
import pandas as pd
sales = pd.read_csv("/mnt/data/sales.csv")
sales.plot(x="year", y="sum")
print(sales["sum"].sum())
"""


@pytest.fixture
def tools(sandboxes: SessionPool) -> GreenroomTools:
    return GreenroomTools(pool=sandboxes)


@pytest.fixture
async def session(tools: GreenroomTools) -> AsyncIterator[AgentSession]:
    """A conversation whose sandbox is gone at its end."""
    session = AgentSession()
    async with tools.session_for(session):
        yield session


def pictures(messages: list[Message]) -> list[str]:
    """The data URIs of the pictures in results of functions."""
    contents = [content for message in messages for content in message.contents]
    items: list[Content] = [item for content in contents for item in content.items or ()]
    return [str(item.uri) for item in items if item.type == "data"]


async def test_an_agent_draws_a_chart_of_a_csv_file(tools: GreenroomTools, session: AgentSession) -> None:
    await tools.session_for(session).aupload(b"year,sum\n2024,3\n2025,4\n", "sales.csv")
    client = ScriptedClient()
    response = await agent_with(tools, client=client).run(CHART, session=session)
    (execution,) = executions(response.messages)
    assert response.text == execution.text_for_model()
    assert execution.stdout == "7\n"
    assert [image.data[:4] for image in execution.images] == [b"\x89PNG"]
    (seen,) = pictures(client.seen)
    assert seen.startswith("data:image/png;base64,iVBOR")
    assert "iVBOR" not in response.text


async def test_without_images_the_model_reads_their_names_and_the_application_has_them(
    sandboxes: SessionPool, session: AgentSession
) -> None:
    tools, client = GreenroomTools(pool=sandboxes, images=False), ScriptedClient()
    code = "import matplotlib.pyplot as plt; plt.plot([1, 2, 4]);"
    response = await agent_with(tools, client=client).run(code, session=session)
    assert pictures(client.seen) == []
    assert "figure-1.png" in response.text
    assert executions(response.messages)[0].images[0].data.startswith(b"\x89PNG")


async def test_variables_last_from_run_to_run(tools: GreenroomTools, session: AgentSession) -> None:
    agent = agent_with(tools)
    await agent.run("total = 41", session=session)
    assert (await agent.run("total + 1", session=session)).text == "result:\n42"


async def test_concurrent_conversations_do_not_see_each_other(tools: GreenroomTools, session: AgentSession) -> None:
    agent, other = agent_with(tools), AgentSession()
    async with tools.session_for(other):
        await agent.run("secret = 'alice'", session=session)
        mine, theirs = await asyncio.gather(
            agent.run("print(secret)", session=session), agent.run("print(secret)", session=other)
        )
    assert mine.text == "stdout:\nalice"
    assert "NameError" in theirs.text


async def test_a_model_corrects_its_code(tools: GreenroomTools, session: AgentSession) -> None:
    script = play([call("run_python", code="1 / 0")], [call("run_python", code="1 / 2")], "It is a half.")
    response = await agent_with(tools, script).run("Divide.", session=session)
    assert [execution.status for execution in executions(response.messages)] == ["failed", "succeeded"]
    assert "ZeroDivisionError: division by zero" in results(response.messages)[0]
    assert response.text == "It is a half."


async def test_calls_of_one_turn_share_the_session(tools: GreenroomTools, session: AgentSession) -> None:
    write = call("run_python", code="open('/mnt/data/a.txt', 'w').write('x' * 9);")
    script = play([write], [call("list_files"), call("read_file", path="a.txt")], "Done.")
    response = await agent_with(tools, script).run("Write.", session=session)
    assert results(response.messages)[1:] == ["/mnt/data/a.txt (9 bytes)", "xxxxxxxxx"]


async def test_a_model_hands_a_file_to_the_application(tools: GreenroomTools, session: AgentSession) -> None:
    await tools.session_for(session).aupload(b"%PDF", "report.pdf")
    script = play([call("download_file", path="report.pdf")], "There you are.")
    client = ScriptedClient(script)
    response = await agent_with(tools, client=client).run("Give it to me.", session=session)
    (download,) = downloads(response.messages)
    assert (download.file.name, download.mime, download.data) == ("report.pdf", "application/pdf", b"%PDF")
    assert pictures(client.seen) == []


async def test_a_streaming_agent_keeps_the_execution(tools: GreenroomTools, session: AgentSession) -> None:
    stream = agent_with(tools).run("6 * 7", stream=True, session=session)
    updates: list[AgentResponseUpdate] = [update async for update in stream]
    assert "".join(update.text for update in updates) == "result:\n42"
    response = await stream.get_final_response()
    assert [found.result for found in executions(updates)] == ["42"]
    assert [found.result for found in executions(response.messages)] == ["42"]


async def test_a_stored_session_continues(tools: GreenroomTools, session: AgentSession) -> None:
    await agent_with(tools).run("import matplotlib.pyplot as plt; plt.plot([1, 2]); x = 7", session=session)
    stored = json.dumps(session.to_dict())
    restored = AgentSession.from_dict(json.loads(stored))
    client = ScriptedClient()
    response = await agent_with(tools, client=client).run("x", session=restored)
    assert response.text == "result:\n7"
    assert len(pictures(client.seen)) == 1
    assert [found.result for found in executions(client.seen)] == ["7"]


async def test_a_nested_agent_shares_the_session_where_it_is_propagated(
    tools: GreenroomTools, session: AgentSession
) -> None:
    await tools.session_for(session).aexecute("total = 41")
    analyst = agent_with(tools).as_tool(name="analyse", arg_name="code", propagate_session=True)
    script = play([call("analyse", code="total + 1")], "Done.")
    response = await agent_with(analyst, script).run("Ask.", session=session)
    assert results(response.messages) == ["result:\n42"]


async def test_cancelling_an_agent_interrupts_its_code(tools: GreenroomTools, session: AgentSession) -> None:
    ours = tools.session_for(session)
    code = "import time\nopen('/mnt/data/started', 'w').close()\nwhile True: time.sleep(0.01)"
    task = asyncio.ensure_future(agent_with(tools).run(code, session=session))
    async with asyncio.timeout(60):
        while not await ours.afiles():  # noqa: ASYNC110  another process begins, which no event can tell
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        execution = await ours.aexecute("'free again'")
    assert execution.result == "'free again'"


def test_one_collection_serves_one_event_loop_after_the_other(sandboxes: SessionPool) -> None:
    async def run(code: str) -> str:
        return (await agent_with(tools).run(code)).text

    with sandboxes.session() as session:
        tools = GreenroomTools(session=session)
        assert [asyncio.run(run(code)) for code in ("x = 1", "x + 1")] == ["The code ran without output.", "result:\n2"]
