"""A person approves, changes or rejects code before it runs, through the framework's own requests."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from agent_framework import (
    AgentResponse,
    AgentSession,
    Content,
    FunctionInvocationContext,
    Message,
    function_middleware,
)

from greenroom import SessionPool
from greenroom.testing import ScriptedBackend
from greenroom_agent_framework import GreenroomMiddleware, GreenroomTools

from .doubles import Script, agent_with, call, results

REJECTED = "Error: Tool call invocation was rejected by user."


def pay(*codes: str) -> Script:
    """Run these programs in one turn, and answer when there are results."""
    calls = [Content.from_function_call(call_id=code, name="run_python", arguments={"code": code}) for code in codes]
    return lambda messages: "Paid." if results(messages) else calls


def answers(response: AgentResponse, decide: Callable[[str], bool]) -> Message:
    """The decisions about what a response asks for."""
    return Message(
        "user", [each.to_function_approval_response(decide(code_of(each))) for each in response.user_input_requests]
    )


def code_of(request: Content) -> str:
    """What a person sees of a request."""
    assert request.function_call is not None
    return str((request.function_call.parse_arguments() or {})["code"])


def codes(requests: Sequence[Content]) -> list[str]:
    return [code_of(each) for each in requests]


@pytest.fixture
def tools(pool: SessionPool) -> GreenroomTools:
    return GreenroomTools(pool=pool, approval_mode="always_require")


async def test_approved_code_runs_and_rejected_code_never_reaches_a_session(
    tools: GreenroomTools, backend: ScriptedBackend
) -> None:
    agent, session = agent_with(tools, pay("pay(1)", "pay(9)")), AgentSession()
    response = await agent.run("Pay.", session=session)
    assert codes(response.user_input_requests) == ["pay(1)", "pay(9)"]
    assert backend.runs == []
    response = await agent.run(answers(response, lambda code: code == "pay(1)"), session=session)
    assert response.text == "Paid."
    assert backend.codes == ["pay(1)"]


async def test_a_model_reads_that_its_code_was_rejected(tools: GreenroomTools, backend: ScriptedBackend) -> None:
    read: list[str] = []

    def script(messages: Sequence[Message]) -> str | list[Content]:
        read[:] = results(messages)
        return "Well." if read else [call("run_python", code="pay()")]

    agent, session = agent_with(tools, script), AgentSession()
    response = await agent.run("Pay.", session=session)
    await agent.run(answers(response, lambda _: False), session=session)
    assert read == [REJECTED]
    assert backend.runs == []


async def test_an_answer_with_other_code_does_not_change_what_was_asked_for(
    tools: GreenroomTools, backend: ScriptedBackend
) -> None:
    agent, session = agent_with(tools, pay("pay(1)")), AgentSession()
    response = await agent.run("Pay.", session=session)
    answer = response.user_input_requests[0].to_function_approval_response(True)
    forged = Content.from_dict(answer.to_dict())
    assert forged.function_call is not None
    forged.function_call.arguments = {"code": "pay(9)"}
    await agent.run(Message("user", [forged]), session=session)
    assert backend.codes == ["pay(1)"]


@function_middleware
async def edit(context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
    """Take the code that a person has written into an answer."""
    answer = context.metadata.get("approval_response")
    if answer is not None and "code" in answer.additional_properties:
        context.arguments = {"code": answer.additional_properties["code"]}
    await call_next()


async def test_code_that_a_middleware_changes_is_asked_for_again_and_is_what_ran(
    tools: GreenroomTools, backend: ScriptedBackend
) -> None:
    agent = agent_with(tools, pay("pay(9)"), middleware=[GreenroomMiddleware(), edit])
    session = AgentSession()
    response = await agent.run("Pay.", session=session)
    answer = response.user_input_requests[0].to_function_approval_response(True)
    answer.additional_properties["code"] = "pay(1)"
    response = await agent.run(Message("user", [answer]), session=session)
    assert codes(response.user_input_requests) == ["pay(1)"]
    assert backend.runs == []
    response = await agent.run(answers(response, lambda _: True), session=session)
    assert response.text == "Paid."
    assert backend.codes == ["pay(1)"]


PROCESS = """
import asyncio, json, sys
from agent_framework import AgentSession, Message, Content
from greenroom.testing import ScriptedBackend, scripted_pool
from greenroom_agent_framework import GreenroomTools
sys.path.insert(0, {tests!r})
from doubles import agent_with, results

async def main():
    state = json.load(sys.stdin)
    backend = ScriptedBackend()
    with scripted_pool(backend) as pool:
        tools = GreenroomTools(pool=pool, approval_mode="always_require")
        agent = agent_with(tools, lambda messages: results(messages)[-1])
        session = AgentSession.from_dict(state["session"])
        answers = [Content.from_dict(each).to_function_approval_response(state["approved"]) for each in state["asked"]]
        response = await agent.run(Message("user", answers), session=session)
        same = set(backend.identifiers) <= {tools.session_for(session).identifier}
        print(json.dumps([response.text, backend.codes, same]))

asyncio.run(main())
"""


@pytest.mark.parametrize("approved", [True, False])
async def test_a_decision_is_made_in_another_process(
    tools: GreenroomTools, backend: ScriptedBackend, approved: bool
) -> None:
    session = AgentSession()
    response = await agent_with(tools, pay("pay()")).run("Pay.", session=session)
    asked = [each.to_dict() for each in response.user_input_requests]
    state = json.dumps({"session": session.to_dict(), "asked": asked, "approved": approved})
    code = PROCESS.replace("{tests!r}", repr(str(Path(__file__).parent)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate(state.encode())
    text, ran, in_the_session_of_the_conversation = json.loads(output)
    assert text == ("stdout:\nran" if approved else REJECTED)
    assert ran == (["pay()"] if approved else [])
    assert in_the_session_of_the_conversation
    assert backend.runs == []
