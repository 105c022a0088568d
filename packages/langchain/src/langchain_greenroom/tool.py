"""The tool that runs a model's code."""

import base64
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema, BaseTool
from pydantic import BaseModel, Field, PrivateAttr, TypeAdapter, ValidationError, model_validator

from greenroom import Execution, Image, Output, Session, StreamText, Tool, ToolLimits, adapters
from greenroom.adapters import Artifact, ToolAnswer
from langchain_greenroom.functions import Calls, ToolLike, as_tools, check_approval, described
from langchain_greenroom.sessions import SessionTool, raised, thread_id_of

if TYPE_CHECKING:
    from langchain_greenroom.attending import Attending
    from langchain_greenroom.interrupts import Pauses

OUTPUT_EVENT = "greenroom_output"
"""The custom event for each piece of output while code runs: `{"stream": "stdout" | "stderr", "text": …}`.

LangGraph's `stream_mode="custom"` yields the same under this key; `stream_mode="tools"` yields the text as deltas of
the tool's output.
"""

OnOutput: TypeAlias = Callable[[StreamText | Output, RunnableConfig], Awaitable[None] | None]
"""Called with each piece of output while code runs, and the config of its call; it may be asynchronous where the tool
is awaited."""

_EXECUTION = TypeAdapter(Execution)


class PythonInput(BaseModel):
    """The arguments of `run_python`."""

    code: str = Field(description=adapters.CODE)


class JavaScriptInput(BaseModel):
    """The arguments of `run_javascript`."""

    code: str = Field(description=adapters.JAVASCRIPT)


class ShellInput(BaseModel):
    """The arguments of `run_shell`."""

    command: str = Field(description=adapters.COMMAND)


INPUTS: dict[str, type[BaseModel]] = {
    "run_python": PythonInput,
    "run_javascript": JavaScriptInput,
    "run_shell": ShellInput,
}


class GreenroomTool(SessionTool):
    """Runs code in the session of the conversation: Python, JavaScript or shell commands, by the pool's container type.

    By default it has the name, the description and the arguments of that type's tool: `run_python`, `run_javascript` or
    `run_shell`.

    The code can call `tools` as functions. Callbacks and tracing see these calls, but middleware does not: for
    approval, limits and other middleware, use `GreenroomMiddleware(tools=…)` instead.

    Its content is text for the model, with `images` followed by the figures as image blocks; its artifact is the
    whole `greenroom.Execution`. A failed execution has the status error. Errors that changing the code cannot fix, such
    as `PoolFull` or `EngineUnavailable`, are raised.
    """

    name: str = "run_python"
    description: str = adapters.TOOLS["run_python"]
    args_schema: ArgsSchema | None = PythonInput

    timeout: float | None = None
    """The time limit of code in seconds; by default that of the session or the pool."""
    budget: int = 8_000
    """The maximum number of characters that the model reads of one execution."""
    images: bool = False
    """Whether the model is sent figures; the artifact has them anyway, and the text names them.

    Set it for models that accept images from tools, such as Anthropic's, and OpenAI's through the Responses API. Other
    APIs, such as OpenAI's Chat Completions, reject the message and with it the rest of the conversation.
    """
    on_output: OnOutput | None = Field(default=None, exclude=True, repr=False)
    """Called with each piece of output while code runs. Its exception ends the code."""

    tools: Sequence[ToolLike] = Field(default=(), exclude=True, repr=False)
    """Tools that the code can call by name: functions with annotations and a docstring, or LangChain tools."""
    tools_budget: int = adapters.FUNCTIONS_BUDGET
    """The maximum number of characters that `tools` take in the description; code finds the others by a search."""
    tool_limits: ToolLimits | None = Field(default=None, exclude=True, repr=False)
    """Limits on the calls of one execution."""
    approval_timeout: float | None = None
    """How long the calls of one execution can wait for a person, in seconds in total; by default a day."""
    interrupt_on: Mapping[str, Any] = Field(default={}, exclude=True, repr=False)
    """As in `HumanInTheLoopMiddleware`, which does not see these calls: tools that it names are refused."""

    _read: tuple[Any, dict[str, BaseTool]] | None = PrivateAttr(default=None)
    """The tools, and the functions that were read from them."""

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        check_approval(self._functions, self.interrupt_on)
        return self

    @model_validator(mode="after")
    def _name(self) -> Self:
        if "name" not in self.model_fields_set:
            self.name = self._tool
        if "args_schema" not in self.model_fields_set:
            self.args_schema = INPUTS[self._tool]
        return self

    @property
    def _functions(self) -> dict[str, BaseTool]:
        if self._read is None or self._read[0] is not self.tools:
            self._read = self.tools, as_tools(self.tools)
        return self._read[1]

    @property
    def _code_options(self) -> dict[str, Any]:
        if not self.tools:
            return {}
        limits = self.tool_limits
        if self.approval_timeout is not None:
            limits = replace(limits or ToolLimits(), parked_timeout=self.approval_timeout)
        functions = [described(name, tool, tool.invoke) for name, tool in self._functions.items()]
        return {
            "functions": functions,
            "functions_budget": self.tools_budget,
            "function_limits": limits,
        }

    def _run(self, *, config: RunnableConfig, tool_call_id: str | None = None, **arguments: str) -> tuple[Any, Any]:
        def send(output: StreamText | Output) -> Awaitable[None] | None:
            if isinstance(output, StreamText):
                dispatch_custom_event(OUTPUT_EVENT, asdict(output))
                _write_to_graph(output)
            return None if self.on_output is None else self.on_output(output, config)

        pauses = self._pauses(config)
        calls = Calls(self._functions, tool_call_id, pauses)
        functions = calls.functions(asynchronous=False)
        if pauses is None:
            answer = self._call(config, on_output=send, functions=functions, **arguments)
        else:
            session = self.session_for(config)
            answer = raised(self._attending(session, pauses, functions, send).run(*arguments.values()))
        return self._content(answer, calls.notes, tool_call_id)

    async def _arun(
        self, *, config: RunnableConfig, tool_call_id: str | None = None, **arguments: str
    ) -> tuple[Any, Any]:
        async def send(output: StreamText | Output) -> None:
            if isinstance(output, StreamText):
                await adispatch_custom_event(OUTPUT_EVENT, asdict(output))
                _write_to_graph(output)
            if self.on_output is not None and isawaitable(returned := self.on_output(output, config)):
                await returned

        pauses = self._pauses(config)
        calls = Calls(self._functions, tool_call_id, pauses)
        functions = calls.functions(asynchronous=True)
        if pauses is None:
            answer = await self._acall(config, on_output=send, functions=functions, **arguments)
        else:
            session = await self._toolset.asession_for(thread_id_of(config))
            answer = raised(await self._attending(session, pauses, functions, send).arun(*arguments.values()))
        return self._content(answer, calls.notes, tool_call_id)

    def _pauses(self, config: RunnableConfig) -> "Pauses | None":
        """Return where interrupted calls wait, if this runs in a graph that can be resumed."""
        if not self.tools or self.session_per_call or "langgraph.types" not in sys.modules:
            return None
        try:
            from langchain_greenroom.interrupts import Pauses, is_possible  # noqa: PLC0415  langgraph is installed
        except ImportError:  # another version of langgraph: interrupted calls fail with an error
            return None
        return Pauses(config) if is_possible(config) else None

    def _attending(
        self, session: Session, pauses: "Pauses", functions: Sequence[Tool], on_output: adapters.OnOutput
    ) -> "Attending":
        from langchain_greenroom.attending import Attending  # noqa: PLC0415  langgraph is installed

        return Attending(self._toolset, session, pauses, functions, on_output)

    def _content(self, answer: ToolAnswer[Artifact], notes: Sequence[str], tool_call_id: str | None) -> tuple[Any, Any]:
        text = "\n\n".join([answer.text, *dict.fromkeys(notes)])
        content: str | list[str | dict[str, Any]] = text
        if answer.figures:
            content = [{"type": "text", "text": text}, *map(image_block, answer.figures)]
        if not answer.failed or tool_call_id is None:
            return content, answer.artifact
        # An error status with its artifact, which a ToolException would lose.
        message = ToolMessage(
            content=content, artifact=answer.artifact, tool_call_id=tool_call_id, name=self.name, status="error"
        )
        return message, answer.artifact

    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The framework's own injection of the id refuses calls without one: tool.invoke({"code": …}).
        arguments, keywords = super()._to_args_and_kwargs(tool_input, tool_call_id)
        # Plain text is the only argument, whose name depends on the container type.
        return (), {**dict(zip(self.args, arguments, strict=False)), **keywords, "tool_call_id": tool_call_id}


def _write_to_graph(text: StreamText) -> None:
    langgraph = sys.modules.get("langgraph.config")  # already imported within a graph
    if langgraph is None:
        return
    try:
        write = langgraph.get_stream_writer()
    except (RuntimeError, KeyError):  # outside of a graph
        return
    write({OUTPUT_EVENT: asdict(text)})
    runtime: Any = getattr(sys.modules.get("langgraph.prebuilt"), "ToolRuntime", None)
    if hasattr(runtime, "emit_output_delta"):  # missing in older versions
        runtime.emit_output_delta(runtime, text.text)  # it finds its call by the context, not by this runtime


def image_block(image: Image) -> dict[str, Any]:
    """Return a picture as a standard image block."""
    return {"type": "image", "base64": base64.b64encode(image.data).decode(), "mime_type": image.mime}


def execution_of(message: BaseMessage) -> Execution | None:
    """Return the execution behind a tool's message, also after a checkpoint turned it into plain data.

    `None` if there is none: the message is from another tool or not from a tool, or the code never ran.
    """
    try:
        return _EXECUTION.validate_python(getattr(message, "artifact", None))
    except ValidationError:
        return None
