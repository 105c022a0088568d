"""A person approves, changes or rejects code before it runs."""

# pyright: reportDeprecated=false
# Every call of an agent's `run` with a message matches its deprecated signature first.

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.workflow import (
    Context,
    StartEvent,
    StopEvent,
    Workflow,
    step,  # pyright: ignore[reportUnknownVariableType]
)
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

from llama_index.tools.greenroom import CodeApprovalRequired, CodeDecision, GreenroomToolSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenroom import SessionPool
    from greenroom.testing import ScriptedBackend

    from .conftest import ScriptedModel

# LlamaIndex's agents look for their steps among all their attributes, deprecated ones of pydantic included.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")


def runs(code: str, call: str = "1") -> ToolCallBlock:
    return ToolCallBlock(tool_call_id=call, tool_name="run_python", tool_kwargs={"code": code})


async def asked(handler: Any, times: int = 1) -> list[CodeApprovalRequired]:
    """Return what a person is asked, once there are so many requests."""
    requests: list[CodeApprovalRequired] = []
    async for event in handler.stream_events():
        if isinstance(event, CodeApprovalRequired):
            requests.append(event)
            if len(requests) == times:
                break
    assert len(requests) == times
    return requests


def read(answer: Any) -> str:
    """Return what the model read of its only call."""
    (call,) = answer.tool_calls
    return call.tool_output.content


async def test_approved_code_runs(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, approval=True)
    handler: Any = FunctionAgent(llm=scripted([runs("pay()")], "Paid."), tools=spec.to_tool_list()).run(user_msg="Pay.")
    (request,) = await asked(handler)
    assert (request.tool, request.code) == ("run_python", "pay()")
    assert backend.codes == []
    handler.ctx.send_event(request.approve())
    assert str(await handler) == "Paid."
    assert backend.codes == ["pay()"]


async def test_code_that_a_person_changed_runs_and_the_model_is_informed(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, approval=True)
    handler: Any = FunctionAgent(llm=scripted([runs("pay(9)")], "Paid."), tools=spec.to_tool_list()).run(
        user_msg="Pay."
    )
    (request,) = await asked(handler)
    handler.ctx.send_event(request.approve("pay(1)"))
    answer = await handler
    assert backend.codes == ["pay(1)"]
    assert read(answer).startswith("The user changed the code before it ran, to:\npay(1)\n")


async def test_rejected_code_never_reaches_a_session(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, approval=True)
    handler: Any = FunctionAgent(llm=scripted([runs("pay()")], "Well."), tools=spec.to_tool_list()).run(user_msg="Pay.")
    (request,) = await asked(handler)
    handler.ctx.send_event(request.reject("Ask for less."))
    answer = await handler
    assert read(answer) == "The user did not let this code run. Ask for less."
    assert backend.runs == []


async def test_a_predicate_decides_which_code_needs_no_approval(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, approval=lambda code: "pay" in code)
    model = scripted([runs("look()")], [runs("pay()")], "Done.")
    handler: Any = FunctionAgent(llm=model, tools=spec.to_tool_list()).run(user_msg="Go.")
    (request,) = await asked(handler)
    assert request.code == "pay()"
    assert backend.codes == ["look()"]
    handler.ctx.send_event(request.approve())
    await handler
    assert backend.codes == ["look()", "pay()"]


async def test_two_pieces_of_code_are_decided_one_by_one(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, approval=True)
    model = scripted([runs("a()"), runs("b()")], "Done.")
    handler: Any = FunctionAgent(llm=model, tools=spec.to_tool_list()).run(user_msg="Go.")
    seen: list[str] = []
    async for event in handler.stream_events():
        if isinstance(event, CodeApprovalRequired):
            seen.append(event.code)
            handler.ctx.send_event(event.approve() if event.code == "b()" else event.reject())
    await handler
    assert sorted(seen) == ["a()", "b()"]
    assert backend.codes == ["b()"]


async def test_the_same_code_twice_in_a_turn_is_decided_twice(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, approval=True)
    model = scripted([runs("pay()", "1"), runs("pay()", "2")], "Paid once.")
    handler: Any = FunctionAgent(llm=model, tools=spec.to_tool_list()).run(user_msg="Pay.")
    one, other = await asked(handler, 2)
    assert one.code == other.code == "pay()"
    handler.ctx.send_event(one.approve())
    handler.ctx.send_event(other.reject())
    assert str(await handler) == "Paid once."
    assert backend.codes == ["pay()"]


async def test_a_decision_sent_twice_runs_the_code_once(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool, approval=True)
    model = scripted([runs("pay()")], [runs("pay()")], "Paid twice.")
    handler: Any = FunctionAgent(llm=model, tools=spec.to_tool_list()).run(user_msg="Pay.")
    ran: list[int] = []
    async for event in handler.stream_events():
        if isinstance(event, CodeApprovalRequired):  # the second turn's, with the same id and code, is asked anew
            ran.append(len(backend.codes))
            handler.ctx.send_event(event.approve())
            handler.ctx.send_event(event.approve())
    assert str(await handler) == "Paid twice."
    assert ran == [0, 1]
    assert len(backend.codes) == 2


class Flaky(Workflow):
    """A step that runs code twice, fails, and is tried again."""

    def __init__(self, spec: GreenroomToolSpec) -> None:
        super().__init__()
        self._spec = spec
        self._tries = 0

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))  # pyright: ignore[reportUntypedFunctionDecorator]
    async def only(self, ctx: Context[Any], ev: StartEvent) -> StopEvent:
        await self._spec.arun_python("look()", ctx)
        result = await self._spec.arun_python("pay()", ctx)
        self._tries += 1
        if self._tries == 1:
            raise RuntimeError("The step fails.")
        return StopEvent(result=result)


async def test_a_step_that_is_run_again_keeps_its_decisions(pool: SessionPool, backend: ScriptedBackend) -> None:
    handler: Any = Flaky(GreenroomToolSpec(pool, approval=True)).run()
    seen: list[str] = []
    async with asyncio.timeout(60):
        async for event in handler.stream_events():
            if isinstance(event, CodeApprovalRequired):
                seen.append(event.code)
                handler.ctx.send_event(event.approve())
        await handler
    assert seen == ["look()", "pay()"]
    assert backend.codes == ["look()", *("look()", "pay()"), *("look()", "pay()")]


def test_without_a_person_to_ask_nothing_runs(pool: SessionPool, backend: ScriptedBackend) -> None:
    (tool, *_) = GreenroomToolSpec(pool, approval=True).to_tool_list()
    with pytest.raises(ValueError, match="a person must approve the code"):
        tool.call(code="pay()")
    assert backend.runs == []


PROCESS = """
import asyncio, json, sys
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.workflow import Context
from greenroom.testing import ScriptedBackend, scripted_pool
from llama_index.tools.greenroom import CodeDecision, GreenroomToolSpec
sys.path.insert(0, {tests!r})
from conftest import ScriptedModel

async def main():
    state = json.load(sys.stdin)
    backend = ScriptedBackend()
    with scripted_pool(backend) as pool:
        spec = GreenroomToolSpec(pool, approval=True)
        agent = FunctionAgent(llm=ScriptedModel("Paid."), tools=spec.to_tool_list())
        ctx = Context.from_dict(agent, state["ctx"])
        handler = agent.run(ctx=ctx)
        for decision in state["decisions"]:
            ctx.send_event(CodeDecision(**decision))
        print(str(await handler), backend.codes)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("decide", "ran"),
    [
        (CodeApprovalRequired.approve, "Paid. ['pay()']"),
        (partial(CodeApprovalRequired.approve, code="pay(1)"), "Paid. ['pay(1)']"),
        (CodeApprovalRequired.reject, "Paid. []"),
    ],
    ids=["approve", "edit", "reject"],
)
async def test_one_of_two_equal_pieces_of_code_is_decided_in_another_process(
    decide: Callable[[CodeApprovalRequired], CodeDecision],
    ran: str,
    pool: SessionPool,
    backend: ScriptedBackend,
    scripted: Callable[..., ScriptedModel],
) -> None:
    spec = GreenroomToolSpec(pool, approval=True)
    model = scripted([runs("pay()", "1"), runs("pay()", "2")])
    handler: Any = FunctionAgent(llm=model, tools=spec.to_tool_list()).run(user_msg="Pay.")
    one, other = await asked(handler, 2)
    decisions = [decide(one).model_dump(), other.reject().model_dump()]
    state = {"ctx": handler.ctx.to_dict(), "decisions": decisions}
    await handler.cancel_run()
    code = PROCESS.replace("{tests!r}", repr(str(Path(__file__).parent)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(state).encode())
    assert output.decode().strip() == ran
    assert backend.runs == []
