"""Values as JSON, by the fields of their dataclasses, so that new fields are sent without changes here."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import types
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from greenroom import models
from greenroom.config.environment import Environment
from greenroom.models import DATA_DIR, RemoteFile
from greenroom.runner.json_weight import TooDeep, weigh_json

T = TypeVar("T")
_FIRST_GUESS = 1000  # bytes
_MAX_ENTRIES = 20_000  # of a list, as in a local pool
_MAX_NUMBER = 1 << 63
_PLAIN = {str, int, float, bool, types.NoneType}

Json: TypeAlias = Any
"""A JSON value, as `json.loads` returns it; numbers include infinity."""


class WireError(ValueError):
    """Received data does not have the form of this version; the message states the rule."""


def dump(value: Json) -> bytes:
    """Return JSON as one line."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which JSON can contain but UTF-8 cannot
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def parse(line: bytes, most: int) -> tuple[dict[str, Json], int]:
    """Return the JSON object in a line, and about how many bytes it takes in memory.

    Raises:
        WireError: it is not an object, takes more than `most`, or is nested too deeply.
    """
    weight = _weigh(line, most)
    if weight > most:
        raise WireError(f"a line must take at most {most} bytes of memory")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise WireError("a line must be JSON") from None
    if not isinstance(value, dict):
        raise WireError(f"a line must be an object, not {type(value).__name__}")
    return cast("dict[str, Json]", value), weight


def _weigh(line: bytes, most: int) -> int:
    """Return at most twice the memory that the JSON takes, and never much more; commas within text do not count."""
    guess = len(line) + _FIRST_GUESS
    try:
        while (weight := weigh_json(line, min(guess, most))) > guess and guess < most:
            guess *= 2
    except TooDeep as error:
        raise WireError(f"{error}") from None
    return weight


def encode(value: object) -> Json:
    """Return a value of `greenroom.models`, or a part of one, as JSON."""
    if type(value) in _PLAIN:  # most are
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: encode(getattr(value, each.name)) for each in dataclasses.fields(value)}
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case Enum():
            return value.value
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            return dict(cast("Mapping[str, Json]", value))  # a mime bundle, which is JSON
        case list() | tuple():
            return [encode(each) for each in cast("Iterable[object]", value)]
        case _:
            return value


def decode(kind: type[T], value: Json) -> T:
    """Return the value of that type; the inverse of `encode`. Unknown fields are ignored.

    Raises:
        WireError: it has another form.
    """
    return cast("T", decode_as(kind, value, kind.__name__))


def decode_list(kind: type[T], value: Json) -> list[T]:
    """Return a list of values of that type.

    Raises:
        WireError: it has another form, or is longer.
    """
    if not isinstance(value, list):
        raise _wrong("a list", value, kind.__name__)
    values = cast("list[Json]", value)
    if len(values) > _MAX_ENTRIES:
        raise WireError(f"a list must have at most {_MAX_ENTRIES} entries, not {len(values)}")
    return [decode(kind, each) for each in values]


@functools.cache
def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """The type of each field of a dataclass, and whether it has a default."""
    hints = get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        each.name: (hints[each.name], each.default is not missing or each.default_factory is not missing)
        for each in dataclasses.fields(kind)
    }


@functools.cache
def _form(kind: Any) -> tuple[bool, Any, tuple[Any, ...]]:
    """Whether a type is a dataclass; its origin and its arguments."""
    return dataclasses.is_dataclass(kind), get_origin(kind), get_args(kind)


def decode_as(kind: Any, value: Json, name: str) -> Any:
    """Like `decode`, for any type that a field can have; `name` is the value's name, for messages."""
    is_dataclass, origin, arguments = _form(kind)
    if is_dataclass:
        return _decode_dataclass(cast("type[Any]", kind), value, name)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        (kind,) = (each for each in arguments if each is not types.NoneType)
        return decode_as(kind, value, name)
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise _wrong(f"one of {', '.join(map(str, arguments))}", value, name)
    if origin in (tuple, list):
        if isinstance(value, list):
            found = [decode_as(arguments[0], each, name) for each in cast("list[Json]", value)]
            return found if origin is list else tuple(found)
        raise _wrong("a list", value, name)
    if origin is Mapping or kind is Mapping:
        if isinstance(value, dict):
            fields = cast("dict[str, Json]", value)
            return {key: decode_as(arguments[1], each, name) for key, each in fields.items()}
        raise _wrong("an object", value, name)
    return _decode_plain(kind, value, name)


def _decode_plain(kind: Any, value: Json, name: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _wrong("a number", value, name) from None
    if kind is datetime:
        return _decode_time(value, name)
    if kind is Environment:
        try:
            return Environment.parse(value)
        except ValueError as error:
            raise WireError(f"{name} {error}") from None
    if kind is bytes:
        try:
            return base64.b64decode(cast("str", value), validate=True)
        except (TypeError, ValueError):
            raise _wrong("base64", value, name) from None
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise _wrong(f"one of {', '.join(each.value for each in kind)}", value, name) from None
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise _wrong(f"of type {kind.__name__}", value, name)


def _decode_dataclass(kind: type[Any], value: Json, name: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong("an object", value, name)
    given, found = cast("dict[str, Json]", value), dict[str, Any]()
    for field, (hint, has_default) in _fields(kind).items():
        if field in given:
            found[field] = decode_as(hint, given[field], f"{name}.{field}")
        elif not has_default:
            raise WireError(f"{name} must have the field {field}")
    if kind is RemoteFile:
        path: str = found["path"]
        if not path.startswith(f"{DATA_DIR}/") or ".." in path.split("/"):
            raise WireError(f"the path of a file must be below {DATA_DIR}, not {path!r:.200}")
    if kind.__module__ == models.__name__:
        _check_numbers(found, name)
    return kind(**found)


def _check_numbers(fields: Mapping[str, Any], name: str) -> None:
    """Check the numbers of a value of `greenroom.models`: they are counts, sizes and seconds, except an exit code."""
    for field, value in fields.items():
        each: object
        for each in cast("Mapping[str, object]", value).values() if field == "evictions" else (value,):
            if isinstance(each, int | float) and field != "exit_code":
                check_number(each, f"{name}.{field}")


def check_number(value: float, name: str) -> None:
    """Check a count, a size or a time in seconds.

    Raises:
        WireError: it is negative, not finite, or too large for any of them.
    """
    if not 0 <= value < _MAX_NUMBER:
        raise WireError(f"{name} must be at least 0, and finite, not {value!r:.50}")


def _decode_time(value: Json, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _wrong("a timestamp", value, name) from None


def _wrong(rule: str, value: Json, name: str) -> WireError:
    shown = repr(value[:100]) if isinstance(value, str) else type(value).__name__
    return WireError(f"{name} must be {rule}, not {shown}")
