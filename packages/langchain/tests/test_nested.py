"""Tools of code that run graphs and agents of their own, and what they see of their caller."""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from langchain import agents
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph  # pyright: ignore[reportMissingTypeStubs]
from langgraph.types import Command, interrupt

from langchain_greenroom.middleware import GreenroomMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenroom import SessionPool

user: ContextVar[str] = ContextVar("user")
steps: list[str] = []
mails: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    steps.clear()
    mails.clear()


class ScriptedModel(GenericFakeChatModel):
    """Calls one tool, then says that it is done."""

    messages: Any = None
    name_: str
    arguments: dict[str, str]
    disable_streaming: bool | Any = True

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Any:
        done = isinstance(messages[-1], ToolMessage)
        calls: Any = [] if done else [{"name": self.name_, "args": self.arguments, "id": "call"}]
        script = GenericFakeChatModel(messages=iter([AIMessage("Done." if done else "", tool_calls=calls)]))
        return script._generate(messages)


def agent_that(name: str, arguments: dict[str, str], **options: Any) -> Any:
    untyped: Any = agents
    return untyped.create_agent(ScriptedModel(name_=name, arguments=arguments), **options)


def result(state: dict[str, Any]) -> str:
    return next(message for message in state["messages"] if isinstance(message, ToolMessage)).text


class Question(TypedDict):
    text: str
    answer: str


def _prepare(state: Question) -> dict[str, str]:
    steps.append(state["text"])
    return {"text": f"{state['text']}!"}


def _ask(state: Question) -> dict[str, str]:
    return {"answer": " and ".join(interrupt(f"{state['text']} {n}") for n in (1, 2))}


def asking_graph(**options: Any) -> Any:
    untyped: Any = StateGraph(Question)
    untyped.add_sequence([_prepare, _ask])
    return untyped.set_entry_point("_prepare").compile(**options)


@tool
def send_mail(to: str) -> str:
    """Send a mail."""
    mails.append(to)
    return f"sent to {to}"


class Case:
    """An agent whose code calls tools."""

    def __init__(self, sandboxes: SessionPool, asynchronous: bool) -> None:
        self._pool = sandboxes
        self.asynchronous = asynchronous
        self.config: Any = {"configurable": {"thread_id": f"nested-{asynchronous}"}}
        self.asked: list[Any] = []

    def tool_of(self, name: str, graph: Any, given: Callable[[str], Any], taken: Callable[[Any], str]) -> Any:
        """A tool that runs a graph."""

        def ask(text: str) -> str:
            return taken(graph.invoke(given(text)))

        async def ask_awaited(text: str) -> str:
            return taken(await graph.ainvoke(given(text)))

        return tool(name, description="Ask.")(ask_awaited if self.asynchronous else ask)

    async def run(self, code: str, *tools: Any, answer: Callable[[Any], Any] = lambda value: f"<{value}>") -> str:
        """Run code, and answer each question; return what the model reads."""
        middleware = GreenroomMiddleware(pool=self._pool, tools=tools)
        agent = agent_that("run_python", {"code": code}, middleware=[middleware], checkpointer=InMemorySaver())
        given: Any = {"messages": [HumanMessage("Go on.")]}
        while True:
            if self.asynchronous:
                state = await agent.ainvoke(given, self.config)
            else:
                state = await asyncio.to_thread(agent.invoke, given, self.config)
            if "__interrupt__" not in state:
                return result(state)
            self.asked.append(state["__interrupt__"][0].value)
            assert len(self.asked) < 20
            given = Command(resume=answer(self.asked[-1]))


@pytest.fixture(params=[True, False], ids=["awaited", "blocking"])
def case(request: pytest.FixtureRequest, sandboxes: SessionPool) -> Iterator[Case]:
    case = Case(sandboxes, request.param)
    yield case
    GreenroomMiddleware(pool=sandboxes).tool.delete_session(case.config)


GATHERED = "import asyncio\nawait asyncio.gather(*(ask(text=text) for text in 'abc'))"


async def test_a_graph_that_a_call_runs_is_resumed_where_it_was(case: Case) -> None:
    ask = case.tool_of("ask", asking_graph(), lambda text: {"text": text, "answer": ""}, lambda state: state["answer"])
    text = await case.run(GATHERED, ask)
    assert text == "result:\n['<a! 1> and <a! 2>', '<b! 1> and <b! 2>', '<c! 1> and <c! 2>']"
    assert case.asked == ["a! 1", "a! 2", "b! 1", "b! 2", "c! 1", "c! 2"]
    assert sorted(steps) == ["a", "b", "c"]


async def test_a_tool_can_ask_itself_too(case: Case) -> None:
    graph = asking_graph()

    def given(text: str) -> Any:
        return {"text": f"{text} {interrupt(f'{text} before')}", "answer": ""}

    ask = case.tool_of("ask", graph, given, lambda state: f"{state['answer']}; {interrupt('after')}")
    assert (await case.run("ask(text='a')", ask)).startswith(
        "result:\n'<a <a before>! 1> and <a <a before>! 2>; <after>"
    )
    assert case.asked == ["a before", "a <a before>! 1", "a <a before>! 2", "after"]
    assert len(steps) == 1


async def test_a_graph_without_a_checkpointer_cannot_ask(case: Case) -> None:
    graph = asking_graph(checkpointer=False)
    ask = case.tool_of("ask", graph, lambda text: {"text": text, "answer": ""}, lambda state: state["answer"])
    assert "must keep its state: it must not have checkpointer=False" in await case.run("ask(text='a')", ask)
    assert case.asked == ["a! 1"]


async def test_another_langgraph_version_cannot_ask_and_names_the_one_to_install(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "langchain_greenroom.interrupts", raising=False)
    monkeypatch.delattr("langgraph.errors.is_invalid_resume")
    ask = case.tool_of("ask", asking_graph(), lambda text: {"text": text, "answer": ""}, lambda state: state["answer"])
    assert 'pip install "langchain-greenroom[agents]"' in await case.run("ask(text='a')", ask)
    assert await case.run("6 * 7", ask) == "result:\n42"
    assert case.asked == []


async def test_an_agent_that_a_call_runs_asks_for_approval(case: Case) -> None:
    approval = HumanInTheLoopMiddleware(interrupt_on={"send_mail": True})
    inner = agent_that("send_mail", {"to": "ann"}, tools=[send_mail], middleware=[approval])
    ask = case.tool_of("ask", inner, lambda text: {"messages": [HumanMessage(text)]}, result)
    text = await case.run(GATHERED, ask, answer=lambda _: {"decisions": [{"type": "approve"}]})
    assert text == "result:\n['sent to ann', 'sent to ann', 'sent to ann']"
    assert len(case.asked) == len(mails) == 3


async def test_an_agent_that_a_call_runs_cannot_wait_for_the_session_whose_code_waits_for_it(
    case: Case, sandboxes: SessionPool
) -> None:
    inner = agent_that("run_python", {"code": "6 * 7"}, middleware=[GreenroomMiddleware(pool=sandboxes)])
    ask = case.tool_of("ask", inner, lambda text: {"messages": [HumanMessage(text)]}, result)
    assert "must not wait for other code of the same session" in await case.run("ask(text='a')", ask)


async def test_tools_see_the_context_variables_of_the_agents_caller(case: Case) -> None:
    @tool
    def blocking() -> str:
        """Say who runs the agent."""
        return user.get()

    @tool
    async def awaited() -> str:
        """Say who runs the agent."""
        return user.get()

    token = user.set("ann")
    try:
        tools = [blocking, awaited] if case.asynchronous else [blocking]
        code = ", ".join(f"{each.name}()" for each in tools)
        assert await case.run(f"{{{code}}}", *tools) == "result:\n{'ann'}"
    finally:
        user.reset(token)
