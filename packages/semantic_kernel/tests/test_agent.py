"""Semantic Kernel's own agent loop, over real sandboxes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.contents import (
    AuthorRole,
    ChatHistory,
    ChatMessageContent,
    FunctionResultContent,
    TextContent,
)
from semantic_kernel.functions import KernelArguments

from greenroom import Execution, SessionPool
from greenroom_semantic_kernel import ExecutionText, GreenroomPlugin, executions, image_contents

from .doubles import ScriptedModel, call, play

MakeAgent = Callable[..., ChatCompletionAgent]

CHART = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 4])
print("drawn")
"""


@pytest.fixture
def plugin(sandboxes: SessionPool) -> GreenroomPlugin:
    return GreenroomPlugin(pool=sandboxes)


@pytest.fixture
async def thread(plugin: GreenroomPlugin) -> AsyncIterator[ChatHistoryAgentThread]:
    """A conversation whose session is deleted at its end."""
    thread = ChatHistoryAgentThread()
    async with plugin.session_for(thread):
        yield thread


def arguments(thread: ChatHistoryAgentThread) -> KernelArguments:
    return KernelArguments(thread_id=thread.id)


async def results(thread: ChatHistoryAgentThread) -> list[str]:
    """What the model has read of its calls."""
    items = [item async for message in thread.get_messages() for item in message.items]
    return [str(item.result) for item in items if isinstance(item, FunctionResultContent)]


async def ran(thread: ChatHistoryAgentThread) -> list[Execution]:
    """What the application finds of the executions."""
    return executions([message async for message in thread.get_messages()])


async def test_an_agent_answers_with_the_result_of_its_code(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    await plugin.session_for(thread).aupload(b"year,sum\n2024,3\n2025,4\n", "sales.csv")
    code = "import pandas as pd; print(pd.read_csv('/mnt/data/sales.csv')['sum'].sum())"
    response = await agent_with(plugin).get_response(code, thread=thread, arguments=arguments(thread))
    (execution,) = await ran(thread)
    assert execution.stdout == "7\n"
    assert str(response) == execution.text_for_model()


async def test_variables_last_from_turn_to_turn(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    agent = agent_with(plugin)
    await agent.get_response("total = 41", thread=thread, arguments=arguments(thread))
    await agent.get_response("total + 1", thread=thread, arguments=arguments(thread))
    assert [execution.result for execution in await ran(thread)] == [None, "42"]


async def test_concurrent_conversations_do_not_see_each_other(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    agent = agent_with(plugin)
    other = ChatHistoryAgentThread()
    async with plugin.session_for(other):
        await agent.get_response("secret = 'alice'", thread=thread, arguments=arguments(thread))
        await asyncio.gather(
            agent.get_response("print(secret)", thread=thread, arguments=arguments(thread)),
            agent.get_response("print(secret)", thread=other, arguments=arguments(other)),
        )
    assert [execution.stdout for execution in await ran(thread)] == ["", "alice\n"]
    assert [execution.error and execution.error.name for execution in await ran(other)] == ["NameError"]


async def test_a_model_corrects_its_code(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    script = play([call("run_python", code="1 / 0")], [call("run_python", code="1 / 2")], "It is a half.")
    agent = agent_with(plugin, ScriptedModel(ai_model_id="scripted", script=script))
    response = await agent.get_response("Divide.", thread=thread, arguments=arguments(thread))
    assert [execution.status for execution in await ran(thread)] == ["failed", "succeeded"]
    assert "ZeroDivisionError: division by zero" in (await results(thread))[0]
    assert str(response) == "It is a half."


async def test_calls_of_one_turn_share_the_session(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    write = call("run_python", code="open('/mnt/data/a.txt', 'w').write('x' * 9);")
    turns = [write], [call("list_files"), call("read_file", path="a.txt")], "Done."
    agent = agent_with(plugin, ScriptedModel(ai_model_id="scripted", script=play(*turns)))
    await agent.get_response("Write.", thread=thread, arguments=arguments(thread))
    assert sorted((await results(thread))[1:]) == ["/mnt/data/a.txt (9 bytes)", "xxxxxxxxx"]


async def test_figures_reach_the_application_and_from_there_the_model(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    told: list[Execution] = []

    async def tell(message: ChatMessageContent) -> None:
        told.extend(executions([message]))

    agent = agent_with(plugin)
    turn = agent.invoke(CHART, thread=thread, arguments=arguments(thread), on_intermediate_message=tell)
    (response,) = [response async for response in turn]
    (image,) = told[0].images
    assert image.data.startswith(b"\x89PNG")
    assert image.name in str(response)
    question = ChatMessageContent(AuthorRole.USER, items=[TextContent(text="print('seen')"), *image_contents(told[0])])
    assert str(question.items[1]).startswith("data:image/png;base64,iVBOR")
    await agent.get_response(question, thread=thread, arguments=arguments(thread))


async def test_a_streaming_agent_keeps_the_execution(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    turn = agent_with(plugin).invoke_stream("6 * 7", thread=thread, arguments=arguments(thread))
    text = "".join([str(piece) async for piece in turn])
    assert text == "result:\n42"
    assert [found.result for found in executions([message async for message in thread.get_messages()])] == ["42"]


async def test_a_serialized_history_keeps_only_the_text(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    await agent_with(plugin).get_response(CHART, thread=thread, arguments=arguments(thread))
    history = ChatHistory(messages=[message async for message in thread.get_messages()])
    serialized = history.serialize()
    (execution,) = await ran(thread)
    assert json.dumps(execution.text_for_model()) in serialized
    assert "iVBOR" not in serialized


async def test_cancelling_an_agent_interrupts_its_code(
    plugin: GreenroomPlugin, thread: ChatHistoryAgentThread, agent_with: MakeAgent
) -> None:
    session = plugin.session_for(thread)
    code = "import time\nopen('/mnt/data/started', 'w').close()\nwhile True: time.sleep(0.01)"
    turn = agent_with(plugin).get_response(code, thread=thread, arguments=arguments(thread))
    task = asyncio.ensure_future(turn)
    async with asyncio.timeout(60):
        while not await session.afiles():  # noqa: ASYNC110  another process begins, which no event can tell
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        execution = await session.aexecute("'free again'")
    assert execution.result == "'free again'"


def test_one_plugin_serves_one_event_loop_after_the_other(sandboxes: SessionPool) -> None:
    kernel = Kernel()
    with sandboxes.session() as session:
        kernel.add_plugin(GreenroomPlugin(session=session))
        for code in ("x = 1", "x + 1"):
            result = asyncio.run(kernel.invoke(plugin_name="greenroom", function_name="run_python", code=code))
        assert result is not None
    assert isinstance(result.value, ExecutionText)
    assert result.value.execution.result == "2"
