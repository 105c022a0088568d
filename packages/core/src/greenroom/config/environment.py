"""Environment variables of sessions: checked, and never shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from greenroom.untrusted import brief

MAX_SIZE = 64 << 10
"""The maximum size of all names and values together in bytes, with two more per variable."""

_MAX_NAME = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOADER = "LD_"


class Environment(Mapping[str, str]):
    """Names and values of variables. The `repr` shows only the names, because values can be secrets."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        """
        Args:
            variables: must have been checked by `parse`.
        """
        self._variables = dict(variables or {})

    @classmethod
    def parse(cls, value: object) -> Environment:
        """Return the variables from a mapping, from JSON, or from text such as `TZ=UTC,LANG=C`.

        Raises:
            ValueError: a name or a value breaks a rule; the message never shows a value.
        """
        if isinstance(value, Environment):
            return value
        if isinstance(value, str):
            value = _from_text(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping of names to values, not {type(value).__name__}")
        variables = cast("Mapping[Any, Any]", value)
        size = 0
        for name, content in variables.items():
            size += _check_name(name) + _check_value(name, content)
            if size > MAX_SIZE:
                raise ValueError(f"must have at most {MAX_SIZE:,} bytes of names and values")
        return cls(variables)

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        return f"<Environment of {', '.join(self) or 'no variables'}>"


def _from_text(text: str) -> object:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("must be valid JSON if it begins with {") from None
    variables: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, content = part.partition("=")
        if not equals:
            raise ValueError("must have the form NAME=value,NAME=value")
        variables[name.strip()] = content
    return variables


def _check_name(name: object) -> int:
    """Return the size of a name. An invalid name is not shown, as it could be a value in the wrong place."""
    if not isinstance(name, str):
        raise ValueError(f"must have names of type str, not {type(name).__name__}")
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"must have names of at most {_MAX_NAME} ASCII letters, digits and _ that do not begin with a digit"
        )
    if name.startswith(_LOADER):
        raise ValueError(
            f"must not have {brief(name)}: the dynamic loader reads it when a program starts, and the session's "
            "program is already running. Set it in the shell command that starts another program"
        )
    return len(name) + 2


def _check_value(name: str, content: object) -> int:
    if not isinstance(content, str):
        raise ValueError(f"must have values of type str, not {type(content).__name__} for {brief(name)}")
    if "\0" in content:
        raise ValueError(f"must have values without NUL characters, unlike that of {brief(name)}")
    try:
        return len(content[: MAX_SIZE + 1].encode())
    except UnicodeEncodeError:
        raise ValueError(f"must have values that are encodable as UTF-8, unlike that of {brief(name)}") from None
