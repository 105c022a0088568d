"""A document of the corpus in Jupyter, twice, and in a session."""

from __future__ import annotations

import enum
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fidelity.conftest import Jupyter, Story, run_in

from greenroom import SessionPool
from greenroom.models import DATA_DIR

from .sources import Document


class Outcome(enum.Enum):
    EQUAL = "equal"
    TRACEBACK = "traceback text only"
    DIFFERENT = "different"
    UNSTABLE = "not stable in Jupyter"


@dataclass(frozen=True)
class Comparison:
    """What came of a cell."""

    document: Document
    number: int
    """From 1."""
    outcome: Outcome
    jupyter: dict[str, Any]
    session: dict[str, Any]


def compare(document: Document, pool: SessionPool) -> Iterator[Comparison]:
    first, second = _in_jupyter(document), _in_jupyter(document)
    ours = _in_session(document, pool)
    for number, (original, again, story) in enumerate(zip(first, second, ours, strict=True), 1):
        outcome = _outcome(original, again, story)
        yield Comparison(document, number, outcome, original[1], story[1])


def _outcome(original: _Told, again: _Told, ours: _Told) -> Outcome:
    if original[0] == ours[0]:
        return Outcome.EQUAL
    if original[1] == ours[1]:
        return Outcome.TRACEBACK
    return Outcome.DIFFERENT if original[1] == again[1] else Outcome.UNSTABLE


_Told = tuple[dict[str, Any], dict[str, Any]]  # with tracebacks, and without


def _told(story: Story, directory: str) -> _Told:
    def told(story: Story) -> dict[str, Any]:
        return json.loads(json.dumps(story.in_all()).replace(directory, DATA_DIR))

    return told(story), told(story.without_frames())


def _in_jupyter(document: Document) -> list[_Told]:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in document.files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with Jupyter(Path(directory)) as jupyter:
            return [_told(jupyter.run(cell), directory) for cell in document.cells]


def _in_session(document: Document, pool: SessionPool) -> list[_Told]:
    with pool.session() as session:
        for name, content in document.files.items():
            session.upload(content, name)
        return [_told(run_in(session, cell)[1], DATA_DIR) for cell in document.cells]
