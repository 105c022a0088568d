"""The application's tools as functions that code can call: each call is one of LangChain's tool calls."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.tools import BaseTool, ToolException
from langchain_core.tools import Tool as OneArgumentTool
from langchain_core.tools import tool as make_tool

from greenroom import CallDeferred, InvalidRequest, Tool, current_call
from greenroom.adapters import result_schema, shorten

if TYPE_CHECKING:
    from langchain_greenroom.interrupts import Pauses

_MOST_NOTES = 10
_LONGEST_NOTE = 1_000

ToolLike: TypeAlias = BaseTool | Callable[..., Any]
"""What `create_agent` accepts as a tool, except dictionaries, which have nothing that could be called here."""
Handler: TypeAlias = Callable[[ToolCall, BaseTool], Any]
"""Makes a call, and returns LangChain's answer or an awaitable of it."""

calls_pass: ContextVar[Handler | None] = ContextVar("calls_pass", default=None)
"""The handler of calls that code makes in this context, set by a middleware; by default they go to the tools."""


def as_tools(given: Sequence[ToolLike]) -> dict[str, BaseTool]:
    """Return tools by their names as functions: characters that an identifier cannot have become underscores.

    Raises:
        InvalidRequest: two have the same name.
    """
    tools: dict[str, BaseTool] = {}
    for each in given:
        tool = each if isinstance(each, BaseTool) else make_tool(each)
        name = re.sub(r"\W", "_", tool.name, flags=re.ASCII)
        if name in tools:
            raise InvalidRequest(f"The tools must have different names, not {name!r} twice.")
        tools[name] = tool
    return tools


def check_approval(tools: Mapping[str, BaseTool], interrupt_on: Mapping[str, Any]) -> None:
    """Refuse tools that require approval, where nothing can ask for it.

    Raises:
        InvalidRequest: there is one.
    """
    for tool in tools.values():
        if interrupt_on.get(tool.name):
            raise InvalidRequest(
                f"The tool {tool.name!r} must not be called by code of a GreenroomTool, as a person must approve it: "
                "use middleware=[GreenroomMiddleware(tools=[…]), …], whose calls other middleware sees."
            )


class Calls:
    """The calls of one execution."""

    def __init__(self, tools: Mapping[str, BaseTool], tool_call_id: str | None, pauses: Pauses | None = None) -> None:
        """
        Args:
            tools: the result of `as_tools`.
            tool_call_id: the id of the call that runs the code; the ids of the code's calls begin with it.
            pauses: where calls that are interrupted wait; without it they fail.
        """
        self.notes: list[str] = [] if pauses is None else pauses.notes
        """Notes for the model that middleware added to results; the code gets the results without them."""
        self._tools = tools
        self._id = tool_call_id or uuid4().hex
        self._pauses = pauses
        self._config = ensure_config()  # the config of the tool that runs the code, so that calls are its children
        self._handler = calls_pass.get()

    def functions(self, *, asynchronous: bool) -> list[Tool]:
        """Return the functions that code calls, for an execution that is awaited or for one that blocks."""
        bind = self._awaited if asynchronous else self._blocking
        return [described(name, tool, bind(tool)) for name, tool in self._tools.items()]

    def _blocking(self, tool: BaseTool) -> Callable[[dict[str, Any]], Any]:
        def call(arguments: dict[str, Any]) -> Any:
            with self._pausing(tool) as made:
                call = self._call(tool, arguments)
                answer = self._handler(call, made.tool) if self._handler else made.tool.invoke(call)
                return self._answered(made, answer)

        return call

    def _awaited(self, tool: BaseTool) -> Callable[[dict[str, Any]], Awaitable[Any]]:
        async def call(arguments: dict[str, Any]) -> Any:
            with self._pausing(tool) as made:
                call = self._call(tool, arguments)
                answer = await (self._handler(call, made.tool) if self._handler else made.tool.ainvoke(call))
                return self._answered(made, answer)

        return call

    def _answered(self, made: _Made, answer: Any) -> Any:
        if self._pauses is not None:
            self._pauses.done(current_call().number)
        return made.value(answer, self.notes)

    def _call(self, tool: BaseTool, arguments: dict[str, Any]) -> ToolCall:
        return ToolCall(type="tool_call", name=tool.name, args=arguments, id=f"{self._id}:{current_call().number}")

    @contextmanager
    def _pausing(self, tool: BaseTool) -> Generator[_Made]:
        """Start a call in its own context; a call that is interrupted is deferred."""
        number, pauses, config = current_call().number, self._pauses, self._config
        if current_call().delivered_again:
            raise ToolException(f"{tool.name} may have been called: the process that was calling it has ended.")
        if pauses is not None:
            if pauses.waits(number):
                raise CallDeferred
            config = pauses.config_of(number, config)
        var_child_runnable_config.set(config)
        try:
            yield _Made(tool, config)
        except Exception as error:
            if pauses is not None and pauses.take(number, error):
                raise CallDeferred from None
            if type(error).__name__ == "GraphInterrupt":  # langgraph need not be installed
                raise ToolException(
                    f"{tool.name} waits for a person's decision, which needs an agent with a checkpointer, a "
                    'conversation and an extra: pip install "langchain-greenroom[agents]".'
                ) from None
            raise


def described(name: str, tool: BaseTool, handler: Callable[[dict[str, Any]], Any]) -> Tool:
    """Return a tool as a function in a session."""
    function = getattr(tool, "func", None) or getattr(tool, "coroutine", None) or getattr(tool, "_run", None)
    # The other format returns a tuple; the code gets its first item.
    returns = result_schema(function) if tool.response_format == "content" else None
    parameters: Any = tool.tool_call_schema
    if isinstance(tool, OneArgumentTool) and tool.args_schema is None:  # its schema would be that of one of its methods
        parameters = {"type": "object", "properties": tool.args, "required": [*tool.args]}
    return Tool(name, tool.description, parameters, handler, returns)


class _Made:
    """One call: a copy of the tool that keeps the tool's own return value."""

    def __init__(self, tool: BaseTool, config: RunnableConfig) -> None:
        self.tool = tool.model_copy()
        self._returned: Any = None
        self._content: Any = None
        kind = type(tool)
        for name in ("_run", "_arun"):
            object.__setattr__(self.tool, name, self._keeping(getattr(tool, name), awaits=name == "_arun"))

        # The copy is invoked with the config of the agent's step, but the calls of code belong to the tool that runs
        # it.
        @functools.wraps(kind.invoke)
        def invoke(call: Any, _: Any = None, **options: Any) -> Any:
            return self._answered(kind.invoke(self.tool, call, config, **options))

        @functools.wraps(kind.ainvoke)
        async def ainvoke(call: Any, _: Any = None, **options: Any) -> Any:
            return self._answered(await kind.ainvoke(self.tool, call, config, **options))

        object.__setattr__(self.tool, "invoke", invoke)
        object.__setattr__(self.tool, "ainvoke", ainvoke)

    def value(self, answer: Any, notes: list[str]) -> Any:
        """Return the value for the code. This is the tool's return value if middleware did not change it; text that was
        put before it is a note for the model. A result that middleware changed, or gave itself, is returned as text.

        Raises:
            ToolException: the call failed or was refused.
        """
        if not isinstance(answer, ToolMessage):
            raise ToolException(f"{self.tool.name} changes the agent's state, which code cannot do.")
        if answer.status == "error":
            raise ToolException(answer.text)
        if self._content is None:
            return answer.text
        if answer.content == self._content:
            return self._returned
        produced = self._content if isinstance(self._content, str) else ""
        if produced and isinstance(answer.content, str) and answer.content.endswith(produced):
            note = answer.content[: -len(produced)].strip()
            if len(notes) < _MOST_NOTES:
                notes.append(shorten(note, _LONGEST_NOTE))
            return self._returned
        return answer.text

    def _answered(self, answer: Any) -> Any:
        self._content = answer.content if isinstance(answer, ToolMessage) and answer.status != "error" else None
        return answer

    def _keeping(self, run: Callable[..., Any], *, awaits: bool) -> Callable[..., Any]:
        with_artifact = self.tool.response_format == "content_and_artifact"

        def keep(returned: Any) -> Any:
            value = returned[0] if with_artifact else returned
            self._returned = value.text if isinstance(value, ToolMessage) else value
            return returned

        @functools.wraps(run)
        def blocking(*arguments: Any, **named: Any) -> Any:
            return keep(run(*arguments, **named))

        @functools.wraps(run)
        async def awaited(*arguments: Any, **named: Any) -> Any:
            return keep(await run(*arguments, **named))

        return awaited if awaits else blocking
