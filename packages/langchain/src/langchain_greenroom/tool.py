"""The tool that runs a model's code."""

import base64
import sys
from dataclasses import asdict
from typing import Any, Self

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from greenroom import Execution, Output, StreamText, adapters
from greenroom.adapters import ToolAnswer
from langchain_greenroom.sessions import Budget, SessionTool, Timeout, errors_for_the_model

OUTPUT_EVENT = "greenroom_output"
"""The custom event for each piece of output while code runs: `{"stream": "stdout" | "stderr", "text": …}`.

LangGraph's `stream_mode="custom"` yields the same under this key.
"""

_EXECUTION = TypeAdapter(Execution)


class PythonInput(BaseModel):
    """What the model passes."""

    code: str = Field(description=adapters.CODE)


class GreenroomTool(SessionTool):
    """Runs Python in the session of the conversation.

    Its content is text for the model, with `images` followed by the figures as image blocks; its artifact is the
    whole `greenroom.Execution`. A failed execution has the status error. What no other code could mend, such as
    `PoolFull` or `EngineUnavailable`, is raised.
    """

    name: str = "run_python"
    description: str = adapters.TOOLS["run_python"]
    args_schema: ArgsSchema | None = PythonInput

    timeout: Timeout = None
    """Seconds that code may run; by default the pool's own limit."""
    budget: Budget = 8_000
    """Characters of text that the model reads of one execution, at most."""
    images: bool = False
    """Whether the model sees figures; the artifact has them anyway, and the text names them.

    For models that take images from tools, such as Anthropic's, and OpenAI's through the Responses API. Any other
    refuses the message, and with it the rest of the conversation: OpenAI's Chat Completions, for one.
    """

    @model_validator(mode="after")
    def _say_what_the_model_gets(self) -> Self:
        if "description" not in self.model_fields_set:
            self.description = adapters.describe_run_python(
                state_kept=not self.session_per_call, figures_seen=self.images
            )
        return self

    def _run(self, code: str, config: RunnableConfig, tool_call_id: str | None = None) -> tuple[Any, Execution]:
        with self._session_for_call(config) as session, errors_for_the_model():
            answer = adapters.run_python(session, code, budget=self.budget, timeout=self.timeout, on_output=_tell)
        return self._as_content(answer, tool_call_id)

    async def _arun(self, code: str, config: RunnableConfig, tool_call_id: str | None = None) -> tuple[Any, Execution]:
        async with self._session_for_call(config) as session:
            with errors_for_the_model():
                answer = await adapters.arun_python(
                    session, code, budget=self.budget, timeout=self.timeout, on_output=_atell
                )
        return self._as_content(answer, tool_call_id)

    def _as_content(self, answer: ToolAnswer[Execution], tool_call_id: str | None) -> tuple[Any, Execution]:
        text, execution = answer
        content: str | list[str | dict[str, Any]] = text
        if self.images and (figures := adapters.figures_for_models(execution)):
            content = [{"type": "text", "text": text}]
            for figure in figures:
                encoded = base64.b64encode(figure.data).decode()
                content.append({"type": "image", "base64": encoded, "mime_type": figure.mime})
        if execution.succeeded or tool_call_id is None:
            return content, execution
        # The status of an error with its artifact, which a ToolException would lose.
        message = ToolMessage(
            content=content, artifact=execution, tool_call_id=tool_call_id, name=self.name, status="error"
        )
        return message, execution

    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The framework's own way of injecting the id refuses calls without one: tool.invoke({"code": …}).
        arguments, keywords = super()._to_args_and_kwargs(tool_input, tool_call_id)
        return arguments, {**keywords, "tool_call_id": tool_call_id}


def _tell(output: StreamText | Output) -> None:
    if isinstance(output, StreamText):
        dispatch_custom_event(OUTPUT_EVENT, asdict(output))
        _tell_the_graph(output)


async def _atell(output: StreamText | Output) -> None:
    if isinstance(output, StreamText):
        await adispatch_custom_event(OUTPUT_EVENT, asdict(output))
        _tell_the_graph(output)


def _tell_the_graph(text: StreamText) -> None:
    langgraph = sys.modules.get("langgraph.config")  # imported already, if a graph calls
    if langgraph is None:
        return
    try:
        write = langgraph.get_stream_writer()
    except (RuntimeError, KeyError):  # nobody's call, or a chain's
        return
    write({OUTPUT_EVENT: asdict(text)})


def execution_of(message: BaseMessage) -> Execution | None:
    """The execution behind a tool's message, also where a checkpoint has made plain data of it.

    `None` if there is none: the message is another tool's or no tool's, or the code never ran.
    """
    try:
        return _EXECUTION.validate_python(getattr(message, "artifact", None))
    except ValidationError:
        return None
