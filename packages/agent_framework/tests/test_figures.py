"""Figures in a user's message, for services that do not accept them in function results."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest
from agent_framework import AgentSession, Content, Message

from greenroom import Execution, Output, SessionPool
from greenroom.testing import ScriptedBackend
from greenroom_agent_framework import GreenroomTools, show_figures

from .doubles import ScriptedClient, agent_with, call, play

PICTURES = [b"\x89PNG\r\n\x1a\n one", b"\x89PNG\r\n\x1a\n two"]


def shown(messages: Sequence[Message]) -> list[tuple[str, int]]:
    """The author and the number of pictures of each message."""
    found: list[tuple[str, int]] = []
    for message in messages:
        items = [item for content in message.contents for item in (content, *(content.items or ()))]
        found.append((str(message.role), sum(item.type == "data" for item in items)))
    return found


@pytest.fixture
def tools(pool: SessionPool, backend: ScriptedBackend) -> GreenroomTools:
    outputs = tuple(Output({"image/png": base64.b64encode(picture).decode()}) for picture in PICTURES)
    backend.answers["draw()"] = Execution("1", "succeeded", outputs=outputs)
    return GreenroomTools(pool=pool)


async def test_a_user_shows_the_figures_after_the_results_of_a_turn(tools: GreenroomTools) -> None:
    client = ScriptedClient(play([call("run_python", code="draw()"), call("list_files")], "I see."))
    agent = agent_with(tools, client=client, middleware=[show_figures])
    await agent.run("Draw.", session=AgentSession())
    assert shown(client.seen) == [("user", 0), ("assistant", 0), ("tool", 0), ("user", 2)]
    assert client.seen[-1].text == "These are the figures that the code drew."


async def test_the_conversation_keeps_its_figures_where_they_were(tools: GreenroomTools) -> None:
    draw, last = call("run_python", code="draw()"), call("run_python", code="last()")
    client = ScriptedClient(play([draw], [last], "I see.", "Still."))
    agent, session = agent_with(tools, client=client, middleware=[show_figures]), AgentSession()
    response = await agent.run("Draw.", session=session)
    assert ("tool", 2) in shown(response.messages)
    assert ("user", 2) not in shown(response.messages)
    await agent.run("And now?", session=session)
    first = [("user", 0), ("assistant", 0), ("tool", 0), ("user", 2)]
    assert shown(client.seen) == [*first, ("assistant", 0), ("tool", 0), ("assistant", 0), ("user", 0)]


async def test_no_message_stands_between_the_results_of_one_turn(tools: GreenroomTools) -> None:
    picture = Content.from_data(PICTURES[0], "image/png")
    turn = [
        Message("assistant", [call("run_python", code="draw()"), call("list_files")]),
        Message("tool", [Content.from_function_result("call-run_python", result=[picture])]),
        Message("tool", [Content.from_function_result("call-list_files", result="There are no files.")]),
    ]
    client = ScriptedClient(lambda _: "I see.")
    await agent_with(tools, client=client, middleware=[show_figures]).run(turn)
    assert shown(client.seen) == [("assistant", 0), ("tool", 0), ("tool", 0), ("user", 1)]


async def test_without_figures_nothing_is_added(tools: GreenroomTools) -> None:
    client = ScriptedClient()
    await agent_with(tools, client=client, middleware=[show_figures]).run("1", session=AgentSession())
    assert shown(client.seen) == [("user", 0), ("assistant", 0), ("tool", 0)]
