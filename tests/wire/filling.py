"""Values with every field set, also for fields that are still to come."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from greenroom.config.environment import Environment
from greenroom.models import RemoteFile

T = TypeVar("T")

TEXT = 'naïve Ω 🦊 \u2028\0\x1b[1m "quoted" \\ \n end'
BUNDLE: dict[str, Any] = {"text/plain": TEXT, "application/json": {"a": [1, 2.5, None, True, {}], "": float("inf")}}


def filled(kind: type[T]) -> T:
    """A value of a dataclass, of whose fields none has its default."""
    hints = get_type_hints(kind)
    fields = dataclasses.fields(cast("Any", kind))
    values = {each.name: _value(hints[each.name], each.name, each.default) for each in fields}
    if kind is RemoteFile:
        values["path"] = "/mnt/data/a b/ü\n.txt"
    value = kind(**values)
    for each in fields:
        assert getattr(value, each.name) != each.default, each.name
    return value


def _value(kind: Any, name: str, default: object = None) -> Any:
    if dataclasses.is_dataclass(kind):
        return filled(cast("type[Any]", kind))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _value(next(each for each in arguments if each is not types.NoneType), name)
    if origin is Literal:
        return arguments[-1]
    if origin is tuple:
        return (_value(arguments[0], name),) * 2
    if origin is Mapping:
        return BUNDLE if arguments[1] is Any else {"some": _value(arguments[1], name)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(each for each in reversed(list(kind)) if each is not default)
    plain = {
        str: f"{name} {TEXT}",
        int: 7,
        float: 0.1 + 0.2,
        bool: True,
        bytes: b"\0\xff",
        Any: BUNDLE,
        Environment: Environment({"A": "Ω\n"}),
        datetime: datetime(2026, 11, 1, 2, 3, 4, 567891, UTC),
    }
    return plain[kind]
