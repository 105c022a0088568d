"""The results of tools: contents for the model, with executions and downloads behind them for the application.

The application finds executions and downloads in the messages of a response or of a session's history, and in the
results that a middleware sees, while they are in memory: a serialized message keeps only its texts and pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from agent_framework import Content

from greenroom import Execution
from greenroom.adapters import Artifact, Download, ToolAnswer


class HasContents(Protocol):
    """A message, or an update of a streamed response."""

    @property
    def contents(self) -> Sequence[Content]:
        """Its contents."""
        ...


def contents_of(answer: ToolAnswer[Artifact]) -> list[Content]:
    """Return the contents of a function's result: the text, then the figures."""
    # The framework neither serializes nor sends raw representations.
    text = Content.from_text(answer.text, raw_representation=answer.artifact)
    return [text, *(Content.from_data(figure.data, figure.mime) for figure in answer.figures)]


def execution_of(result: Content | Iterable[Content]) -> Execution | None:
    """Return the execution behind a function's result, or `None` for any other result."""
    return next(iter(executions([result] if isinstance(result, Content) else result)), None)


def executions(found: Iterable[HasContents | Content]) -> list[Execution]:
    """Return the executions whose results are in these messages, updates or contents, in order."""
    return [artifact for artifact in _artifacts(found) if isinstance(artifact, Execution)]


def downloads(found: Iterable[HasContents | Content]) -> list[Download]:
    """Return the files that the model sent to the user in these messages, updates or contents, in order."""
    return [artifact for artifact in _artifacts(found) if isinstance(artifact, Download)]


def _artifacts(found: Iterable[HasContents | Content]) -> Iterator[object]:
    for each in found:
        if isinstance(each, Content):
            yield each.raw_representation
            yield from _artifacts(each.items or ())
        else:
            yield from _artifacts(each.contents)
