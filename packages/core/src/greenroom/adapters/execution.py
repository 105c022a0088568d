"""The tools that run code: `run_python`, `run_javascript` and `run_shell`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, closing
from inspect import isawaitable, iscoroutine
from typing import NoReturn, TypeAlias, TypeVar

from greenroom.adapters.code import strip_fence
from greenroom.adapters.figures import figures_for_models
from greenroom.adapters.results import ToolAnswer
from greenroom.models import Execution, Output, StreamText
from greenroom.sessions import Session
from greenroom.sessions.rules import check_code
from greenroom.tools import ToolLimits
from greenroom.tools.definitions import ToolLike

Context = TypeVar("Context")

OnOutput: TypeAlias = Callable[[StreamText | Output], Awaitable[None] | None]
"""Called with each piece of output while code runs; an asynchronous one is awaited. Its exception ends the code."""


def with_context(
    on_output: Callable[[StreamText | Output, Context], Awaitable[None] | None] | None, context: Context
) -> OnOutput | None:
    """Return a callback that also gets the framework's context of the call."""
    return None if on_output is None else lambda output: on_output(output, context)


def run_code(
    session: Session,
    code: str,
    *,
    budget: int,
    timeout: float | None = None,
    images: bool = True,
    on_output: OnOutput | None = None,
    tools: Iterable[ToolLike] | None = None,
    tool_limits: ToolLimits | None = None,
) -> ToolAnswer[Execution]:
    """Run a model's code, without the Markdown fence around it.

    Args:
        session: runs the code; its container type determines the language.
        code: the model's code.
        budget: the maximum number of characters that the model reads.
        timeout: the time limit of the code in seconds; by default that of the session or the pool.
        images: whether the answer has figures for the model.
        on_output: called with each piece of output; it must not be asynchronous here.
        tools: functions that the code can call, as for `Session.execute`.
        tool_limits: limits on their calls.
    """
    code = strip_fence(check_code(code), session.container_type)
    if on_output is None:
        return answer_of(session.execute(code, timeout=timeout, tools=tools, tool_limits=tool_limits), budget, images)
    with closing(session.stream(code, timeout=timeout, tools=tools, tool_limits=tool_limits)) as events:
        for event in events:
            if isinstance(event, Execution):
                return answer_of(event, budget, images)
            if isawaitable(returned := on_output(event)):
                not_asynchronous(returned)
    raise AssertionError("a stream ends with its execution")


async def arun_code(
    session: Session,
    code: str,
    *,
    budget: int,
    timeout: float | None = None,
    images: bool = True,
    on_output: OnOutput | None = None,
    tools: Iterable[ToolLike] | None = None,
    tool_limits: ToolLimits | None = None,
) -> ToolAnswer[Execution]:
    """As `run_code`; `on_output` may be asynchronous. Cancelling the call interrupts the code."""
    code = strip_fence(check_code(code), session.container_type)
    if on_output is None:
        return answer_of(
            await session.aexecute(code, timeout=timeout, tools=tools, tool_limits=tool_limits), budget, images
        )
    async with aclosing(session.astream(code, timeout=timeout, tools=tools, tool_limits=tool_limits)) as events:
        async for event in events:
            if isinstance(event, Execution):
                return answer_of(event, budget, images)
            if isawaitable(returned := on_output(event)):
                await returned
    raise AssertionError("a stream ends with its execution")


def answer_of(execution: Execution, budget: int, images: bool) -> ToolAnswer[Execution]:
    """Return the text that a model reads about an execution."""
    text = execution.text_for_model(budget)
    return ToolAnswer(text, execution, figures_for_models(execution) if images else ())


def not_asynchronous(returned: Awaitable[None]) -> NoReturn:
    """Raise if an `on_output` that must not be asynchronous returned an awaitable."""
    if iscoroutine(returned):
        returned.close()
    raise TypeError("on_output= must be a plain function where tools are called synchronously.")
