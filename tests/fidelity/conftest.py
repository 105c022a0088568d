"""One cell in two places: the original (nbclient and ipykernel) and a session, told in the same words."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import greenroom
import nbformat
import pytest
from greenroom import Execution, Output, Session, StreamText
from nbclient import NotebookClient

PNG = "image/png"


@dataclass
class Passage:
    """What was written up to a rich output, or to the end."""

    stdout: str = ""
    stderr: str = ""
    shown: dict[str, Any] | None = None
    """The mime bundle; with its metadata under `metadata`."""


@dataclass
class Story:
    """What came of a cell, in order. Between two rich outputs, stdout and stderr have no order in either place."""

    passages: list[Passage] = field(default_factory=lambda: [Passage()])
    result: str | None = None
    error: tuple[str, str, str] | None = None
    """Name, value, traceback."""

    def write(self, stream: str, text: str) -> None:
        passage = self.passages[-1]
        setattr(passage, stream, getattr(passage, stream) + text)

    def show(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.passages[-1].shown = {**data, "metadata": metadata}
        self.passages.append(Passage())


class Jupyter:
    """The original."""

    def __init__(self, directory: Path) -> None:
        self._client = NotebookClient(
            nbformat.v4.new_notebook(),
            allow_errors=True,
            timeout=60,
            resources={"metadata": {"path": str(directory)}},
            on_cell_executed=self._keep_reply,
        )
        self._kernel = self._client.setup_kernel()
        self._reply: dict[str, Any] = {}

    def __enter__(self) -> Jupyter:
        self._kernel.__enter__()
        self._run(
            "type(get_ipython().compile).get_code_name"
            " = __import__('IPython.core.compilerop').core.compilerop.CachingCompiler.get_code_name", False)
        return self

    def __exit__(self, *error: Any) -> None:
        self._kernel.__exit__(*error)

    def _run(self, code, store_history=True):
        cells = self._client.nb.cells
        cells.append(nbformat.v4.new_code_cell(code))
        self._client.execute_cell(cells[-1], len(cells) - 1, store_history=store_history)
        return cells
    def run(self, code: str) -> Story:
        cells = self._run(code)
        story = Story()
        for output in cells[-1].outputs:
            match output.output_type:
                case "stream":
                    story.write(output.name, output.text)
                case "error":
                    if story.error: story.write("stderr", story.error[2]+"\n")
                    story.error = (output.ename, output.evalue, "\n".join(output.traceback))
                case _:
                    story.show(output.data, output.metadata)
                    if output.output_type == "execute_result":
                        story.result = output.data.get("text/plain", "")
        if self._reply["status"] == "error" and story.error is None:
            story.error = (self._reply["ename"], self._reply["evalue"], "\n".join(self._reply["traceback"]))
        return story

    def _keep_reply(self, *, execute_reply: dict[str, Any], **_: object) -> None:
        self._reply = execute_reply["content"]


def run_here(session: Session, code: str):
    story = Story()
    for event in session.stream(code):
        match event:
            case StreamText(stream, text):
                story.write(stream, text)
            case Output(data, metadata):
                story.show(dict(data), dict(metadata))
            case Execution():
                execution = event
    story.result = execution.result
    if e := execution.error:
        story.error = (e.name, e.value, e.traceback)
    return story, execution
