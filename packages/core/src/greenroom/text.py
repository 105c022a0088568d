"""The text that a language model reads about an execution, the same in every adapter."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from greenroom.errors import InvalidRequest
from greenroom.rendering.displays import is_artists, text_of_bundle
from greenroom.rendering.files import list_of_files
from greenroom.rendering.hints import hints
from greenroom.rendering.terminal import folded, plain
from greenroom.untrusted import brief, one_line, visible

if TYPE_CHECKING:
    from greenroom.models import Execution, ExecutionError, RestartCause

_NOTHING = "The code ran without output."
_NOTHING_OF_COMMAND = "The command succeeded, with exit code 0 and without output."
_NO_TEXT = "The code ran; its output has no text form."
_LEAST_BUDGET = 200
_HEADLINE = 130
"""The maximum length of a headline, in characters, for a small budget."""
_LEAST_PART = 45
"""Enough characters for the note about omitted text, and a few more."""

# The sections to drop, in this order, when the budget is too small for all. The headline and the error stay.
_FIRST_TO_GO = ("note:", "displayed:", "stderr:", "files written:", "figures:", "hint:", "stdout:", "result:")

_FOREIGN_FRAME = re.compile(r"File (?:<frozen |\S*(?:/site-packages/|/lib/python3))")

_TITLE = re.compile(rf"^(?=(?:{'|'.join(('error:', *_FIRST_TO_GO))})[ \t]*$)", re.MULTILINE)
_LONGEST_OWN_LINE = 500
"""Characters of the line with an error's name and value that are kept whatever else is left out."""
_MOST_NOT_CARRIED = 20
_LONGEST_NAME = 100
_LONGEST_REASON = 150
_MOST_SHOWN = 1_000_000
"""Characters of rich outputs after which further ones are only counted."""


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
    headline = _headline(execution)
    if headline:
        headline = shorten(headline, max(_HEADLINE, budget // 20)) + "\n\n"
    budget -= len(headline)
    sections = {title: _TITLE.sub(" ", body) for title, body in _sections(execution) if body}
    if not headline and not sections:
        if execution.exit_code is not None:
            return _NOTHING_OF_COMMAND
        return _NO_TEXT if execution.outputs or execution.updates else _NOTHING
    own_line = _own_line(execution.error, sections.get("error:", ""))
    least = dict.fromkeys(sections, _LEAST_PART) | {"error:": min(len(own_line), budget - _size({"error:": ""}, {}))}
    for title in _FIRST_TO_GO:
        if _size(sections, least) <= budget:
            break
        sections.pop(title, None)
    # A short section is kept whole and leaves the rest of its share to longer ones.
    room = budget - _size(sections, {})
    by_length = sorted(sections, key=lambda title: len(sections[title]))
    for left, title in zip(range(len(sections), 0, -1), by_length, strict=True):
        share = room // left
        if title == "error:":
            sections[title] = _shorten_error(sections[title], own_line, max(share, least[title]))
        else:
            if "error:" in by_length[-left:]:
                share = min(share, (room - least["error:"]) // (left - 1))
            sections[title] = _shorten_section(sections[title], share)
        room -= len(sections[title])
    return (headline + "\n\n".join(f"{title}\n{body}" for title, body in sections.items())).strip()


def _size(sections: dict[str, str], most: dict[str, int]) -> int:
    """The number of characters of all sections if each body has at most as many as given."""
    return sum(len(title) + 3 + min(len(body), most.get(title, 0)) for title, body in sections.items())


def _shorten_section(body: str, limit: int) -> str:
    """Shorten a body so that no cut makes a title of a part of a line."""
    return body if len(body) <= limit else _TITLE.sub(" ", shorten(body, max(limit - 2, 0)))


def _shorten_error(body: str, own_line: str, limit: int) -> str:
    short = _shorten_section(body, limit)
    if short == body or own_line in short:
        return short
    room = limit - len(own_line) - 1
    return f"{_shorten_section(body, room)}\n{own_line}" if room > _LEAST_PART else own_line[:limit]


def _own_line(error: ExecutionError | None, body: str) -> str:
    """The line of the error itself, without its frames and causes."""
    if error is None or not body:
        return ""
    own = (line for line in reversed(body.split("\n")) if _is_own_line(line, error.name))
    line = next(own, None) or plain(f"{error.name}: {error.value}").partition("\n")[0]
    return line if len(line) <= _LONGEST_OWN_LINE else f"{line[: _LONGEST_OWN_LINE - 1]}…"


def _is_own_line(line: str, name: str) -> bool:
    kind, _, _ = line.partition(":")  # with the module's name, such as `json.decoder.JSONDecodeError`
    return kind == name or kind.endswith(f".{name}")


def _sections(execution: Execution) -> Iterator[tuple[str, str]]:
    """Pairs of a unique title and a body, in reading order."""
    yield "stdout:", plain(execution.stdout)
    yield "stderr:", plain(execution.stderr)
    figures = [image.name for image in execution.images]
    result, shown = _shown(execution)
    yield "result:", "" if figures and is_artists(result) else result
    yield "displayed:", shown
    yield "error:", _error(execution)
    yield "hint:", " ".join(hints(execution))
    yield "figures:", ", ".join(figures)
    yield "files written:", list_of_files(execution.files, execution.files_omitted)
    notes = [not_carried(execution)] if execution.not_carried else []
    if execution.truncated:
        notes.append(f"{execution.truncated} bytes of output exceeded the limit and were dropped; print less.")
    yield "note:", " ".join(notes)


def _shown(execution: Execution) -> tuple[str, str]:
    """The text of the result, and of all else that was shown."""
    result = execution.result or ""
    texts: list[str] = []
    length = 0
    last = next((output for output in reversed(execution.outputs) if output.is_result), None)
    outputs = (*execution.outputs, *execution.updates)
    for number, output in enumerate(outputs):
        if output.image() is not None:
            continue
        if length > _MOST_SHOWN:
            texts.append(f"… and {len(outputs) - number} more")
            break
        text = text_of_bundle(output.data)
        if output is last:
            result = text
        elif text := plain(text):
            texts.append(text)
            length += len(text)
    return plain(result), folded("\n\n".join(texts))


def not_carried(execution: Execution) -> str:
    """Return the sentence about what a copied session does not have."""
    shown = execution.not_carried[:_MOST_NOT_CARRIED]
    parts = [f"{one_line(part.name)[:_LONGEST_NAME]} ({one_line(part.reason)[:_LONGEST_REASON]})" for part in shown]
    if more := len(execution.not_carried) - len(shown):
        parts.append(f"{more} more")
    return f"This session is a copy of another. These were not copied: {', '.join(parts)}."


def restarted(cause: RestartCause) -> str:
    """Return the sentence about a session that started again."""
    match cause:
        case "cooled_down":
            reason = "cooled down after a period without use"
        case "limit_reached":
            reason = "reached its maximum age"
        case "lost":
            reason = "lost its sandbox"
    return f"The session {reason} and started again: its variables and files are gone."


def loss(execution: Execution) -> str:
    """Return the sentence about what the session lost, if it did."""
    if execution.session_restarted is not None:
        return restarted(execution.session_restarted)
    return "All variables are lost; files in /mnt/data are kept." if execution.state_lost else ""


def _headline(execution: Execution) -> str:
    lost, outcome = loss(execution), _outcome(execution)
    if execution.session_restarted is not None:
        return f"{lost} {outcome}".strip()
    return f"{outcome} {lost}".strip() if outcome else ""


def _outcome(execution: Execution) -> str:
    match execution.status:
        case "succeeded":
            return ""
        case "timed_out" if execution.error is not None and execution.error.value:
            return " ".join(visible(execution.error.value).split())
        case "timed_out":
            return "The code exceeded its time limit."
        case "cancelled":
            return "The code was cancelled."
        case _ if execution.exit_code is not None:
            return f"The command failed with exit code {execution.exit_code}."
        case _:
            return "The code failed."


def _error(execution: Execution) -> str:
    error = execution.error
    if error is None:
        return ""
    if error.summary or error.traceback:
        body = plain(error.summary or _own_frames(error.traceback))
        is_complete = any(_is_own_line(line, error.name) for line in body.split("\n"))
        return body if is_complete or execution.status == "timed_out" else f"{body}\n{_name_and_value(error)}".strip()
    if error.name in {"CancelledError", "ExitCode"} or (execution.status == "timed_out" and error.value):
        return ""  # already in the headline
    return _name_and_value(error)


def _name_and_value(error: ExecutionError) -> str:
    return plain(f"{error.name}: {error.value}" if error.value else error.name)


def _own_frames(traceback: str) -> str:
    """IPython's traceback without frames of libraries, for engines that do not send a summary."""
    _, _, frames = traceback.partition("(most recent call last)\n")
    parts = (frames or traceback).split("\n\n")
    return "\n\n".join(part for part in parts if not _FOREIGN_FRAME.match(part))
