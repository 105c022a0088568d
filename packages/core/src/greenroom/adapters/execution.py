"""What the tool `run_python` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from itertools import islice

from greenroom.adapters.code import strip_fence
from greenroom.adapters.results import ToolAnswer
from greenroom.models import Execution, Image, Output, StreamText
from greenroom.sessions import Session
from greenroom.sessions.rules import check_code

MODEL_FORMATS = frozenset(("image/gif", "image/jpeg", "image/png", "image/webp"))
"""The pictures that models take. For any other a provider refuses the message, and so the whole conversation."""

FIGURE_LIMIT = 3_750_000
"""Bytes that a picture for a model may have: 5 MB in base64, as the strictest of the large providers has it."""

MOST_FIGURES = 10
"""Pictures of one execution that a model is sent, at most: all of a conversation travel with each of its messages."""


def run_python(
    session: Session,
    code: str,
    *,
    budget: int,
    timeout: float | None = None,
    on_output: Callable[[StreamText | Output], None] | None = None,
) -> ToolAnswer[Execution]:
    """Run a model's code, without the Markdown fence around it.

    Args:
        session: where to run it.
        code: what the model wrote.
        budget: the most characters that the model reads of it.
        timeout: seconds that it may run; by default what the session or the pool says.
        on_output: is told what the code writes and shows, as it comes. An exception of it ends the code.
    """
    code = strip_fence(check_code(code))
    if on_output is None:
        return _answer(session.execute(code, timeout=timeout), budget)
    with closing(session.stream(code, timeout=timeout)) as events:
        for event in events:
            if isinstance(event, Execution):
                return _answer(event, budget)
            on_output(event)
    raise AssertionError("a stream ends with its execution")


async def arun_python(
    session: Session,
    code: str,
    *,
    budget: int,
    timeout: float | None = None,
    on_output: Callable[[StreamText | Output], Awaitable[None]] | None = None,
) -> ToolAnswer[Execution]:
    """As `run_python`. Cancelling it interrupts the code."""
    code = strip_fence(check_code(code))
    if on_output is None:
        return _answer(await session.aexecute(code, timeout=timeout), budget)
    async with aclosing(session.astream(code, timeout=timeout)) as events:
        async for event in events:
            if isinstance(event, Execution):
                return _answer(event, budget)
            await on_output(event)
    raise AssertionError("a stream ends with its execution")


def _answer(execution: Execution, budget: int) -> ToolAnswer[Execution]:
    return ToolAnswer(execution.text_for_model(budget), execution)


def figures_for_models(execution: Execution) -> tuple[Image, ...]:
    """The pictures of an execution that a model can be sent; `execution.images` has them all."""
    fit = (image for image in execution.images if image.mime in MODEL_FORMATS and len(image.data) <= FIGURE_LIMIT)
    return tuple(islice(fit, MOST_FIGURES))
