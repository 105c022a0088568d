"""The results of tools: content blocks for the model, with an artifact for the application."""

from __future__ import annotations

from typing import Any, Literal, Self

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool, ToolOutput
from llama_index.core.workflow import Event

from greenroom import Execution, GreenroomError
from greenroom.adapters import Artifact, ToolAnswer


class CodeOutput(Event):
    """A piece of text on the workflow's event stream, sent as soon as running code writes it."""

    stream: Literal["stdout", "stderr"]
    text: str


class ModelBlocks(list[TextBlock | ImageBlock]):
    """The content blocks for a model, with an artifact for the application.

    This is the `raw_output` of a `ToolOutput`. A workflow's serialized state keeps only the blocks.
    """

    artifact: Artifact
    """The `Execution` of code that ran, or its handle while it runs in the background; the `Download` of
    `download_file`; the `RemoteFile`s of the other tools; or the error, if the call had no result and the model can
    retry."""

    @classmethod
    def of(cls, answer: ToolAnswer[Artifact]) -> Self:
        """Return the blocks of an answer: its text, then its figures."""
        blocks = cls([TextBlock(text=answer.text)])
        blocks.extend(ImageBlock(image=figure.data, image_mimetype=figure.mime) for figure in answer.figures)
        blocks.artifact = answer.artifact
        return blocks


def execution_of(result: object) -> Execution | None:
    """Return the execution behind a `ToolCallResult` or its output; `None` for every other event and tool."""
    artifact = _artifact(getattr(result, "tool_output", result))
    return artifact if isinstance(artifact, Execution) else None


class ToolWithStatus(FunctionTool):
    """A `FunctionTool` whose output has `is_error` if the code failed or the model can retry.

    A function that raises would set `is_error` too, but lose what the code printed and drew before it failed.
    """

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return _with_status(super().call(*args, **self._with_context(kwargs)))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return _with_status(await super().acall(*args, **self._with_context(kwargs)))

    def _with_context(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        # Agents pass their context. LlamaIndex refuses callers without one, even for tools that do not need it.
        return kwargs if self.ctx_param_name is None else {self.ctx_param_name: None, **kwargs}


def _artifact(output: object) -> object:
    return getattr(getattr(output, "raw_output", None), "artifact", None)


def _with_status(output: ToolOutput) -> ToolOutput:
    match _artifact(output):
        case Execution() as execution:
            output.is_error = not execution.succeeded
        case GreenroomError() as error:
            parts = {name: getattr(output, name) for name in ("tool_name", "blocks", "raw_input", "raw_output")}
            return ToolOutput(**parts, is_error=True, exception=error)
        case _:
            pass
    return output
