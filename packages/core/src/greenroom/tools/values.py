"""Arguments and results of tools as JSON.

The code in a sandbox sends arguments, which can be anything. The application returns results, of which at most a limit
is ever written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NoReturn, cast

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_jsonable_python

from greenroom.errors import in_units
from greenroom.runner.json_weight import MAX_DEPTH, weigh_json
from greenroom.untrusted import brief

_MAX_WEIGHT = 64 << 20  # bytes that arguments can take in memory


class ArgumentsMalformed(ValueError):
    """The arguments of a call are malformed; the message says how."""


class ResultRefused(ValueError):
    """A result is not JSON or is too large; the message says what and where."""


def encode_result(value: object, most: int, adapter: TypeAdapter[Any] | None = None) -> bytes:
    """Return a result as at most that many bytes of JSON.

    Pydantic models, dataclasses, dates and so on are converted by pydantic. NaN, infinity and bytes are refused, as
    JSON has none of them.

    Args:
        value: the result.
        most: bytes.
        adapter: for the annotated type of the result; a value of another type is not an error.

    Raises:
        ResultRefused: it is not JSON, or larger.
    """
    writer = _Writer(most)
    plain = writer.plain(value, adapter)
    try:
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:  # an integer with thousands of digits
        raise ResultRefused(f"must be JSON: {error}") from None
    content = text.encode("utf-8", "replace")
    if len(content) > most:
        raise writer.too_large()
    return content


class _Writer:
    """Copies a value as JSON types, and counts its size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def too_large(self) -> ResultRefused:
        return ResultRefused(f"must be at most {in_units(self._most)} as JSON, the remaining limit of this execution")

    def plain(self, value: Any, adapter: TypeAdapter[Any] | None = None, depth: int = 0) -> Any:
        self._left -= len(value) + 2 if isinstance(value, str) else 1
        if self._left < 0:
            raise self.too_large()
        if depth > MAX_DEPTH:
            raise ResultRefused(f"must be nested at most {MAX_DEPTH} levels deep, and not contain itself")
        match value:
            case None | bool():
                return value
            case str():
                return str(value)
            case Integral():
                return int(value)
            case Real():
                return self._number(float(value))
            case Mapping():
                return {self._key(key): self._at(key, item, depth) for key, item in cast("Any", value).items()}
            case list() | tuple() | set() | frozenset():
                items = cast("Iterable[Any]", value)
                return [self._at(index, item, depth) for index, item in enumerate(items)]
            case bytes() | bytearray() | memoryview():
                raise ResultRefused("must be JSON, which has no bytes: return text or base64")
            case _:
                return self._converted(value, adapter, depth)

    def _number(self, number: float) -> float:
        if not math.isfinite(number):
            raise ResultRefused(f"must be JSON, which has no {number!r}: return None instead")
        return number

    def _key(self, key: Any) -> str:
        if isinstance(key, str):
            self._left -= len(key) + 2
            return str(key)
        if not isinstance(key, bool) and isinstance(key, Integral):
            return str(int(key))
        raise ResultRefused(f"must be JSON, whose keys are strings, not {brief(key)}")

    def _at(self, place: Any, value: Any, depth: int) -> Any:
        try:
            return self.plain(value, None, depth + 1)
        except ResultRefused as error:
            if depth == 0 and "nested" not in str(error) and "at most" not in str(error):
                raise ResultRefused(f"{error} (at [{brief(place)}])") from None
            raise

    def _converted(self, value: Any, adapter: TypeAdapter[Any] | None, depth: int) -> Any:
        try:
            plain = (
                to_jsonable_python(value, inf_nan_mode="constants")
                if adapter is None
                else adapter.dump_python(value, mode="json")
            )
        except (PydanticSerializationError, ValueError, TypeError, RecursionError):
            plain = None
            converted = False
        else:
            converted = isinstance(plain, str | int | float | list | dict)
        if not converted:
            raise ResultRefused(f"must be JSON, not of type {type(value).__name__}")
        return self.plain(plain, None, depth + 1)


def decode_arguments(body: bytes) -> dict[str, Any]:
    """Return the arguments of a call: hostile JSON.

    Raises:
        ArgumentsMalformed: they are not an object, or take too much memory.
    """
    try:
        if weigh_json(body, _MAX_WEIGHT) > _MAX_WEIGHT:
            raise ArgumentsMalformed("must take less memory")
        text = body.decode("utf-8", "replace")
        arguments: Any = json.loads(text, parse_constant=_not_a_number, parse_float=_finite)
        if "\\ud" in text.lower():  # half of a surrogate pair, which cannot be encoded
            arguments = json.loads(json.dumps(arguments, ensure_ascii=False).encode("utf-8", "replace"))
    except ArgumentsMalformed:
        raise
    except (ValueError, RecursionError):
        raise ArgumentsMalformed("must be JSON") from None
    if not isinstance(arguments, dict):
        raise ArgumentsMalformed("must be a JSON object")
    return cast("dict[str, Any]", arguments)


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    """Return a number, but not infinity or NaN, which Python's JSON accepts and many schemas would allow."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number
