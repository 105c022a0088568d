"""Where a pool's options come from, besides arguments and the URL: a TOML file, and the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from greenroom.errors import InvalidRequest

PREFIX = "GREENROOM_"
FILE_VARIABLE = "GREENROOM_CONFIG"


def from_file(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The table `[pool]` of a TOML file, by default of the one that `GREENROOM_CONFIG` names; else nothing.

    Raises:
        InvalidRequest: the file cannot be read or has no such table.
    """
    path = path or os.environ.get(FILE_VARIABLE) or None
    if path is None:
        return {}
    try:
        content: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # no text, no TOML, nested without an end
        raise InvalidRequest(f"The configuration {os.fspath(path)!r} cannot be read: {error}.") from error
    table = content.get("pool")
    if not isinstance(table, dict):
        raise InvalidRequest(f"The configuration {os.fspath(path)!r} has no table [pool].")
    return cast("dict[str, Any]", table)


def from_environment(names: Iterable[str]) -> dict[str, str]:
    """The options that variables such as `GREENROOM_MAX_CONCURRENT_SESSIONS` give."""
    return {name: value for name in names if (value := os.environ.get(PREFIX + name.upper()))}
