"""The results of kernel functions: text for the model, with the execution or download for the application.

Filters find them in `FunctionResult.value`; an agent's `on_intermediate_message` and its thread have them in
`FunctionResultContent.result`. A serialized chat history keeps only the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from semantic_kernel.contents import ChatMessageContent, FunctionResultContent, ImageContent
from semantic_kernel.functions import FunctionResult

from greenroom import Execution
from greenroom.adapters import Artifact, Download, ToolAnswer, figures_for_models


class Run:
    """A run of an agent without a conversation; its session is deleted when nothing refers to it any more."""

    __slots__ = ("__weakref__",)

    def __deepcopy__(self, _: object) -> Self:
        return self  # the kernel copies results


class ResultText(str):
    """The text that the model reads about a call."""

    __slots__ = ("run",)

    run: Run | None
    """The run that made the call, if nothing else identifies it."""

    def __new__(cls, content: str) -> Self:
        """Return the text."""
        text = super().__new__(cls, content)
        text.run = None
        return text


class ExecutionText(ResultText):
    """The text that the model reads about an execution."""

    __slots__ = ("execution",)

    execution: Execution
    """The whole execution, with its figures as bytes."""

    @classmethod
    def of(cls, content: str, execution: Execution) -> Self:
        """Return the text with its execution."""
        text = cls(content)
        text.execution = execution
        return text


class DownloadText(ResultText):
    """The text that the model reads about a file that it sent to the user."""

    __slots__ = ("download",)

    download: Download
    """The file: its `data`, its `mime` type, and where it was in the session."""

    @classmethod
    def of(cls, content: str, download: Download) -> Self:
        """Return the text with its file."""
        text = cls(content)
        text.download = download
        return text


def text_of(answer: ToolAnswer[Artifact]) -> ResultText:
    """Return the text of an answer, with its execution or download."""
    match answer.artifact:
        case Execution() as execution:
            return ExecutionText.of(answer.text, execution)
        case Download() as download:
            return DownloadText.of(answer.text, download)
        case _:
            return ResultText(answer.text)


def execution_of(result: object) -> Execution | None:
    """Return the execution behind a `FunctionResult`, its content in a message, or its text; `None` for any other."""
    match result:
        case FunctionResult():
            value: object = result.value
        case FunctionResultContent():
            value = result.result
        case _:
            value = result
    return value.execution if isinstance(value, ExecutionText) else None


def executions(messages: Iterable[ChatMessageContent]) -> list[Execution]:
    """Return the executions whose results are in these messages, in order."""
    items = [item for message in messages for item in message.items if isinstance(item, FunctionResultContent)]
    return [execution for item in items if (execution := execution_of(item)) is not None]


def image_contents(execution: Execution) -> list[ImageContent]:
    """Return the figures of an execution for a message to a model, as function results cannot carry them.

    Formats that models do not accept, such as SVG, are left out; `execution.images` has them all.
    """
    return [
        ImageContent(data=image.data, data_format="base64", mime_type=image.mime)
        for image in figures_for_models(execution)
    ]
