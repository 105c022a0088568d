"""Agents without a pool and without a conversation: each run has a session of its own."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
from langchain import agents
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from greenroom import connecting
from greenroom.adapters import close_default_pool
from greenroom.testing import memory_pool, wait_until
from langchain_greenroom import GreenroomTool, GreenroomToolkit
from langchain_greenroom.middleware import GreenroomMiddleware

from .doubles import ScriptedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenroom import SessionPool


def agent(*codes: str, tools: Any = (), middleware: Any = (), last: tuple[str, ...] = ("Done.",)) -> Any:
    """An agent that runs the codes, one a turn, in each of its runs."""
    running = [
        AIMessage("", tool_calls=[{"name": "run_python", "args": {"code": code}, "id": f"{n}"}])
        for n, code in enumerate(codes)
    ]
    untyped: Any = agents
    model = ScriptedModel(turns=[*running, *map(AIMessage, last)])
    return untyped.create_agent(model, [*tools], middleware=[*middleware])


def ask() -> Any:
    return {"messages": [HumanMessage("Go on.", id="chosen by the caller")]}


def results(state: dict[str, Any]) -> list[str]:
    return [message.text for message in state["messages"] if isinstance(message, ToolMessage)]


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionPool]:
    close_default_pool()
    with memory_pool() as pool:
        monkeypatch.setattr(connecting, "connect", lambda: pool)
        yield pool
    close_default_pool()


async def test_an_agent_needs_neither_a_pool_nor_a_conversation(default: SessionPool) -> None:
    for _ in range(2):
        assert results(await agent("x = 41", "x + 1", tools=[GreenroomTool()]).ainvoke(ask()))[-1] == "result:\n42"
        assert results(agent("x = 41", "x + 1", tools=[GreenroomTool()]).invoke(ask()))[-1] == "result:\n42"
    gc.collect()
    await wait_until(lambda: not default.sessions())


async def test_agents_at_the_same_time_never_meet(sandboxes: SessionPool) -> None:
    """Two agents, twenty runs each; the messages of all have the same id."""
    tool = GreenroomTool(pool=sandboxes)
    before = {info.identifier for info in sandboxes.sessions()}

    def alone(name: str) -> Any:
        seen = "sorted(n for n in globals() if n.startswith('user_'))"
        return agent(f"user_{name} = 1", f"{seen}", tools=[tool])

    ann, bob = alone("ann"), alone("bob")
    for _ in range(10):
        runs: list[Any] = [ann.ainvoke(ask()), bob.ainvoke(ask()), ann.ainvoke(ask()), bob.ainvoke(ask())]
        answers = await asyncio.gather(*runs)
        assert [results(each)[-1] for each in answers] == ["result:\n['user_ann']", "result:\n['user_bob']"] * 2
    gc.collect()
    await wait_until(lambda: {info.identifier for info in sandboxes.sessions()} <= before)


def test_blocking_agents_in_threads_never_meet(default: SessionPool) -> None:
    tool = GreenroomTool()
    found: list[str] = []

    def run(name: str) -> None:
        made = agent(f"{name} = 1", f"[n for n in ('ann', 'bob') if n in globals()] == ['{name}']", tools=[tool])
        found.extend(results(made.invoke(ask()))[-1] for _ in range(20))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["result:\nTrue"] * 40


async def test_the_session_ends_with_its_run_however_it_ends(default: SessionPool) -> None:
    with pytest.raises(IndexError):  # the model has no second turn
        await agent("x = 1", tools=[GreenroomTool()], last=()).ainvoke(ask())
    endless = agent("import time\nwhile True: time.sleep(0.01)", tools=[GreenroomTool()])
    running = asyncio.create_task(endless.ainvoke(ask()))
    await wait_until(lambda: bool(default.sessions()))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    del running, endless
    gc.collect()
    await wait_until(lambda: not default.sessions())


async def test_a_middleware_sees_the_end_of_the_run(default: SessionPool) -> None:
    gc.disable()
    try:
        assert results(agent("x = 1", "x", middleware=[GreenroomMiddleware()]).invoke(ask()))[-1] == "result:\n1"
        assert default.sessions() == []
        assert results(await agent("x = 1", "x", middleware=[GreenroomMiddleware()]).ainvoke(ask()))[-1] == "result:\n1"
        assert await default.asessions() == []
    finally:
        gc.enable()


async def test_tools_for_code_in_the_background_and_a_fresh_start_are_there_on_request(default: SessionPool) -> None:
    toolkit = GreenroomToolkit(background=True, reset=True)
    tools = {tool.name: tool for tool in toolkit.get_tools()}
    assert {"start_execution", "look_at_execution", "stop_execution", "reset_session"} < {*tools}
    assert not {"start_execution", "reset_session"} & {tool.name for tool in GreenroomToolkit().get_tools()}
    with toolkit.conversation() as config:
        number = tools["start_execution"].invoke({"code": "print(1)\nx = 2"}, config).split()[2]
        await wait_until(lambda: "running" not in tools["look_at_execution"].invoke({"execution_id": number}, config))
        assert (await tools["look_at_execution"].ainvoke({"execution_id": number}, config)).startswith("stdout:\n1")
        assert tools["stop_execution"].invoke({"execution_id": number}, config).startswith("stdout:\n1")
        assert tools["run_python"].invoke({"code": "x"}, config) == "result:\n2"
        assert "empty" in await tools["reset_session"].ainvoke({}, config)
        assert "NameError" in tools["run_python"].invoke({"code": "x"}, config)


async def test_output_goes_to_the_stream_of_tools_while_the_code_runs(default: SessionPool) -> None:
    made = agent("print('on it')", tools=[GreenroomTool()])
    deltas = [each["delta"] for each in made.stream(ask(), stream_mode="tools") if "delta" in each]
    assert "".join(deltas) == "on it\n"
    deltas = [each["delta"] async for each in made.astream(ask(), stream_mode="tools") if "delta" in each]
    assert "".join(deltas) == "on it\n"
