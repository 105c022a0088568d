"""The framework's function tools as functions that code can call. Each call passes through function middleware."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias, cast

from agent_framework import (
    Content,
    FunctionInvocationContext,
    FunctionMiddleware,
    FunctionTool,
    MiddlewareFailure,
    MiddlewareTermination,
    UserInputRequiredException,
    normalize_tools,
)

from greenroom import InvalidRequest, Tool
from greenroom.adapters import brief, result_schema
from greenroom_agent_framework.runs import run_of

Functions: TypeAlias = FunctionTool | Callable[..., Any] | Sequence[FunctionTool | Callable[..., Any]]
"""Function tools, and plain functions with annotations and a docstring."""

Escape: TypeAlias = Callable[[BaseException], None]
"""Called with an exception with which the framework controls the agent's run, and which the code must not see."""

_SIGNALS = (MiddlewareFailure, MiddlewareTermination, UserInputRequiredException)


class InnerTools:
    """What code can call."""

    def __init__(self, given: Functions) -> None:
        """
        Raises:
            InvalidRequest: one of them is not a function, or does not run in this process.
        """
        self.functions = _function_tools(given)
        self.described = [_described(function) for function in self.functions]
        """The functions for descriptions that models read; these cannot be called."""

    def bound(self, outer: FunctionInvocationContext, escape: Escape) -> list[Tool]:
        """Return the functions that one execution can call.

        Args:
            outer: the context of the execution's own invocation. Calls get the same session and keyword arguments.
            escape: called if a call raises `MiddlewareFailure`, `MiddlewareTermination` or
                `UserInputRequiredException`.

        Raises:
            InvalidRequest: the run's function middleware is unknown.
        """
        run = run_of(outer) if self.functions else None
        middleware = [] if run is None else run.function_middleware()

        def bound(function: FunctionTool) -> Callable[[dict[str, Any]], Awaitable[Any]]:
            async def handler(arguments: dict[str, Any]) -> Any:
                context = _context(function, arguments, outer)
                call = _Call(function, context)
                try:
                    await _through(middleware, context, call)
                except _SIGNALS as signal:
                    escape(signal)
                    raise
                return call.result()

            return handler

        return [
            replace(tool, handler=bound(function))
            for tool, function in zip(self.described, self.functions, strict=True)
        ]

    def refuse_approval(self) -> None:
        """Refuse functions whose calls require approval: an agent's run cannot pause while code runs.

        Raises:
            InvalidRequest: there is one.
        """
        for each in self.functions:
            if each.approval_mode == "always_require":
                raise InvalidRequest(
                    f"The tool {each.name!r} must not have approval_mode='always_require', as the framework cannot "
                    "ask while code runs. Require approval of the whole code: "
                    "GreenroomTools(approval_mode='always_require')."
                )


def _function_tools(given: Functions) -> list[FunctionTool]:
    tools = normalize_tools(given)
    for each in tools:
        if not isinstance(each, FunctionTool) or each.declaration_only:
            raise InvalidRequest(f"A tool must be a function or a FunctionTool with one, not {brief(each)}.")
    return cast("list[FunctionTool]", tools)


def _described(function: FunctionTool) -> Tool:
    schema: Mapping[str, Any] = {"type": "object", **function.parameters()}
    description = inspect.cleandoc(function.description or "")
    return Tool(function.name, description, function.input_model or schema, _no_execution, result_schema(function.func))


async def _no_execution(_: dict[str, Any]) -> None:
    raise AssertionError("functions are called within an execution")


def _context(
    function: FunctionTool, arguments: dict[str, Any], outer: FunctionInvocationContext
) -> FunctionInvocationContext:
    context = copy(outer)  # includes fields that later versions of the framework add
    context.function, context.arguments, context.result = function, arguments, None
    context.kwargs = {**outer.kwargs}
    # The call must be the code's: approval of the code, which the context also holds, does not approve the function.
    context.metadata = {key: value for key, value in outer.metadata.items() if key == "call_id"}
    return context


class _Call:
    """One call. Middleware sees the result as contents, as for any call; unless it changes them, code gets the
    value."""

    def __init__(self, function: FunctionTool, context: FunctionInvocationContext) -> None:
        self._function = function
        self._context = context
        self._value: Any = None
        self._shown: list[dict[str, Any]] | None = None

    async def __call__(self) -> None:
        context = self._context
        parser = self._function.result_parser
        self._value = await self._function.invoke(arguments=context.arguments, context=context, skip_parsing=True)
        parse = parser if callable(parser) else FunctionTool.parse_result
        shown = parse(self._value)
        context.result = [Content.from_text(shown)] if isinstance(shown, str) else shown
        self._shown = _dumped(context.result)

    def result(self) -> Any:
        """Return the value for the code."""
        result: Any = self._context.result
        if self._shown is None and result is None:
            raise RuntimeError(f"A middleware stopped {self._function.name}.")
        if not _is_contents(result):
            return result
        if self._shown == _dumped(result) and not _is_contents(self._value):
            return self._value
        return _read(_text_of(result))


async def _through(
    middleware: Sequence[FunctionMiddleware | Callable[..., Any]],
    context: FunctionInvocationContext,
    call: Callable[[], Awaitable[None]],
) -> None:
    if not middleware:
        await call()
        return
    first, *others = middleware
    process: Callable[..., Awaitable[None]] = first.process if isinstance(first, FunctionMiddleware) else first
    await process(context, lambda: _through(others, context, call))


def _is_contents(value: object) -> bool:
    if isinstance(value, Content):
        return True
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return bool(items) and all(isinstance(each, Content) for each in items)


def _dumped(contents: Any) -> list[dict[str, Any]]:
    return [each.to_dict() for each in ([contents] if isinstance(contents, Content) else contents)]


def _text_of(contents: Any) -> str:
    items = [contents] if isinstance(contents, Content) else contents
    return "\n".join(str(each.text) for each in items if each.text)


def _read(text: str) -> Any:
    """Read a result that middleware has left as text: the framework writes objects and lists as JSON."""
    with contextlib.suppress(ValueError):
        if text.startswith(("{", "[")):
            return json.loads(text)
    return text
