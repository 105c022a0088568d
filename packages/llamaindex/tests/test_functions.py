"""Code that calls functions of the application: agents with scripted models, over real sandboxes."""

# pyright: reportDeprecated=false
# Every call of an agent's `run` with a message matches its deprecated signature first.

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.agent.workflow import CodeActAgent, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context, HumanResponseEvent
from llama_index_instrumentation import get_dispatcher

from greenroom import InvalidRequest, ToolLimits
from llama_index.tools.greenroom import GreenroomToolSpec, InnerToolCall, InnerToolCallResult, execution_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenroom import SessionPool

    from .conftest import ScriptedModel

# LlamaIndex's agents look for their steps among all their attributes, deprecated ones of pydantic included.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")

GATHER = """
import asyncio
parts = await asyncio.gather(*(get_orders(customer=c) for c in (1, 2)))
sum(order["total"] for part in parts for order in part)
"""


def get_orders(customer: int, limit: int = 10) -> list[dict[str, float]]:
    """Return the orders of a customer."""
    if customer > 90:
        raise LookupError(f"There is no customer {customer}.")
    return [{"customer": customer, "total": 10.0 * customer}][:limit]


def runs(code: str) -> list[ToolCallBlock]:
    return [ToolCallBlock(tool_call_id="1", tool_name="run_python", tool_kwargs={"code": code})]


async def played(
    spec: GreenroomToolSpec, scripted: Callable[..., ScriptedModel], *codes: str
) -> tuple[list[ToolCallResult], list[Any], ScriptedModel]:
    """The results of the agent's own calls, the events of inner ones, and the model."""
    model = scripted(*(turn for code in codes for turn in [runs(code)]), "Done.")
    handler = FunctionAgent(llm=model, tools=spec.to_tool_list()).run(user_msg="Go.")
    events = [event async for event in handler.stream_events()]
    await handler
    inner = [event for event in events if isinstance(event, InnerToolCall | InnerToolCallResult)]
    outer = [event for event in events if isinstance(event, ToolCallResult) and event not in inner]
    return outer, inner, model


@contextmanager
def spans() -> Iterator[list[str]]:
    """The names of what the instrumentation sees."""
    handler, names = SimpleSpanHandler(), list[str]()
    dispatcher: Any = get_dispatcher()
    dispatcher.add_span_handler(handler)
    try:
        yield names
        names += [span.id_ for span in handler.completed_spans]
    finally:
        dispatcher.span_handlers.remove(handler)


async def test_calls_are_on_the_event_stream_and_among_the_spans(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(sandboxes, tools=[get_orders])
    with spans() as names:
        (result,), inner, _ = await played(spec, scripted, GATHER)
    assert result.tool_output.content == "result:\n30.0"
    called = [event.model_dump()["tool_kwargs"] for event in inner if isinstance(event, InnerToolCall)]
    assert sorted(called, key=str) == [{"customer": 1}, {"customer": 2}]
    answered = [event for event in inner if isinstance(event, InnerToolCallResult)]
    assert {event.tool_id for event in answered} == {event.tool_id for event in inner}
    assert {event.tool_name for event in inner} == {"get_orders"}
    assert sorted(str(event.tool_output.raw_output) for event in answered) == [
        "[{'customer': 1, 'total': 10.0}]",
        "[{'customer': 2, 'total': 20.0}]",
    ]
    assert sum(name.startswith("FunctionTool.acall") for name in names) == 2


async def test_the_model_reads_which_functions_its_code_can_call(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(sandboxes, tools=[get_orders])
    description = spec.to_tool_list()[0].metadata.description
    assert "get_orders(customer: int, limit: int = 10) -> list[dict[str, float]]" in description
    assert description.count("Return the orders of a customer.") == 1


async def test_a_function_that_fails_is_an_error_of_the_code_and_on_the_stream(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(sandboxes, tools=[get_orders])
    code = "try:\n    get_orders(99)\nexcept ToolError as error:\n    print(error)\nget_orders('many')"
    (result,), inner, _ = await played(spec, scripted, code)
    assert "There is no customer 99." in result.tool_output.content
    assert "ToolError: The arguments of get_orders are not valid" in result.tool_output.content
    (failure,) = (event for event in inner if isinstance(event, InnerToolCallResult))
    assert failure.tool_output.is_error


async def test_a_tool_gets_the_context_of_the_workflow(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    async def note(text: str, ctx: Context[Any]) -> int:
        """Write down a text."""
        notes = [*await ctx.store.get("notes", default=[]), text]
        await ctx.store.set("notes", notes)
        return len(notes)

    note.__annotations__["ctx"] = Context
    spec = GreenroomToolSpec(sandboxes, tools=[note])
    (result,), _, _ = await played(spec, scripted, "note('a'), note('b')")
    assert result.tool_output.content == "result:\n(1, 2)"


async def test_a_tool_with_a_callback_gives_code_what_the_model_would_get(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    tool = FunctionTool.from_defaults(get_orders, callback=lambda orders: f"{len(orders)} orders")
    (result,), _, _ = await played(GreenroomToolSpec(sandboxes, tools=[tool]), scripted, "get_orders(1)")
    assert result.tool_output.content == "result:\n'1 orders'"


async def test_a_tool_that_waits_for_an_event_fails_and_the_code_runs_once(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    async def ask(ctx: Context[Any]) -> str:
        """Ask the user."""
        return str(await ctx.wait_for_event(HumanResponseEvent))

    ask.__annotations__["ctx"] = Context
    spec = GreenroomToolSpec(sandboxes, tools=[ask, get_orders])
    (result,), inner, _ = await played(spec, scripted, "get_orders(1); ask()")
    assert "ask must not wait for an event of the workflow while code runs." in result.tool_output.content
    assert [event.tool_name for event in inner if isinstance(event, InnerToolCall)] == ["get_orders", "ask"]


async def test_limits_apply_to_the_calls_of_one_execution(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(sandboxes, tools=[get_orders], tool_limits=ToolLimits(calls=2))
    (result,), inner, _ = await played(spec, scripted, "[get_orders(1) for _ in range(5)]")
    assert "this execution is limited to 2 calls" in result.tool_output.content
    assert len(inner) == 4


async def test_a_code_act_agent_has_the_functions(
    sandboxes: SessionPool, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(sandboxes, tools=[get_orders])
    model = scripted("<execute>\nget_orders(customer=2)[0]['total']\n</execute>", "20.")
    agent = CodeActAgent(code_execute_fn=spec.to_code_execute_fn(), tools=[*spec.functions], llm=model)
    handler: Any = agent.run(user_msg="What did customer 2 order?")
    events = [event async for event in handler.stream_events()]
    assert str(await handler) == "20."
    assert any("def get_orders(" in (message.content or "") for message in model.told)
    (result,) = (e for e in events if isinstance(e, ToolCallResult) and not isinstance(e, InnerToolCallResult))
    execution = execution_of(result)
    assert execution is not None
    assert execution.result == "20.0"
    assert any(isinstance(event, InnerToolCall) for event in events)


def test_an_object_that_is_not_a_tool_is_refused(pool: SessionPool) -> None:
    for tool in (dict, "get_orders", 7):
        with pytest.raises(InvalidRequest, match="must be a function or a LlamaIndex tool"):
            GreenroomToolSpec(pool, tools=[tool])  # pyright: ignore[reportArgumentType]
