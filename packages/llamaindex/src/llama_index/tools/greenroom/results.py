"""What a tool returns: content blocks for the model, and for the application what they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool, ToolOutput
from llama_index.core.workflow import Event

from greenroom import Execution, GreenroomError, Image, RemoteFile
from greenroom.adapters import Download

if TYPE_CHECKING:
    from collections.abc import Iterable


class CodeOutput(Event):
    """On the workflow's event stream: a piece of text, as soon as running code has written it."""

    stream: Literal["stdout", "stderr"]
    text: str


Artifact: TypeAlias = Execution | Download | RemoteFile | list[RemoteFile] | GreenroomError


class ModelBlocks(list[TextBlock | ImageBlock]):
    """What a model reads and sees, which brings the application what it is about.

    It is the `raw_output` of a `ToolOutput`. A workflow's state that is serialized keeps the blocks alone.
    """

    artifact: Artifact
    """Of `run_python` the `Execution`, of `download_file` the `Download`, of others the `RemoteFile`s; the error,
    where a call came to nothing and the model can mend it."""

    def __init__(self, text: str, artifact: Artifact, figures: Iterable[Image] = ()) -> None:
        super().__init__([TextBlock(text=text)])
        self.extend(ImageBlock(image=figure.data, image_mimetype=figure.mime) for figure in figures)
        self.artifact = artifact


def execution_of(result: object) -> Execution | None:
    """The execution behind a `ToolCallResult` or its output; `None` for every other event and tool."""
    artifact = _artifact(getattr(result, "tool_output", result))
    return artifact if isinstance(artifact, Execution) else None


class GreenroomTool(FunctionTool):
    """A `FunctionTool` whose output says `is_error` where the model may try again with other arguments.

    A function that raises would say so, too, but lose what the code printed and drew before it failed.
    """

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return _with_status(super().call(*args, **self._with_context(kwargs)))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return _with_status(await super().acall(*args, **self._with_context(kwargs)))

    def _with_context(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        # Agents pass theirs. For other callers LlamaIndex would refuse, though not every tool needs one.
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
