"""LlamaIndex tools as functions that code can call; events on the workflow's stream and spans show each call."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from llama_index.core.agent.workflow import ToolCall, ToolCallResult
from llama_index.core.tools import AsyncBaseTool, BaseTool, FunctionTool, ToolOutput, adapt_to_async_tool
from pydantic import BaseModel
from workflows.errors import ContextStateError
from workflows.runtime.types.results import WaitingForEvent  # pyright: ignore[reportMissingTypeStubs]  it has types

from greenroom import InvalidRequest, Tool
from greenroom.adapters import brief, result_schema

if TYPE_CHECKING:
    from llama_index.core.workflow import Context, Event

Functions: TypeAlias = Iterable[BaseTool | Callable[..., Any]]
"""LlamaIndex tools, and plain functions with annotations and a docstring."""


class InnerToolCall(ToolCall):
    """Running code calls a function; on the workflow's event stream."""


class InnerToolCallResult(ToolCallResult):
    """The result of a call that code made; on the workflow's event stream."""


class InnerTools:
    """What code can call."""

    def __init__(self, given: Functions) -> None:
        """
        Raises:
            InvalidRequest: one of them is not a function.
        """
        self.tools = [_tool_of(each) for each in given]
        self.described = [_described(tool) for tool in self.tools]
        """The functions for descriptions that models read; these cannot be called."""

    def bound(self, ctx: Context[Any] | None) -> list[Tool]:
        """Return the functions that one execution can call.

        Args:
            ctx: the workflow's context, for events and for tools that take it.
        """

        def bound(tool: AsyncBaseTool) -> Callable[[dict[str, Any]], Awaitable[Any]]:
            async def handler(arguments: dict[str, Any]) -> Any:
                name, call = tool.metadata.get_name(), uuid.uuid4().hex
                _write(ctx, InnerToolCall(tool_name=name, tool_kwargs=arguments, tool_id=call))
                try:
                    output = await tool.acall(**arguments, **_context_for(tool, ctx))
                except WaitingForEvent:
                    error = RuntimeError(f"{name} must not wait for an event of the workflow while code runs.")
                    output = _failed(name, arguments, error)
                except Exception as error:  # noqa: BLE001  of the application; the event and the code get it
                    output = _failed(name, arguments, error)
                _write(
                    ctx,
                    InnerToolCallResult(
                        tool_name=name, tool_kwargs=arguments, tool_id=call, tool_output=output, return_direct=False
                    ),
                )
                return _value(tool, output)

            return handler

        return [
            replace(described, handler=bound(tool)) for described, tool in zip(self.described, self.tools, strict=True)
        ]


def _tool_of(given: BaseTool | Callable[..., Any]) -> AsyncBaseTool:
    if isinstance(given, BaseTool):
        return adapt_to_async_tool(given)
    if callable(given) and not isinstance(given, type):
        return FunctionTool.from_defaults(given)
    raise InvalidRequest(f"A tool must be a function or a LlamaIndex tool, not {brief(given)}.")


def _described(tool: AsyncBaseTool) -> Tool:
    metadata, function = tool.metadata, _function_of(tool)
    # The default description of a function begins with its signature, which code gets separately.
    text = metadata.description.removeprefix(f"{metadata.get_name()}{_signature(function)}").strip()
    schema = metadata.fn_schema or cast("dict[str, Any]", metadata.get_parameters_dict())  # pyright: ignore[reportUnknownMemberType]
    return Tool(metadata.get_name(), inspect.cleandoc(text), schema, _no_execution, result_schema(function))


def _function_of(tool: AsyncBaseTool) -> Callable[..., Any] | None:
    return tool.real_fn if isinstance(tool, FunctionTool) else None


def _signature(function: Callable[..., Any] | None) -> str:
    return "" if function is None else str(inspect.signature(function))


async def _no_execution(_: dict[str, Any]) -> None:
    raise AssertionError("functions are called within an execution")


def _context_for(tool: AsyncBaseTool, ctx: Context[Any] | None) -> dict[str, Any]:
    return {tool.ctx_param_name: ctx} if isinstance(tool, FunctionTool) and tool.ctx_param_name else {}


def _write(ctx: Context[Any] | None, event: Event) -> None:
    if ctx is not None:
        with suppress(ContextStateError):  # no event stream outside of a run
            ctx.write_event_to_stream(event)


def _failed(name: str, arguments: dict[str, Any], error: Exception) -> ToolOutput:
    return ToolOutput(
        content=str(error), tool_name=name, raw_input=arguments, raw_output=str(error), is_error=True, exception=error
    )


def _value(tool: AsyncBaseTool, output: ToolOutput) -> Any:
    """Return the value for the code: a function's own, or for any other tool the text that a model would get."""
    if output.exception is not None:
        raise output.exception
    if output.is_error:
        raise RuntimeError(output.content)
    value: Any = output.raw_output
    if not isinstance(tool, FunctionTool) or output.content != str(value):  # a callback has replaced it
        return output.content
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    # Nodes, documents and content blocks are for models; any other value is data.
    for_models = any(isinstance(each, BaseModel) and type(each).__module__.startswith("llama_index.") for each in items)
    return output.content if for_models else cast("Any", value)
