"""No text that a model, a sandbox, an endpoint or a caller makes up stops the process that reads it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from rich.console import Console

import greenroom
from greenroom import Execution, ExecutionError, GreenroomError, Output, Place, RemoteFile, StreamText, notebook
from greenroom.adapters import Download, conversation_identifier, strip_fence
from greenroom.azure.codecs import results
from greenroom.cli import image
from greenroom.config.values import parse_size
from greenroom.local import PoolSettings
from greenroom.models import Event
from greenroom.notebook import CellRun, run_notebook
from greenroom.sessions.rules import check_code, check_identifier, check_path
from greenroom.testing import ScriptedBackend, scripted_pool
from greenroom.untrusted import brief, printable, without_controls

_notebook: Any = notebook
_image: Any = image

SIZE = 1_000_000
SECONDS = 10
"""A generous limit: all take less than a tenth of it, and what is quadratic takes hours."""


def read_by_a_model(text: str) -> None:
    error = ExecutionError("ModuleNotFoundError", text, text)
    shown = (Output({"text/plain": text, "image/png": text, text: text}),)
    files = (RemoteFile(f"/mnt/data/{text}", 1, datetime(2026, 11, 1, tzinfo=UTC)),)
    Execution("1", "failed", text, text, text, shown, error, files=files).text_for_model()
    Execution("1", "timed_out", error=ExecutionError("ImportError", text, "", text)).text_for_model()
    repr(shown)


def downloaded(text: str) -> None:
    assert Download(RemoteFile(f"/mnt/data/{text}", 1, datetime(2026, 11, 1, tzinfo=UTC)), b"").mime


def decoded_from_azure(text: str) -> None:
    for value in (text, {"type": "image", "format": text, "base64_data": text}):
        fields: Any = {"stdout": text, "stderr": text, "executionResult": value}
        results.decode_result("1", "Failed", fields, value_name="executionResult", timeout=5)


def shown_by_a_build(text: str) -> None:
    with _image._BuildDisplay(Console(quiet=True), 3) as display:
        display.show(text)
        display.show(f"Downloading {text} (1 kB)")


READERS: dict[str, Callable[[str], object]] = {
    "a fence": strip_fence,
    "a model": read_by_a_model,
    "code": check_code,
    "an identifier": check_identifier,
    "a path": check_path,
    "a conversation": lambda text: conversation_identifier("langchain", text),
    "a size": lambda text: parse_size(text, "memory"),
    "a URL": lambda text: greenroom.connect(f"docker:?{text}"),
    "modules": lambda text: PoolSettings.parse({"preload": text}),
    "a terminal": without_controls,
    "a name": printable,
    "an argument": brief,
    "a download": downloaded,
    "an endpoint": decoded_from_azure,
    "a notebook": lambda text: _notebook._bundle({text: [text], f"application/{text}": [text]}),
    "an image's build": shown_by_a_build,
}

# What begins as some pattern does, over and over, and ends as it must not.
PIECES = [
    " ", "\t", "\n", "\r", "\r\n", " \n", "x\r", "0", "1", "a", "A", "_", ".", "=", "+", "/", "\\", "'", '"', "(", "é",
    "```", "```\n", "``` \n", "python", "\x1b", "\x1b[", "\x1b[0", "\x1b]", "\x1bP", "\x1b(", "\x9b",
    "data:", "data:a/", "data:a/b;base64,", "data:a/b;base64,A",
    "ImportError: ", "ImportError: \n", "ImportError: Missing optional dependency '", "`Import ", "`Import a",
    "ModuleNotFoundError: No module named '", "ERROR: No matching distribution found for ", "Could not resolve hos",
    "File ", "File /site-packages", "/lib/python", "Traceback (most recent call last)", "Cell In", "-" * 20 + "\n",
    "Error", "a.", "Downloading a-1", "Downloading a-1 (", "(1", "((", "a=1&", "a=", "[", "{", "[{", "application/+",
]  # fmt: skip
BEGINNINGS = ["", "```", "```\n", "\x1b[", "data:a/b;base64,", "ImportError: ", "Downloading a-1", "'", "-"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("reader", READERS)
def test_a_megabyte_of_any_content_is_read_in_seconds(reader: str) -> None:
    slow: list[tuple[str, str, float]] = []
    longest = dict.fromkeys(PIECES, 0.0)
    for beginning in BEGINNINGS:
        # A small one first finds what is quadratic without waiting for hours.
        for piece in PIECES:
            text = beginning + piece * (20_000 // len(piece)) + "\0!"
            took = seconds_of(READERS[reader], text)
            longest[piece] = max(longest[piece], took)
            if took > 0.5:
                slow.append((beginning, piece, took))
    assert not slow
    for piece in sorted(PIECES, key=longest.__getitem__)[-6:]:  # the costliest
        text = piece * (SIZE // len(piece)) + "\0!"
        assert seconds_of(READERS[reader], text) < SECONDS, piece


class Chatty(ScriptedBackend):
    """Yields many events of one execution, no faster than they are consumed."""

    def __init__(self, events: Iterable[Event], execution: Execution) -> None:
        super().__init__()
        self.events = events
        self.answer = execution

    async def execute(self, *arguments: Any, **options: Any) -> Execution:
        for number, event in enumerate(self.events):
            options["on_event"](event)
            if number % 1_000 == 0:
                await asyncio.sleep(0.01)
        return await super().execute(*arguments, **{**options, "on_event": None})


def notebook_of(
    events: Iterable[Event], execution: Execution, on_cell: Callable[[CellRun], None] | None = None
) -> list[dict[str, Any]]:
    """The outputs of a notebook's one cell."""
    cell: dict[str, Any] = {"cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}
    source: dict[str, Any] = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    with scripted_pool(Chatty(events, execution)) as pool:
        made = run_notebook(source, pool.session(), idle_timeout=SECONDS, on_cell=on_cell)  # which makes it stream
    return cast("list[dict[str, Any]]", made["cells"][0]["outputs"])


def test_a_cell_that_alternates_between_streams_takes_no_extra_time() -> None:
    size = 2_000  # of a piece
    events = [StreamText("stdout", "o" * size), StreamText("stderr", "e" * size)] * 8_000
    began = time.process_time()
    places = tuple(Place(size * number, size * number) for number in range(8_000))
    outputs = notebook_of(events, Execution("1", "succeeded", "o" * size * 8_000, "e" * size * 8_000, places=places))
    assert [len(output["text"]) for output in outputs] == [size * 8_000] * 2
    assert time.process_time() - began < SECONDS


@pytest.mark.slow
def test_an_endlessly_updated_display_keeps_only_its_latest_content() -> None:
    first, last = Output({"text/plain": "the first"}), Output({"text/plain": "the last"})
    kept: list[int] = []

    def events() -> Iterator[Event]:
        yield first
        yield StreamText("stdout", "between")
        for number in range(100_000):
            yield Output({"text/plain": f"{number}"})
        yield last

    def count(_run: CellRun) -> None:
        kept.append(sum(type(each) is Output for each in gc.get_objects()))

    outputs = notebook_of(events(), Execution("1", "succeeded", "between", outputs=(first, last)), count)
    assert sorted(output.get("text") or output["data"]["text/plain"] for output in outputs) == [
        "between",
        "the first",
        "the last",
    ]
    assert kept[0] < 50_000


def seconds_of(reader: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    with suppress(GreenroomError):
        reader(text)
    return time.process_time() - began
