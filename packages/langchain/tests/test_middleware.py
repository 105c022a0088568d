"""Calls that code makes, through the agent's own middleware; the model is scripted, the rest is real."""

from __future__ import annotations

import asyncio
import operator
from typing import TYPE_CHECKING, Any

import pytest
from langchain import agents
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware
from langchain.tools import ToolRuntime
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from greenroom import ToolLimits
from greenroom.testing import wait_until
from langchain_greenroom import GreenroomTool
from langchain_greenroom.middleware import GreenroomMiddleware, needs_approval

from .doubles import ScriptedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenroom import SessionPool

made: list[Any] = []
"""What the tools were called with, in the test that runs."""


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    made.clear()


class Order(BaseModel):
    customer: int
    total: float


@tool
def get_orders(customer: int, limit: int = 10) -> list[Order]:
    """Return the latest orders of a customer."""
    made.append(customer)
    if customer > 90:
        raise ToolException(f"There is no customer {customer}.")
    return [Order(customer=customer, total=10.0 * customer + n) for n in range(min(limit, 2))]


@tool
async def send_mail(to: str) -> str:
    """Send a mail."""
    made.append(to)
    await asyncio.sleep(0)
    return f"sent to {to}"


@tool
def ask_person(question: str) -> str:
    """Ask a person twice."""
    answers = [interrupt(f"{question} {n}") for n in (1, 2)]
    made.append(question)
    return " and ".join(answers)


def turn(*codes: str) -> AIMessage:
    calls: Any = [{"name": "run_python", "args": {"code": code}, "id": f"call-{n}"} for n, code in enumerate(codes)]
    return AIMessage("", tool_calls=calls)


def make_agent(*turns: AIMessage | str, middleware: Any, **options: Any) -> Any:
    untyped: Any = agents
    model = ScriptedModel(
        turns=[turn(each) if isinstance(each, str) else each for each in turns] + [AIMessage("Done.")]
    )
    return untyped.create_agent(model, middleware=middleware, **options)


def ask() -> Any:
    return {"messages": [HumanMessage("Go on.")]}


def results(state: dict[str, Any]) -> list[ToolMessage]:
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def of(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


class Watch(AgentMiddleware):
    """Sees calls, as any middleware."""

    def __init__(self, change: Callable[[ToolMessage], ToolMessage] = lambda message: message) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._change = change

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        self.seen.append((request.tool_call["name"], request.tool_call["args"]))
        answer = handler(request)
        return answer if request.tool_call["name"] == "run_python" else self._change(answer)

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        self.seen.append((request.tool_call["name"], request.tool_call["args"]))
        answer = await handler(request)
        return answer if request.tool_call["name"] == "run_python" else self._change(answer)


GATHERED = """
import asyncio
parts = await asyncio.gather(*(get_orders(customer=c) for c in (1, 2, 3)))
sum(order['total'] for part in parts for order in part)
"""


async def run(agent: Any, asynchronous: bool, given: Any = None, config: Any = None) -> Any:
    given = ask() if given is None else given
    return await agent.ainvoke(given, config) if asynchronous else await asyncio.to_thread(agent.invoke, given, config)


both = pytest.mark.parametrize("asynchronous", [True, False], ids=["awaited", "blocking"])


@both
async def test_later_middleware_callbacks_and_the_model_see_what_they_should(
    sandboxes: SessionPool, asynchronous: bool
) -> None:
    watch = Watch()
    started: list[tuple[str, str, Any]] = []

    class Callbacks(BaseCallbackHandler):
        def on_tool_start(
            self, serialized: Any, input_str: str, *, run_id: Any, parent_run_id: Any = None, **_: Any
        ) -> None:
            started.append((serialized["name"], run_id, parent_run_id))

    middleware = GreenroomMiddleware(pool=sandboxes, tools=[get_orders])
    signature = "get_orders(customer: int, limit: int = 10) -> list[dict[str, Any]]"
    assert f"{signature}\n    Return the latest orders of a customer." in middleware.tool.description
    agent = make_agent(GATHERED, middleware=[middleware, watch])
    state = await run(agent, asynchronous, config={"callbacks": [Callbacks()]})
    assert results(state)[0].text == "result:\n123.0"
    assert watch.seen[0][0] == "run_python"
    assert sorted(args["customer"] for name, args in watch.seen[1:] if name == "get_orders") == [1, 2, 3]
    outer, *inner = started
    assert outer[0] == "run_python"
    assert [(name, parent == outer[1]) for name, _, parent in inner] == [("get_orders", True)] * 3


@both
async def test_failures_and_refusals_reach_the_code_and_the_session_continues(
    sandboxes: SessionPool, asynchronous: bool
) -> None:
    @tool
    def broken() -> Any:
        """Break."""
        raise RuntimeError("It broke.")

    @tool
    def no_json() -> Any:
        """Return what is no JSON."""
        return object()

    @tool
    def changes(runtime: ToolRuntime[Any, Any]) -> Any:
        """Change the state."""
        assert runtime.tool_call_id == "call-0:5"
        return Command(update={"messages": [ToolMessage("x", tool_call_id=runtime.tool_call_id)]})

    code = """
for call in (lambda: get_orders(customer=99), lambda: get_orders(customer="many"), broken, no_json, changes):
    try:
        print("no error:", call())
    except ToolError as error:
        print(str(error)[:60])
"""
    middleware = GreenroomMiddleware(pool=sandboxes, tools=[get_orders, broken, no_json, changes])
    state = await run(make_agent(code, "7", middleware=[middleware]), asynchronous)
    lines = results(state)[0].text.splitlines()
    assert lines[1] == "There is no customer 99."
    assert lines[2].startswith("The arguments of get_orders are not valid: customer:")
    assert lines[3] == "It broke."
    assert "no_json" in lines[4]
    assert lines[5] == "changes changes the agent's state, which code cannot do."
    assert results(state)[1].text == "result:\n7"


@both
async def test_the_code_gets_what_middleware_returns(sandboxes: SessionPool, asynchronous: bool) -> None:
    async def value(change: Callable[[ToolMessage], ToolMessage]) -> ToolMessage:
        agent = make_agent(
            "type(x := get_orders(customer=1, limit=1)).__name__, x",
            middleware=[GreenroomMiddleware(pool=sandboxes, tools=[get_orders]), Watch(change)],
        )
        return results(await run(agent, asynchronous))[0]

    hidden = await value(lambda message: message.model_copy(update={"content": "hidden"}))
    assert hidden.text == "result:\n('str', 'hidden')"
    noted = await value(lambda message: message.model_copy(update={"content": f"Note.\n{message.content}"}))
    assert noted.text == "result:\n('list', [{'customer': 1, 'total': 10.0}])\n\nNote."
    refused = await value(lambda message: message.model_copy(update={"status": "error", "content": "No."}))
    assert "ToolError: No." in refused.text


async def test_a_tool_gets_what_is_injected_and_the_name_of_its_call(sandboxes: SessionPool) -> None:
    @tool("get-context")
    def get_context(key: str, runtime: ToolRuntime[Any, Any]) -> dict[str, Any]:
        """Return what the tool knows."""
        return {"key": key, "state": len(runtime.state["messages"])}

    agent = make_agent("get_context(key='a')", middleware=[GreenroomMiddleware(pool=sandboxes, tools=[get_context])])
    assert results(await agent.ainvoke(ask()))[0].text == "result:\n{'key': 'a', 'state': 2}"
    with pytest.raises(ValueError, match="must have different names"):
        GreenroomMiddleware(pool=sandboxes, tools=[get_context, tool("get_context")(operator.add)])


async def test_the_plain_tool_also_calls_functions_but_refuses_those_that_need_approval(sandboxes: SessionPool) -> None:
    plain = GreenroomTool(pool=sandboxes, tools=[get_orders, send_mail])
    with plain.conversation() as config:
        assert plain.invoke({"code": "len(get_orders(customer=1))"}, config) == "result:\n2"
        assert await plain.ainvoke({"code": "len(get_orders(customer=1)), send_mail(to='ann')"}, config) == (
            "result:\n(2, 'sent to ann')"
        )
    with pytest.raises(ValueError, match="'send_mail' must not be called"):
        GreenroomTool(pool=sandboxes, tools=[send_mail], interrupt_on={"send_mail": True})
    GreenroomTool(pool=sandboxes, tools=[send_mail], interrupt_on={"send_mail": False, "other": True})


def per_call(*names: str) -> HumanInTheLoopMiddleware:
    return HumanInTheLoopMiddleware(interrupt_on=dict.fromkeys(names, True), interrupt_mode="per_call")


def questions(state: Any) -> list[Any]:
    return [each.value for each in state.get("__interrupt__", ())]


@both
async def test_a_person_approves_edits_answers_and_rejects_calls_of_code(
    sandboxes: SessionPool, asynchronous: bool
) -> None:
    code = """
import asyncio
before = "kept"
async def call(customer):
    try:
        return await get_orders(customer=customer, limit=1)
    except ToolError as error:
        return str(error)
answers = await asyncio.gather(*map(call, (1, 2, 3, 4)))
print(before, len(answers))
for answer in answers: print(answer)
"""
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[get_orders]), per_call("get_orders")]
    agent = make_agent(code, middleware=middleware, checkpointer=InMemorySaver())
    config = of(f"decisions-{asynchronous}")
    state = await run(agent, asynchronous, config=config)
    asked: list[int] = []
    for decision in (
        {"type": "approve"},
        {"type": "edit", "edited_action": {"name": "get_orders", "args": {"customer": 20, "limit": 1}}},
        {"type": "reject", "message": "Not this one."},
        {"type": "respond", "message": "There are none."},
    ):
        (question,) = questions(state)
        asked.append(question["args"]["customer"])
        state = await run(agent, asynchronous, Command(resume=decision), config)
    assert asked == [1, 2, 3, 4]
    assert made == [1, 20]
    text = results(state)[0].text
    first, *lines = text.removeprefix("stdout:\n").splitlines()
    assert first == "kept 4"
    assert lines[:2] == ["[{'customer': 1, 'total': 10.0}]", "[{'customer': 20, 'total': 200.0}]"]
    assert "Not this one." in lines[2]
    assert lines[3] == "There are none."
    assert "a human reviewer replaced this tool call" in text
    middleware[0].tool.delete_session(config)


@both
async def test_fifty_gathered_calls_are_approved_one_by_one_and_made_once(
    sandboxes: SessionPool, asynchronous: bool
) -> None:
    code = """
import asyncio
x = 7
parts = await asyncio.gather(*(get_orders(customer=c, limit=1) for c in range(50)))
x, [part[0]['customer'] for part in parts] == list(range(50))
"""
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[get_orders]), per_call("get_orders")]
    agent = make_agent(code, middleware=middleware, checkpointer=InMemorySaver())
    config = of(f"fifty-{asynchronous}")
    state = await run(agent, asynchronous, config=config)
    for expected in range(50):
        (question,) = questions(state)
        assert question["args"]["customer"] == expected
        state = await run(agent, asynchronous, Command(resume={"type": "approve"}), config)
    assert results(state)[0].text == "result:\n(7, True)"
    assert made == list(range(50))
    middleware[0].tool.delete_session(config)


@both
async def test_tools_that_interrupt_several_times_get_their_own_answers(
    sandboxes: SessionPool, asynchronous: bool
) -> None:
    code = (
        "import asyncio\nawait asyncio.gather(*(ask_person(question=q) for q in 'ab'), get_orders(customer=1, limit=1))"
    )
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[ask_person, get_orders])]
    agent = make_agent(code, middleware=middleware, checkpointer=InMemorySaver())
    config = of(f"several-{asynchronous}")
    state = await run(agent, asynchronous, config=config)
    seen: list[str] = []
    while found := questions(state):
        seen += found
        (pending,) = state["__interrupt__"]
        state = await run(agent, asynchronous, Command(resume={pending.id: f"<{found[0]}>"}), config)
    assert seen == ["a 1", "a 2", "b 1", "b 2"], results(state)
    assert "'<a 1> and <a 2>', '<b 1> and <b 2>'" in results(state)[0].text
    assert sorted(map(str, made)) == ["1", "a", "b"]
    middleware[0].tool.delete_session(config)


async def test_an_answer_that_is_not_valid_can_be_given_again(sandboxes: SessionPool) -> None:
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[get_orders]), per_call("get_orders")]
    agent = make_agent("get_orders(customer=1, limit=1)", middleware=middleware, checkpointer=InMemorySaver())
    config = of("invalid")
    await agent.ainvoke(ask(), config)
    with pytest.raises(ValueError, match="type"):
        await agent.ainvoke(Command(resume={"type": "perhaps"}), config)
    state = await agent.ainvoke(Command(resume={"type": "approve"}), config)
    assert "'total': 10.0" in results(state)[0].text
    assert made == [1]
    middleware[0].tool.delete_session(config)


async def test_a_resume_without_an_answer_asks_again(sandboxes: SessionPool) -> None:
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[get_orders]), per_call("get_orders")]
    agent = make_agent("get_orders(customer=1, limit=1)", middleware=middleware, checkpointer=InMemorySaver())
    config = of("again")
    await agent.ainvoke(ask(), config)
    state = await agent.ainvoke(None, config)
    assert questions(state)[0]["args"] == {"customer": 1, "limit": 1}
    state = await agent.ainvoke(Command(resume={"type": "approve"}), config)
    assert "'total': 10.0" in results(state)[0].text
    middleware[0].tool.delete_session(config)


@both
async def test_code_of_the_same_turn_does_not_wait_for_a_person(sandboxes: SessionPool, asynchronous: bool) -> None:
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[get_orders]), per_call("get_orders")]
    agent = make_agent(
        turn("x = get_orders(customer=1)", "x = get_orders(customer=2)"),
        middleware=middleware,
        checkpointer=InMemorySaver(),
    )
    config = of(f"siblings-{asynchronous}")
    state = await run(agent, asynchronous, config=config)
    state = await run(agent, asynchronous, Command(resume={"type": "approve"}), config)
    texts = sorted(each.text for each in results(state))
    assert texts[0].startswith("Nothing was run: a person is being asked")
    assert texts[1] == "The code ran without output."
    assert len(made) == 1
    middleware[0].tool.delete_session(config)


async def test_a_new_turn_ends_code_with_an_unanswered_question(sandboxes: SessionPool) -> None:
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[get_orders]), per_call("get_orders")]
    agent = make_agent("x = 1\nget_orders(customer=1)", "x", middleware=middleware, checkpointer=InMemorySaver())
    config = of("abandoned")
    assert questions(await agent.ainvoke(ask(), config))
    state = await agent.ainvoke(ask(), config)
    assert results(state)[-1].text == "result:\n1"
    assert made == []
    middleware[0].tool.delete_session(config)


async def test_a_session_that_ends_meanwhile_is_reported_to_the_model(sandboxes: SessionPool) -> None:
    middleware: list[Any] = [GreenroomMiddleware(pool=sandboxes, tools=[get_orders, send_mail]), per_call("get_orders")]
    agent = make_agent(
        "send_mail(to='ann')\nget_orders(customer=1)", middleware=middleware, checkpointer=InMemorySaver()
    )
    config = of("ended")
    assert questions(await agent.ainvoke(ask(), config))
    middleware[0].tool.delete_session(config)
    state = await agent.ainvoke(Command(resume={"type": "approve"}), config)
    (message,) = results(state)
    assert message.status == "error"
    assert "The session ended while the code waited" in message.text
    assert "- send_mail(to='ann'): made\n- get_orders(customer=1): waiting, not made" in message.text
    assert made == ["ann"]


async def test_a_missing_decision_counts_as_a_refusal(sandboxes: SessionPool) -> None:
    middleware: list[Any] = [
        GreenroomMiddleware(pool=sandboxes, tools=[get_orders], approval_timeout=4),
        per_call("get_orders"),
    ]
    agent = make_agent("get_orders(customer=1)", middleware=middleware, checkpointer=InMemorySaver())
    config = of("late")
    assert questions(await agent.ainvoke(ask(), config))
    await asyncio.sleep(5)
    state = await agent.ainvoke(Command(resume={"type": "approve"}), config)
    assert results(state)[0].status == "error"
    assert made == []
    middleware[0].tool.delete_session(config)


async def test_cancelling_the_agent_cancels_the_calls_and_keeps_the_session(sandboxes: SessionPool) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @tool
    async def slow() -> str:
        """Take long."""
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return "late"

    middleware = GreenroomMiddleware(pool=sandboxes, tools=[slow])
    for options in ({}, {"checkpointer": InMemorySaver()}):
        began.clear()
        ended.clear()
        config = of("cancelled")
        running = asyncio.create_task(
            make_agent("kept = 7\nslow()", middleware=[middleware], **options).ainvoke(ask(), config)
        )
        await wait_until(began.is_set)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await wait_until(ended.is_set)
        assert await middleware.tool.ainvoke({"code": "kept"}, config) == "result:\n7"
    middleware.tool.delete_session("cancelled")


async def test_an_interrupt_without_a_checkpointer_is_an_error_for_the_code(sandboxes: SessionPool) -> None:
    agent = make_agent("ask_person(question='a')", middleware=[GreenroomMiddleware(pool=sandboxes, tools=[ask_person])])
    assert "needs an agent with a checkpointer" in results(await agent.ainvoke(ask()))[0].text


async def test_limits_apply_to_calls_of_code(sandboxes: SessionPool) -> None:
    middleware = GreenroomMiddleware(pool=sandboxes, tools=[get_orders], tool_limits=ToolLimits(calls=2))
    agent = make_agent(
        "[get_orders(customer=1) for _ in range(9)]", middleware=[middleware], checkpointer=InMemorySaver()
    )
    state = await agent.ainvoke(ask(), of("limits"))
    assert "this execution is limited to 2 calls" in results(state)[0].text
    middleware.tool.delete_session("limits")


def test_code_that_only_computes_needs_no_approval(sandboxes: SessionPool) -> None:
    when = needs_approval(["get_orders", "send_mail"], free=["get_orders"])
    asking = HumanInTheLoopMiddleware(
        interrupt_on={"run_python": {"allowed_decisions": ["approve", "reject"], "when": when}}
    )
    code = GreenroomMiddleware(pool=sandboxes, tools=[get_orders, send_mail])
    agent = make_agent(
        "```python\nsum(get_orders(customer=1)[0].values())\n```",
        "import os",
        middleware=[code, asking],
        checkpointer=InMemorySaver(),
    )
    state = agent.invoke(ask(), of("computes"))
    assert results(state)[0].text == "result:\n11.0"
    assert questions(state)[0]["action_requests"][0]["args"] == {"code": "import os"}
    code.tool.delete_session("computes")
