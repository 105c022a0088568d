"""The tool that runs a model's code."""

import base64
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import Any, Self

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from greenroom import Execution, Session, StreamText
from greenroom.modelcode import strip_fence
from langchain_greenroom.sessions import SessionTool, errors_for_the_model

OUTPUT_EVENT = "greenroom_output"
"""The custom event for each piece of output while code runs: `{"stream": "stdout" | "stderr", "text": …}`."""

_SEEN_BY_MODELS = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))
_EXECUTION = TypeAdapter(Execution)

_DESCRIPTION = (
    "Run Python code in an isolated sandbox, as a cell of a notebook. {state} You get back what the code "
    "prints, the value of its last expression, its figures, and the error if it fails. Files are in "
    "/mnt/data. There may be no network."
)
_STATE_KEPT = "Variables, imports and files are kept from call to call."
_STATE_LOST = "Each call starts afresh: no variable, import or file is kept for the next."


class PythonInput(BaseModel):
    """What the model passes."""

    code: str = Field(description="The Python code to run.")


class GreenroomTool(SessionTool):
    """Runs Python in the session of the conversation.

    Its content is text for the model, followed by the figures as image blocks; its artifact is the whole
    `greenroom.Execution`. A failed execution has the status error. What no other code could mend, such as
    `PoolFull` or `EngineUnavailable`, is raised.
    """

    name: str = "python"
    description: str = _DESCRIPTION.format(state=_STATE_KEPT)
    args_schema: ArgsSchema | None = PythonInput

    session_per_call: bool = False
    """Whether each call gets a new session of the pool, deleted after it; then no `thread_id` is needed."""
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds that code may run; by default the pool's own limit."""
    budget: int = Field(default=8_000, ge=500)
    """Characters of text that the model reads of one execution, at most."""
    images: bool = True
    """Whether the model sees figures. Some models refuse images of tools; the artifact has them anyway."""

    @model_validator(mode="after")
    def _says_whether_state_is_kept(self) -> Self:
        if self.session_per_call:
            if self.pool is None:
                raise ValueError("session_per_call=True takes its sessions from a pool: pass pool=.")
            if "description" not in self.model_fields_set:
                self.description = _DESCRIPTION.format(state=_STATE_LOST)
        return self

    def _run(self, code: str, config: RunnableConfig, tool_call_id: str | None = None) -> tuple[Any, Execution]:
        session = self._session_of_call(config)
        try:
            with (
                errors_for_the_model(),
                closing(session.stream(strip_fence(code), timeout=self.timeout)) as events,
            ):
                for event in events:
                    if isinstance(event, StreamText):
                        dispatch_custom_event(OUTPUT_EVENT, asdict(event))
                    elif isinstance(event, Execution):
                        return self._answer(event, tool_call_id)
        finally:
            if self.session_per_call:
                session.delete()
        raise AssertionError("a stream ends with its execution")

    async def _arun(self, code: str, config: RunnableConfig, tool_call_id: str | None = None) -> tuple[Any, Execution]:
        session = self._session_of_call(config)
        try:
            with errors_for_the_model():
                async with aclosing(session.astream(strip_fence(code), timeout=self.timeout)) as events:
                    async for event in events:
                        if isinstance(event, StreamText):
                            await adispatch_custom_event(OUTPUT_EVENT, asdict(event))
                        elif isinstance(event, Execution):
                            return self._answer(event, tool_call_id)
        finally:
            if self.session_per_call:
                await session.adelete()
        raise AssertionError("a stream ends with its execution")

    def _session_of_call(self, config: RunnableConfig) -> Session:
        return self.pool.session() if self.session_per_call and self.pool else self.session_for(config)

    def _answer(self, execution: Execution, tool_call_id: str | None) -> tuple[Any, Execution]:
        text = execution.text_for_model(self.budget)
        shown = [image for image in execution.images if self.images and image.mime in _SEEN_BY_MODELS]
        content: str | list[str | dict[str, Any]] = text
        if shown:
            content = [{"type": "text", "text": text}]
            for image in shown:
                encoded = base64.b64encode(image.data).decode()
                content.append({"type": "image", "base64": encoded, "mime_type": image.mime})
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


def execution_of(message: ToolMessage) -> Execution | None:
    """The execution behind a tool's message, also where a checkpoint has made plain data of it.

    `None` if there is none: the message is another tool's, or the code never ran.
    """
    try:
        return _EXECUTION.validate_python(message.artifact)
    except ValidationError:
        return None
