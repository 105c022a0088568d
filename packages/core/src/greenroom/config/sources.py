"""Read options from a TOML file and from the environment."""

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
    """Return the table `[pool]` of a TOML file, by default of the file in `GREENROOM_CONFIG`; empty without a file.

    Raises:
        InvalidRequest: the file cannot be read or has no such table.
    """
    path = path or os.environ.get(FILE_VARIABLE) or None
    if path is None:
        return {}
    table = read_toml(path).get("pool")
    if not isinstance(table, dict):
        raise InvalidRequest(f"The configuration {os.fspath(path)!r} must have a table [pool].")
    return cast("dict[str, Any]", table)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a configuration file.

    Raises:
        InvalidRequest: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # not text, not TOML, nested too deeply
        raise InvalidRequest(f"The configuration {os.fspath(path)!r} cannot be read: {error}.") from error


def from_environment(names: Iterable[str]) -> dict[str, str]:
    """Return the options from environment variables such as `GREENROOM_MAX_CONCURRENT_SESSIONS`."""
    return {name: value for name in names if (value := os.environ.get(PREFIX + name.upper()))}
