"""The list of files that code has written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from greenroom.untrusted import printable

if TYPE_CHECKING:
    from greenroom.models import RemoteFile

_FEWEST_ALIKE = 4
_MOST_LINES = 20
_LONGEST_PATH = 300

_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")


def list_of_files(files: Sequence[RemoteFile], omitted: int) -> str:
    """Return a line per file; files whose names differ only by a number share a line, after the others.

    Args:
        files: the reported files.
        omitted: how many more files there are.
    """
    kinds: dict[str, list[RemoteFile]] = {}
    for file in files:
        kinds.setdefault(_NUMBER.sub("0", file.path), []).append(file)
    alone = [file for kind in kinds.values() if len(kind) < _FEWEST_ALIKE for file in kind]
    if len(alone) > _MOST_LINES:  # many names without a number
        directories: dict[str, list[RemoteFile]] = {}
        for file in alone:
            directory, name = os.path.split(file.path)
            directories.setdefault(f"{directory}/*{name.rpartition('.')[2]}", []).append(file)
        alone = [file for kind in directories.values() if len(kind) < _FEWEST_ALIKE for file in kind]
        kinds |= directories
    groups = [kind for kind in kinds.values() if len(kind) >= _FEWEST_ALIKE]
    alone.sort(key=lambda file: file.path.count("/"))
    lines = [*map(_one, alone), *map(_many, groups)]
    counts = [1] * len(alone) + [len(group) for group in groups]
    left_out = sum(counts[_MOST_LINES:]) + omitted
    return "\n".join([*lines[:_MOST_LINES], *_note(left_out)])


def _one(file: RemoteFile) -> str:
    return f"{_path(file)} ({_size(file.size)})"


def _many(files: list[RemoteFile]) -> str:
    files = sorted(files, key=lambda file: [int(part) if part.isdecimal() else 0 for part in _parts(file.path)])
    return f"{_path(files[0])} … {_path(files[-1])} ({len(files)} files, {_size(sum(file.size for file in files))})"


def _parts(path: str) -> list[str]:
    return [part[:18] for part in re.findall(r"\d+", path)]


def _path(file: RemoteFile) -> str:
    path = printable(file.path)
    return path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH // 2]}…{path[-_LONGEST_PATH // 2 :]}"


def _size(size: int) -> str:
    return f"{size} bytes"


def _note(left_out: int) -> Iterator[str]:
    if left_out:
        yield f"… and {left_out} more {'files' if left_out > 1 else 'file'}"
