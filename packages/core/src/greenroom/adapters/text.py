"""What a language model reads of an execution: designed once, here, for every adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from greenroom.errors import InvalidRequest
from greenroom.models import Execution

_HEADLINES = {
    "failed": "The code failed.",
    "cancelled": "The code was cancelled.",
}
_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
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


_LEAST_BUDGET = 200


def check_budget(budget: int) -> int:
    """Return the most characters that a model is to read of one result.

    Raises:
        InvalidRequest: they are too few to say what happened.
    """
    if budget < _LEAST_BUDGET:
        raise InvalidRequest(f"The budget {budget!r} is not valid: it takes {_LEAST_BUDGET} characters or more.")
    return budget


def shorten(text: str, limit: int) -> str:
    """Cut `text` in the middle so that it fits in `limit` characters, and say how much is missing."""
    if len(text) <= limit:
        return text
    note = f"\n… [{len(text)} characters left out] …\n"
    keep = max(limit - len(note), 0)
    head = keep * 2 // 3
    tail = keep - head
    note = f"\n… [{len(text) - keep} characters left out] …\n"
    return text[:head] + note + (text[-tail:] if tail else "")


def describe(execution: Execution, budget: int) -> str:
    """See `Execution.text_for_model`."""
    sections = [section for section in _sections(execution) if section[1].strip()]
    if not sections:
        return "The code ran without output."
    # A short part is kept whole and gives what it did not need to the longer ones.
    room = budget - sum(len(title) + 2 for title, _ in sections)
    texts: dict[str, str] = {}
    for left, (title, body) in zip(
        range(len(sections), 0, -1), sorted(sections, key=lambda section: len(section[1])), strict=True
    ):
        texts[title] = shorten(body.strip("\n"), max(room // left, 0))
        room -= len(texts[title])
    return "\n\n".join(f"{title}\n{texts[title]}".strip() for title, _ in sections)[:budget]


def _sections(execution: Execution) -> Iterator[tuple[str, str]]:
    """Pairs of a title, unique, and a body."""
    if not execution.succeeded:
        yield "", _headline(execution)
    yield "stdout:", execution.stdout
    yield "stderr:", execution.stderr
    if execution.result is not None:
        yield "result:", execution.result
    for number, output in enumerate(execution.outputs, 1):
        if not output.is_result and not output.image():
            yield f"display {number}:", output.text
    if (error := execution.error) is not None:
        yield "error:", error.summary or error.traceback or f"{error.name}: {error.value}"
        yield "hint:", _hint(execution)
    if images := execution.images:
        yield "figures:", ", ".join(image.name for image in images)
    if execution.files:
        yield "files written:", "\n".join(f"{file.path} ({file.size} bytes)" for file in execution.files)
    if execution.truncated:
        yield "note:", f"{execution.truncated} bytes of output were over the limit and are lost; print less."


def _headline(execution: Execution) -> str:
    if execution.status == "timed_out" and execution.error is not None:
        headline = execution.error.value
    else:
        headline = _HEADLINES.get(execution.status, "")
    return headline + (" All variables are lost; files in /mnt/data are kept." if execution.state_lost else "")


def _hint(execution: Execution) -> str:
    assert execution.error is not None  # noqa: S101
    if missing := _MISSING_MODULE.search(execution.error.value):
        return f"The package {missing[1]!r} is not installed here. Use another one."
    if execution.error.name in _NETWORK_ERRORS:
        return "This sandbox may have no network. Work with the files in /mnt/data."
    return ""
