"""Kernel functions as functions that code can call. Each call goes through the kernel, and so through its filters."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias, cast

from semantic_kernel import Kernel
from semantic_kernel.contents.kernel_content import KernelContent
from semantic_kernel.functions import (
    FunctionResult,
    KernelArguments,
    KernelFunction,
    KernelFunctionFromMethod,
    KernelPlugin,
    kernel_function,
)

from greenroom import InvalidRequest, Tool
from greenroom.adapters import brief, result_schema

Functions: TypeAlias = Iterable[KernelFunction | KernelPlugin | Callable[..., Any]]
"""Kernel functions, plugins with all their functions, and plain functions with annotations and a docstring."""

_FROM_THE_KERNEL = frozenset(("arguments", "execution_settings", "kernel", "service"))
"""Parameters with these names always get a part of the kernel's invocation."""


class InnerTools:
    """What code can call."""

    def __init__(self, given: Functions) -> None:
        """
        Raises:
            InvalidRequest: one of them is not a function.
        """
        self._functions = [function for each in given for function in _functions_of(each)]
        self.described = [_described(function) for function in self._functions]
        """The functions for descriptions that models read; these cannot be called."""

    def bound(self, kernel: Kernel | None, outer: KernelArguments) -> list[Tool]:
        """Return the functions that one execution can call.

        Args:
            kernel: the kernel that runs the code; `None` if there is none, so no filters.
            outer: the arguments of the execution's own invocation. The functions get them too, as do functions that a
                model calls; arguments that the code passes take precedence.
        """
        invoker = kernel or Kernel()

        def bound(function: KernelFunction) -> Callable[[dict[str, Any]], Awaitable[Any]]:
            async def handler(arguments: dict[str, Any]) -> Any:
                given = copy(outer)
                values = cast("dict[str, Any]", given)
                values.pop("code", None)
                values.update(arguments)
                return _value(function, await function.invoke(invoker, given))

            return handler

        return [
            replace(tool, handler=bound(function))
            for tool, function in zip(self.described, self._functions, strict=True)
        ]


def _functions_of(given: KernelFunction | KernelPlugin | Callable[..., Any]) -> Iterator[KernelFunction]:
    if isinstance(given, KernelFunction):
        yield given
    elif isinstance(given, KernelPlugin):
        yield from given.functions.values()
    elif inspect.isroutine(given):
        marked = given if hasattr(given, "__kernel_function__") else _marked(given)
        yield KernelFunctionFromMethod(marked)
    else:
        raise InvalidRequest(f"A tool must be a kernel function, a KernelPlugin or a function, not {brief(given)}.")


def _marked(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A plain function as a kernel function; the application's function is not changed."""

    @kernel_function
    @functools.wraps(function)
    async def marked(*args: Any, **kwargs: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)  # not on the event loop, as the kernel would

    return marked


def _described(function: KernelFunction) -> Tool:
    returned = result_schema(getattr(function, "method", None))  # the kernel's own lacks the types of items
    description = inspect.cleandoc(function.description or "")
    return Tool(function.name, description, _schema(function), _no_execution, returned)


async def _no_execution(_: dict[str, Any]) -> None:
    raise AssertionError("functions are called within an execution")


def _schema(function: KernelFunction) -> dict[str, Any]:
    """Return the JSON schema of the arguments that models may pass."""
    shown = [
        each for each in function.parameters if each.include_in_function_choices and each.name not in _FROM_THE_KERNEL
    ]
    return {
        "type": "object",
        "properties": {
            str(each.name): {
                **(each.schema_data or {}),
                **({} if each.is_required else {"default": each.default_value}),
            }
            for each in shown
        },
        "required": [str(each.name) for each in shown if each.is_required],
        "additionalProperties": False,  # code must not set hidden parameters
    }


def _value(function: KernelFunction, result: FunctionResult | None) -> Any:
    if result is None:
        raise RuntimeError(f"A filter stopped {function.name}.")
    value: Any = result.value
    items = cast("list[object]", value if isinstance(value, list) else [value])
    return str(result) if any(isinstance(each, KernelContent) for each in items) else result.value
