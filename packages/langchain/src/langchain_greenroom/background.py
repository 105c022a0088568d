"""The tools for code in the background, and the one that resets a session."""

from typing import Any, ClassVar

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema
from pydantic import BaseModel, Field

from greenroom import Execution, adapters
from greenroom.adapters import Artifact, ToolAnswer
from langchain_greenroom.sessions import SessionTool
from langchain_greenroom.tool import INPUTS, image_block


class ExecutionInput(BaseModel):
    """The arguments of `look_at_execution` and `stop_execution`."""

    execution_id: str = Field(description=adapters.EXECUTION_ID)


class NoInput(BaseModel):
    """The arguments of `reset_session`."""


class _BackgroundTool(SessionTool):
    background: bool = True
    timeout: float | None = None
    """The time limit of code in seconds; by default there is none."""
    budget: int = 8_000
    """The maximum number of characters that the model reads of one execution."""
    images: bool = False
    """Whether the model is sent figures."""

    def _run(self, config: RunnableConfig, **arguments: Any) -> tuple[Any, Any]:
        return _content(self._call(config, **arguments))

    async def _arun(self, config: RunnableConfig, **arguments: Any) -> tuple[Any, Any]:
        return _content(await self._acall(config, **arguments))


class StartTool(_BackgroundTool):
    """Starts code, and returns while it runs."""

    tool: ClassVar[str] = "start_execution"
    name: str = "start_execution"
    description: str = adapters.TOOLS["start_execution"]
    args_schema: ArgsSchema | None = INPUTS["run_python"]

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if "args_schema" not in self.model_fields_set:
            self.args_schema = INPUTS[self._toolset.code_tool]


class LookTool(_BackgroundTool):
    """Looks at code that was started; its artifact is the `greenroom.Execution` once it has ended."""

    tool: ClassVar[str] = "look_at_execution"
    name: str = "look_at_execution"
    description: str = adapters.TOOLS["look_at_execution"]
    args_schema: ArgsSchema | None = ExecutionInput


class StopTool(_BackgroundTool):
    """Stops code that was started; its artifact is the `greenroom.Execution`."""

    tool: ClassVar[str] = "stop_execution"
    name: str = "stop_execution"
    description: str = adapters.TOOLS["stop_execution"]
    args_schema: ArgsSchema | None = ExecutionInput


class ResetTool(SessionTool):
    """Empties the session."""

    tool: ClassVar[str] = "reset_session"
    name: str = "reset_session"
    description: str = adapters.TOOLS["reset_session"]
    args_schema: ArgsSchema | None = NoInput
    reset: bool = True

    def _run(self, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(self._call(config))

    async def _arun(self, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(await self._acall(config))


def _content(answer: ToolAnswer[Artifact]) -> tuple[Any, Any]:
    # The handle of a running execution stays here: a message that holds one cannot be sent or stored.
    artifact = answer.artifact if isinstance(answer.artifact, Execution) else None
    if not answer.figures:
        return answer.text, artifact
    return [{"type": "text", "text": answer.text}, *map(image_block, answer.figures)], artifact
