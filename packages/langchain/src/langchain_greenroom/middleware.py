"""Tools that a model's code calls, through an agent's middleware. Needs the extra `agents`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from langchain.agents.middleware import AgentMiddleware, ToolCallRequest
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.runtime import Runtime
from langgraph.types import Command

from greenroom import SessionPool
from greenroom.adapters import aend_run, code_needs_approval, end_run, strip_fence
from langchain_greenroom.functions import ToolLike, calls_pass
from langchain_greenroom.sessions import run_of_agent
from langchain_greenroom.tool import GreenroomTool

Answer = ToolMessage | Command[Any]


class GreenroomMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gives an agent a tool that runs code, whose code can call other tools.

    Each of these calls goes through the middleware that follows this one in the list, such as approval, limits and
    retries, as if the model had made it. So put this one first. Callbacks and tracing see each call within the call
    that runs the code.
    """

    def __init__(self, pool: SessionPool | None = None, *, tools: Sequence[ToolLike] = (), **options: Any) -> None:
        """
        Args:
            pool: as for `GreenroomTool`.
            tools: the tools that the code can call. To let the model call them too, give them to the agent as well.
            options: as for `GreenroomTool`.
        """
        super().__init__()
        self.tool = GreenroomTool(pool=pool, tools=tools, **options)
        """The tool that runs code."""
        self.tools = [self.tool]

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Answer]) -> Answer:
        """Route the calls of code through the rest of the middleware."""
        with self._led(request, handler):
            return handler(request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Answer]]
    ) -> Answer:
        """As `wrap_tool_call`."""
        with self._led(request, handler):
            return await handler(request)

    def after_agent(self, state: Any, runtime: Runtime[Any]) -> None:
        """Delete the session of a run without a conversation."""
        if not _is_nested(runtime):
            end_run(run_of_agent())

    async def aafter_agent(self, state: Any, runtime: Runtime[Any]) -> None:
        """As `after_agent`."""
        if not _is_nested(runtime):
            await aend_run(run_of_agent())

    @contextmanager
    def _led(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Generator[None]:
        def call(tool_call: ToolCall, tool: BaseTool) -> Any:
            runtime = replace(cast("Any", request).runtime, tool_call_id=tool_call["id"])
            return handler(replace(request, tool_call=tool_call, tool=tool, runtime=runtime))

        token = calls_pass.set(call if request.tool is self.tool else None)
        try:
            yield
        finally:
            calls_pass.reset(token)


def _is_nested(runtime: Runtime[Any]) -> bool:
    """Whether the agent runs within another graph, which can share its run."""
    return runtime.execution_info is not None and "|" in runtime.execution_info.checkpoint_ns


def needs_approval(
    tools: Sequence[str] = (), *, free: Sequence[str] = (), **options: Any
) -> Callable[[ToolCallRequest], bool]:
    """Return the predicate for `InterruptOnConfig(when=…)` of the tool that runs Python.

    Code that does more than compute then needs a person's approval; see `greenroom.adapters.code_needs_approval`.

    Args:
        tools: names of the tools that the code can call.
        free: names of those tools that need no approval.
        options: as for `code_needs_approval`.
    """

    def when(request: ToolCallRequest) -> bool:
        code = request.tool_call["args"].get("code")
        return not isinstance(code, str) or code_needs_approval(
            strip_fence(code), functions=tools, free=free, **options
        )

    return when
