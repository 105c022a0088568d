"""The text that a language model reads about an execution, the same in every adapter."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief, printable, without_controls

if TYPE_CHECKING:
    from greenroom.models import Execution

_LEAST_BUDGET = 200
_HEADLINE = 130
"""The maximum length of a headline, in characters."""
_LEAST_PART = 45
"""Enough characters for the note about omitted text, and a few more."""

# The sections to drop, in this order, when the budget is too small for all. The headline and the error stay.
_FIRST_TO_GO = ("note:", "displayed:", "stderr:", "files written:", "figures:", "hint:", "stdout:", "result:")

_MISSING_PACKAGE = re.compile(
    r"""
    ^ModuleNotFoundError:[ ]No[ ]module[ ]named[ ]'(?P<module>[\w.]+)'
    | ^ImportError:[ ].*?Missing[ ]optional[ ]dependency[ ]'(?P<optional>[\w.-]+)'
    | `Import[ ](?P<import>[\w.]+)`[ ]failed
    | ^ERROR:[ ]No[ ]matching[ ]distribution[ ]found[ ]for[ ](?P<distribution>[\w.-]+)
    """,
    re.VERBOSE | re.MULTILINE,
)
_NETWORK_ERRORS = frozenset(
    (
        "ConnectionError",
        "ConnectionRefusedError",
        "ConnectError",
        "ConnectTimeout",
        "gaierror",
        "NameResolutionError",
        "URLError",
    )
)
_NO_NETWORK = re.compile(
    r"Temporary failure in name resolution|Name or service not known|Could not resolve host|Network is unreachable"
)

_DATA_URI = re.compile(r"(data:[\w.+-]+/[\w.+-]+;base64,)[A-Za-z0-9+/=]{80,}")
_FOREIGN_FRAME = re.compile(r"File (?:<frozen |\S*(?:/site-packages/|/lib/python3))")


def check_budget(budget: int) -> int:
    """Return the budget: the maximum number of characters that a model reads of one result.

    Raises:
        InvalidRequest: it is not a whole number, or is too small to describe an execution.
    """
    try:
        enough = operator.index(budget) >= _LEAST_BUDGET
    except TypeError:
        enough = False
    if not enough:
        raise InvalidRequest(
            f"The budget must be a whole number of at least {_LEAST_BUDGET} characters, not {brief(budget)}."
        )
    return budget


def shorten(text: str, limit: int) -> str:
    """Cut the middle of `text` so that it fits in `limit` characters, with a note of how much is missing."""
    if len(text) <= limit:
        return text
    note = f"\n… [{len(text)} characters left out] …\n"
    keep = max(limit - len(note), 0)
    head = keep * 2 // 3
    tail = keep - head
    note = f"\n… [{len(text) - keep} characters left out] …\n"
    return text[:head] + note + (text[-tail:] if tail else "")


def describe(execution: Execution, budget: int) -> str:
    """Return the text of `Execution.text_for_model`."""
    check_budget(budget)
    headline = "" if execution.succeeded else shorten(_headline(execution), _HEADLINE) + "\n\n"
    budget -= len(headline)
    sections = {title: body for title, body in _sections(execution) if body}
    if not headline and not sections:
        return "The code ran without output."
    for title in _FIRST_TO_GO:
        if _size(sections, _LEAST_PART) <= budget:
            break
        sections.pop(title, None)
    # A short section is kept whole and leaves the rest of its share to longer ones.
    room = budget - _size(sections, 0)
    by_length = sorted(sections, key=lambda title: len(sections[title]))
    for left, title in zip(range(len(sections), 0, -1), by_length, strict=True):
        sections[title] = shorten(sections[title], room // left)
        room -= len(sections[title])
    return (headline + "\n\n".join(f"{title}\n{body}" for title, body in sections.items())).strip()


def _size(sections: dict[str, str], most: int) -> int:
    """The number of characters of all sections if each body has at most `most`."""
    return sum(len(title) + 3 + min(len(body), most) for title, body in sections.items())


def _sections(execution: Execution) -> Iterator[tuple[str, str]]:
    """Pairs of a unique title and a body, in reading order."""
    yield "stdout:", _plain(execution.stdout)
    yield "stderr:", _plain(execution.stderr)
    yield "result:", _plain(execution.result or "")
    figures: list[str] = []
    shown: list[str] = []
    for output in execution.outputs:
        if (image := output.image(f"figure-{len(figures) + 1}")) is not None:  # each is decoded once
            figures.append(image.name)
        elif not output.is_result and (text := _plain(output.text)):
            shown.append(text)
    yield "displayed:", "\n\n".join(shown)
    yield "error:", _plain(_error(execution))
    yield "hint:", " ".join(_hints(execution))
    yield "figures:", ", ".join(figures)
    yield "files written:", "\n".join(f"{printable(file.path)} ({file.size} bytes)" for file in execution.files)
    if execution.truncated:
        yield "note:", f"{execution.truncated} bytes of output exceeded the limit and were dropped; print less."


def _headline(execution: Execution) -> str:
    match execution.status:
        case "timed_out" if execution.error is not None and execution.error.value:
            headline = " ".join(without_controls(execution.error.value).split())
        case "timed_out":
            headline = "The code exceeded its time limit."
        case "cancelled":
            headline = "The code was cancelled."
        case _:
            headline = "The code failed."
    return headline + (" All variables are lost; files in /mnt/data are kept." if execution.state_lost else "")


def _error(execution: Execution) -> str:
    error = execution.error
    if error is None:
        return ""
    if error.summary or error.traceback:
        return error.summary or _own_frames(error.traceback)
    if error.name == "CancelledError" or (execution.status == "timed_out" and error.value):
        return ""  # already in the headline
    return f"{error.name}: {error.value}"


def _own_frames(traceback: str) -> str:
    """IPython's traceback without frames of libraries, for engines that do not send a summary."""
    _, _, frames = traceback.partition("(most recent call last)\n")
    parts = (frames or traceback).split("\n\n")
    return "\n\n".join(part for part in parts if not _FOREIGN_FRAME.match(part))


def _hints(execution: Execution) -> Iterator[str]:
    error = execution.error
    # A failed command reports the problem in its output, and the code around it succeeds.
    reports = (f"{error.name}: {error.value}" if error else "", execution.stderr, execution.stdout)
    for missing in filter(None, map(_MISSING_PACKAGE.search, reports)):
        yield f"The package {missing[missing.lastgroup or 0]!r} is not installed. Use another one."
        break
    if (error and error.name in _NETWORK_ERRORS) or any(map(_NO_NETWORK.search, reports)):
        yield "This sandbox may not have network access. Work with the files in /mnt/data."


def _plain(text: str) -> str:
    """The text as a terminal would show it: the last state of a progress bar, without colours; and without base64."""
    text = without_controls(text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    text = _DATA_URI.sub(lambda uri: f"{uri[1]}… [{len(uri[0]) - len(uri[1])} characters left out]", text)
    return text.strip("\n") if text.strip() else ""
