"""A person approves, changes or rejects code before it runs: in a filter, or between two invocations of an agent."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (the arguments and filters of a kernel are partly untyped)

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.contents import ChatHistory, FunctionCallContent
from semantic_kernel.filters import FilterTypes, FunctionInvocationContext
from semantic_kernel.functions import FunctionResult

from greenroom import SessionPool
from greenroom.testing import ScriptedBackend
from greenroom_semantic_kernel import GreenroomPlugin

from .doubles import ScriptedModel, call, play

MakeAgent: TypeAlias = Callable[..., ChatCompletionAgent]

REJECTED = "The user did not let this code run."


def asking(decide: Callable[[str], Awaitable[str | None]]) -> Callable[..., Awaitable[None]]:
    """A filter that runs the code on which a person decides; `None` rejects it."""

    async def ask(
        context: FunctionInvocationContext,
        next: Callable[[FunctionInvocationContext], Awaitable[None]],  # noqa: A002  the kernel's name
    ) -> None:
        code = await decide(context.arguments["code"])
        if code is None:
            context.result = FunctionResult(function=context.function.metadata, value=REJECTED)
        else:
            context.arguments["code"] = code
            await next(context)

    return ask


@pytest.mark.parametrize("decision", ["pay(9)", "pay(1)", None], ids=["approve", "edit", "reject"])
async def test_a_filter_decides_about_code_before_it_reaches_a_session(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent, decision: str | None
) -> None:
    asked: list[str] = []

    async def decide(code: str) -> str | None:
        asked.append(code)
        await asyncio.sleep(0)  # a person takes their time
        assert backend.runs == []
        return decision

    agent = agent_with(GreenroomPlugin(pool=pool))
    agent.kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, asking(decide))
    response = await agent.get_response("pay(9)")
    assert str(response) == (REJECTED if decision is None else "stdout:\nran")
    assert asked == ["pay(9)"]
    assert backend.codes == ([] if decision is None else [decision])


async def test_a_run_keeps_its_session_after_any_decision(
    pool: SessionPool, backend: ScriptedBackend, agent_with: MakeAgent
) -> None:
    async def decide(code: str) -> str | None:
        return None if code == "pay()" else code

    script = play(*([call("run_python", code=code)] for code in ("x = 1", "pay()", "x")), "Done.")
    agent = agent_with(GreenroomPlugin(pool=pool), ScriptedModel(ai_model_id="scripted", script=script))
    agent.kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, asking(decide))
    await agent.get_response("Go.")
    assert backend.codes == ["x = 1", "x"]
    assert len(set(backend.identifiers)) == 1


PROCESS = """
import asyncio, json, sys
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.contents import ChatHistory, FunctionCallContent, FunctionResultContent
from semantic_kernel.functions import KernelArguments
from greenroom.testing import ScriptedBackend, scripted_pool
from greenroom_semantic_kernel import GreenroomPlugin
sys.path.insert(0, {tests!r})
from doubles import ScriptedModel, run_what_the_user_says

async def main():
    state = json.load(sys.stdin)
    backend = ScriptedBackend()
    with scripted_pool(backend) as pool:
        plugin = GreenroomPlugin(pool=pool)
        model = ScriptedModel(ai_model_id="scripted", script=run_what_the_user_says)
        agent = ChatCompletionAgent(name="Analyst", service=model, plugins=[plugin])
        history = ChatHistory.restore_chat_history(state["history"])
        thread = ChatHistoryAgentThread(history, state["thread"])
        arguments = KernelArguments(thread_id=thread.id)
        for item in list(history.messages[-1].items):
            if state["approved"]:
                await agent.kernel.invoke_function_call(item, history, arguments=arguments)
            else:
                result = FunctionResultContent.from_function_call_content_and_result(item, state["rejected"])
                history.add_message(result.to_chat_message_content())
        response = await agent.get_response(thread=thread, arguments=arguments)
        same = set(backend.identifiers) <= {plugin.session_for(thread).identifier}
        print(json.dumps([str(response), backend.codes, same]))

asyncio.run(main())
"""


@pytest.mark.parametrize("approved", [True, False])
async def test_a_decision_is_made_in_another_process(
    pool: SessionPool, backend: ScriptedBackend, approved: bool
) -> None:
    agent = ChatCompletionAgent(
        name="Analyst",
        service=ScriptedModel(ai_model_id="scripted", script=play([call("run_python", code="pay()")])),
        plugins=[GreenroomPlugin(pool=pool)],
        function_choice_behavior=FunctionChoiceBehavior.Auto(auto_invoke=False),
    )
    thread = ChatHistoryAgentThread()
    response = await agent.get_response("Pay.", thread=thread)
    (request,) = response.message.items
    assert isinstance(request, FunctionCallContent)
    arguments: Mapping[str, Any] = request.parse_arguments() or {}
    assert arguments == {"code": "pay()"}

    history = ChatHistory(messages=[message async for message in thread.get_messages()])
    state = {"history": history.serialize(), "thread": thread.id, "approved": approved, "rejected": REJECTED}
    code = PROCESS.replace("{tests!r}", repr(str(Path(__file__).parent)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(state).encode())
    text, ran, in_the_session_of_the_conversation = json.loads(output)
    assert text == ("stdout:\nran" if approved else REJECTED)
    assert ran == (["pay()"] if approved else [])
    assert in_the_session_of_the_conversation
    assert backend.runs == []
