"""A document of the corpus in Jupyter and in a session."""

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

# Runs before each document, so that what it draws at random can be compared.
_SEED = "__import__('random').seed(1); __import__('numpy').random.seed(1)"


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
    jupyter, session = _in_jupyter(document), _in_session(document, pool)
    outcomes = [_outcome(*pair) for pair in zip(jupyter, session, strict=True)]
    if Outcome.DIFFERENT in outcomes:
        for number, (one, again) in enumerate(zip(jupyter, _in_jupyter(document), strict=True)):
            if outcomes[number] is Outcome.DIFFERENT and one[1] != again[1]:
                outcomes[number] = Outcome.UNSTABLE
    for number, (outcome, one, ours) in enumerate(zip(outcomes, jupyter, session, strict=True), 1):
        yield Comparison(document, number, outcome, one[1], ours[1])


def _outcome(jupyter: _Told, session: _Told) -> Outcome:
    if jupyter[0] == session[0]:
        return Outcome.EQUAL
    return Outcome.TRACEBACK if jupyter[1] == session[1] else Outcome.DIFFERENT


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
            jupyter.run(_SEED)
            return [_told(jupyter.run(cell), directory) for cell in document.cells]


def _in_session(document: Document, pool: SessionPool) -> list[_Told]:
    with pool.session() as session:
        for name, content in document.files.items():
            session.upload(content, name)
        session.execute(_SEED).raise_for_error()
        return [_told(run_in(session, cell)[1], DATA_DIR) for cell in document.cells]
