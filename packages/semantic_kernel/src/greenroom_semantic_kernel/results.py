"""What kernel functions return: text for the model, and for the application what the text is about.

Filters find it in `FunctionResult.value`; an agent's `on_intermediate_message` and its thread have it in
`FunctionResultContent.result`. A chat history that is serialized keeps the text alone.
"""

from __future__ import annotations

from typing import Any, Self

from semantic_kernel.contents import ChatMessageContent, FunctionResultContent, ImageContent

from greenroom import Execution
from greenroom.adapters import Download, ToolAnswer, figures_for_models


class ExecutionText(str):
    """What the model reads of an execution."""

    __slots__ = ("execution",)

    execution: Execution
    """The whole execution, with its figures as bytes."""

    @classmethod
    def of(cls, answer: ToolAnswer[Execution]) -> Self:
        """The text of an answer that brings its execution."""
        text = cls(answer.text)
        text.execution = answer.artifact
        return text


class DownloadText(str):
    """What the model reads of a file that it has handed to the user."""

    __slots__ = ("download",)

    download: Download
    """The file: its `data`, its `mime` type, and where it was in the session."""

    @classmethod
    def of(cls, answer: ToolAnswer[Download]) -> Self:
        """The text of an answer that brings its file."""
        text = cls(answer.text)
        text.download = answer.artifact
        return text


def text_of(answer: ToolAnswer[Any]) -> str:
    """The text of an answer, with what it brings the application."""
    match answer.artifact:
        case Execution():
            return ExecutionText.of(answer)
        case Download():
            return DownloadText.of(answer)
        case _:
            return answer.text


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
        for image in figures_for_models(execution)
    ]
