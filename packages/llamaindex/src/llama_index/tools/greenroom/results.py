"""What a tool returns: content blocks for the model, and for the application what they are about."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool, ToolOutput
from llama_index.core.workflow import Event

from greenroom import Execution, FileMissing, FileRefused, InvalidRequest, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterable

# A provider that gets any other format refuses the message, and with it the rest of the conversation.
_SEEN_BY_MODELS = frozenset(("image/gif", "image/jpeg", "image/png", "image/webp"))


class CodeOutput(Event):
    """On the workflow's event stream: a piece of text, as soon as running code has written it."""

    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Download:
    """A file that a model has handed over."""

    file: RemoteFile
    data: bytes = field(repr=False)

    @property
    def mime(self) -> str:
        """The type that its name suggests; the content may be anything."""
        return mimetypes.guess_type(self.file.name)[0] or "application/octet-stream"


Artifact: TypeAlias = Execution | Download | RemoteFile | list[RemoteFile] | None


class ModelBlocks(list[TextBlock | ImageBlock]):
    """What a model reads and sees, which brings the application what it is about.

    It is the `raw_output` of a `ToolOutput`. A workflow's state that is serialized keeps the blocks alone.
    """

    artifact: Artifact
    """Of `run_python` the `Execution`, of `download_file` the `Download`, of others the `RemoteFile`s."""

    def __init__(self, text: str, artifact: Artifact = None, images: Iterable[ImageBlock] = ()) -> None:
        super().__init__([TextBlock(text=text), *images])
        self.artifact = artifact


def image_blocks(execution: Execution) -> Iterable[ImageBlock]:
    """The figures of an execution, in the formats that models take."""
    return (
        ImageBlock(image=image.data, image_mimetype=image.mime)
        for image in execution.images
        if image.mime in _SEEN_BY_MODELS
    )


def execution_of(result: object) -> Execution | None:
    """The execution behind a `ToolCallResult` or its output; `None` for every other event and tool."""
    output = getattr(result, "tool_output", result)
    artifact = getattr(getattr(output, "raw_output", None), "artifact", None)
    return artifact if isinstance(artifact, Execution) else None


class GreenroomTool(FunctionTool):
    """A `FunctionTool` whose output says `is_error` where the model may try again with other arguments.

    A function that raises would say so, too, but lose what the code printed and drew before it failed.
    """

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        try:
            return _with_status(super().call(*args, **self._with_context(kwargs)))
        except (InvalidRequest, FileMissing, FileRefused) as error:
            return self._refusal(error, kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        try:
            return _with_status(await super().acall(*args, **self._with_context(kwargs)))
        except (InvalidRequest, FileMissing, FileRefused) as error:
            return self._refusal(error, kwargs)

    def _with_context(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        # Agents pass theirs. For other callers LlamaIndex would refuse, though not every tool needs one.
        return kwargs if self.ctx_param_name is None else {self.ctx_param_name: None, **kwargs}

    def _refusal(self, error: Exception, kwargs: dict[str, Any]) -> ToolOutput:
        return ToolOutput(
            content=str(error),
            tool_name=self.metadata.get_name(),
            raw_input={name: value for name, value in kwargs.items() if name != self.ctx_param_name},
            raw_output=str(error),
            is_error=True,
            exception=error,
        )


def _with_status(output: ToolOutput) -> ToolOutput:
    if (execution := execution_of(output)) is not None:
        output.is_error = not execution.succeeded
    return output
