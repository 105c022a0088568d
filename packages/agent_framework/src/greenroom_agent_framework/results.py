"""What the tools return: contents for the model, and behind them what they are about, for the application.

The application finds it in the messages of a response or of a session's history, and in what a middleware sees of a
result, for as long as they are in memory: a serialized message keeps its texts and pictures alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from agent_framework import Content

from greenroom import Execution
from greenroom.adapters import Download, ToolAnswer, figures_for_models


class HasContents(Protocol):
    """A message, or an update of a streamed response."""

    @property
    def contents(self) -> Sequence[Content]:
        """What it consists of."""
        ...


def contents_of(answer: ToolAnswer[Any], *, images: bool) -> list[Content]:
    """The contents of a function's result.

    Args:
        answer: what came of the call.
        images: whether the figures of an execution follow its text.
    """
    # The framework serializes and sends no raw representation.
    text = Content.from_text(answer.text, raw_representation=answer.artifact)
    if not images or not isinstance(answer.artifact, Execution):
        return [text]
    figures = figures_for_models(answer.artifact)
    return [text, *(Content.from_data(figure.data, figure.mime) for figure in figures)]


def executions(found: Iterable[HasContents | Content]) -> list[Execution]:
    """The executions whose results are in these messages, updates or contents, in order."""
    return [artifact for artifact in _artifacts(found) if isinstance(artifact, Execution)]


def downloads(found: Iterable[HasContents | Content]) -> list[Download]:
    """The files that the model has handed to the user in these messages, updates or contents, in order."""
    return [artifact for artifact in _artifacts(found) if isinstance(artifact, Download)]


def _artifacts(found: Iterable[HasContents | Content]) -> Iterator[object]:
    for each in found:
        if isinstance(each, Content):
            yield each.raw_representation
            yield from _artifacts(each.items or ())
        else:
            yield from _artifacts(each.contents)
