"""The run that calls a function. The kernel does not pass it to functions, but a filter sees its chat history."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, cast

from semantic_kernel import Kernel
from semantic_kernel.contents import AuthorRole, ChatHistory, FunctionCallContent, FunctionResultContent
from semantic_kernel.filters import AutoFunctionInvocationContext, FilterTypes

from greenroom_semantic_kernel.results import ResultText, Run

_runs: dict[int, Run] = {}
"""By the identity of a chat history, while it exists."""
_current: ContextVar[tuple[Kernel, Run] | None] = ContextVar("greenroom_run", default=None)


def run_of(kernel: Kernel | None) -> tuple[Run, bool]:
    """Return the run that calls a function, and whether it is known.

    The first call in a kernel finds no run, as the filter that identifies runs is added here. Its result carries the
    new run; the filter finds it in the chat history of the next call.
    """
    told = _current.get()
    if told is not None and told[0] is kernel:
        return told[1], True
    if kernel is not None:
        filters = cast("Any", kernel)  # its types are partly unknown
        if not any(each is _tell for _, each in filters.auto_function_invocation_filters):
            filters.add_filter(FilterTypes.AUTO_FUNCTION_INVOCATION, _tell)
    return Run(), False


async def _tell(
    context: AutoFunctionInvocationContext,
    next: Callable[[AutoFunctionInvocationContext], Awaitable[None]],  # noqa: A002  the kernel passes it by name
) -> None:
    if context.chat_history is None:
        await next(context)
        return
    token = _current.set((context.kernel, _of_history(context.chat_history)))
    try:
        await next(context)
    finally:
        _current.reset(token)


def _of_history(history: ChatHistory) -> Run:
    run = _runs.get(id(history))
    if run is None:
        run = _runs[id(history)] = _taken_from(history) or Run()
        weakref.finalize(history, _runs.pop, id(history), None).atexit = False
    return run


def _taken_from(history: ChatHistory) -> Run | None:
    """Return the run of the results at the end of a history: earlier ones are of other runs, perhaps of other users."""
    run = None
    for message in reversed(history.messages):
        if message.role is not AuthorRole.TOOL and not any(
            isinstance(item, FunctionCallContent) for item in message.items
        ):
            break
        for item in message.items:
            if isinstance(item, FunctionResultContent) and isinstance(item.result, ResultText):
                run = item.result.run or run
                item.result.run = None  # the run ends with the history, not with the message
    return run
