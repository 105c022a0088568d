"""Text as a person at a terminal would see it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from greenroom.untrusted import visible

_DATA_URI = re.compile(r"(data:[\w.+-]+/[\w.+-]+;base64,)[A-Za-z0-9+/=]{80,}")

# Warnings and tracebacks refer to a cell by the file name that IPython invents for it.
_CELL = re.compile(r"<ipython-input-(\d{1,9})-\w{1,40}>(?::(\d{1,9}):)?")

# Cursor movements, and the text between them.
_MOVE = re.compile(r"\n|\r|\x1b\[(?P<up>\d{0,3})A|\x1b\[[0-2]?K|[^\n\r\x1b]+|\x1b")
_LARGEST_SCREEN = 1_000_000
"""The most characters that are processed movement by movement; progress bars write fewer."""

_REPEATED = re.compile(r"^((?:.*\n){1,6}?)\1{3,}", re.MULTILINE)
_LARGEST_FOLDED = 4_000_000
_LONGEST_LOGGED = 1_000
_PART_OF_A_TIME = re.compile(r":\d\d:")  # it begins with a fixed character, so that most texts are skipped quickly
_TIME = re.compile(r"(?:\d{4}[-/]\d\d[-/]\d\d[ T])?\b\d\d:\d\d:\d\d(?:[.,]\d{1,9})?")


def plain(text: str) -> str:
    """Return the final state of progress bars, without colours and base64; repeated lines appear once with a count."""
    text = visible(_as_shown(text))
    text = _DATA_URI.sub(lambda uri: f"{uri[1]}… [{len(uri[0]) - len(uri[1])} characters left out]", text)
    text = _CELL.sub(lambda cell: f"Cell {cell[1]}" + (f", line {cell[2]}:" if cell[2] else ""), text)
    text = folded(text)
    return text.strip("\n") if text.strip() else ""


def folded(text: str) -> str:
    """Return the text with repeated lines, or repeated groups of up to six lines, written once with their count.

    Lines of a log that differ only in their times are considered the same.
    """
    if len(text) > _LARGEST_FOLDED:
        return text
    if _PART_OF_A_TIME.search(text) and _TIME.search(text):
        text = "\n".join(_without_other_times(text.split("\n")))
    ended = text.endswith("\n")
    text = _REPEATED.sub(_counted, text if ended else f"{text}\n")
    return text if ended else text.removesuffix("\n")


def _without_other_times(lines: list[str]) -> Iterator[str]:
    for _, group in groupby(lines, lambda line: _TIME.sub("", line[:_LONGEST_LOGGED], count=2)):
        alike = list(group)
        if len(alike) < 4 or len(set(alike)) == 1 or len(alike[0]) > _LONGEST_LOGGED:
            yield from alike
        elif last := _TIME.search(alike[-1]):
            yield f"{alike[0]} ({len(alike)} times, the last at {last[0]})"


def _counted(repeated: re.Match[str]) -> str:
    once, times = repeated[1], len(repeated[0]) // len(repeated[1])
    lines = once.count("\n")
    if not once.strip():
        return "\n\n"
    if lines == 1:
        return f"{once[:-1]} ({times} times)\n"
    return f"{once}(these {lines} lines {times} times)\n"


def _as_shown(text: str) -> str:
    if "\x1b[" in text and len(text) <= _LARGEST_SCREEN and re.search(r"\x1b\[\d{0,3}A", text):
        text = _screen(text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    if "\b" in text and len(text) <= _LARGEST_SCREEN:
        text = "\n".join(map(_without_overwritten, text.split("\n")))
    return text


def _screen(text: str) -> str:
    """Follow the cursor up and down, as several progress bars move it. Text after a carriage return replaces a line.

    A line is a list of its pieces, so that each is processed once.
    """
    lines: list[list[str]] = [[]]
    row = 0
    returned = False
    for move in _MOVE.finditer(text):
        match move[0]:
            case "\n":
                row += 1
                if row == len(lines):
                    lines.append([])
            case "\r":
                returned = True
                continue
            case piece if move["up"] is not None:
                row = max(row - int(move["up"] or 1), 0)
                continue
            case piece:
                if returned or piece == "\x1b[2K":
                    lines[row].clear()
                if not piece.startswith("\x1b["):
                    lines[row].append(piece)
        returned = False
    return "\n".join("".join(line).rstrip() for line in lines)


def _without_overwritten(line: str) -> str:
    shown: list[str] = []
    for character in line.rstrip("\b"):
        if character != "\b":
            shown.append(character)
        elif shown:
            shown.pop()
    return "".join(shown)
