"""What kernel functions return: text for the model, and for the application what the text is about.

Filters find it in `FunctionResult.value`; an agent's `on_intermediate_message` and its thread have it in
`FunctionResultContent.result`. A chat history that is serialized keeps the text alone.
"""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Self

from semantic_kernel.contents import ChatMessageContent, FunctionResultContent, ImageContent

if TYPE_CHECKING:
    from greenroom import Execution, RemoteFile

# A vector image is for the application: vision models take these.
_SEEN_BY_MODELS = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))


class ExecutionText(str):
    """What the model reads of an execution."""

    __slots__ = ("execution",)

    execution: Execution
    """The whole execution, with its figures as bytes."""

    @classmethod
    def of(cls, execution: Execution, budget: int) -> Self:
        """The text of an execution, of at most `budget` characters."""
        text = cls(execution.text_for_model(budget))
        text.execution = execution
        return text


class DownloadText(str):
    """What the model reads of a file that it has handed to the user."""

    __slots__ = ("data", "file")

    data: bytes
    """The file's content."""
    file: RemoteFile
    """Where it was in the session."""

    @classmethod
    def of(cls, file: RemoteFile, data: bytes) -> Self:
        """The text of a file and its content."""
        text = cls(f"The user has {file.path} ({len(data)} bytes).")
        text.file, text.data = file, data
        return text

    @property
    def mime(self) -> str:
        """The type that the file's name suggests; its content may be anything."""
        return mimetypes.guess_type(self.file.name)[0] or "application/octet-stream"


def executions(*messages: ChatMessageContent) -> list[Execution]:
    """The executions whose results are in these messages, in order."""
    items = [item for message in messages for item in message.items]
    results = [item.result for item in items if isinstance(item, FunctionResultContent)]
    return [result.execution for result in results if isinstance(result, ExecutionText)]


def image_contents(execution: Execution) -> list[ImageContent]:
    """The figures of an execution for a message to a model, as results of functions cannot carry them.

    Formats that models do not take, such as SVG, are left out; `execution.images` has them all.
    """
    return [
        ImageContent(data=image.data, data_format="base64", mime_type=image.mime)
        for image in execution.images
        if image.mime in _SEEN_BY_MODELS
    ]
