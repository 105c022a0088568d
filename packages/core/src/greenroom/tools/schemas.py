"""Check arguments against JSON schemas; hostile code may have chosen arguments that are expensive to check."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, cast

from pydantic_core import SchemaError, SchemaValidator, core_schema

from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.untrusted import brief

_EFFORT = 5.0
"""Processor seconds that one check can take."""
_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are never schemas."""

_ends: ContextVar[float] = ContextVar("_ends")


class ArgumentsRefused(ValueError):
    """The arguments of a call violate the tool's schema; the message says how."""


class CheckTooLong(ArgumentsRefused):
    """Checking the arguments takes more time than is allowed, so they count as not valid."""


@contextmanager
def at_most(seconds: float | None = None) -> Generator[None, None, None]:
    """Limit the processor time of checks in this block, by default to `_EFFORT`; enclosing limits apply too."""
    limit = time.thread_time() + (_EFFORT if seconds is None else seconds)
    token = _ends.set(min(_ends.get(math.inf), limit))
    try:
        yield
    finally:
        _ends.reset(token)


def check_time() -> None:
    """Raise `CheckTooLong` if the block's time is used up."""
    if time.thread_time() > _ends.get():
        raise CheckTooLong("they take too long to check.")


def schema_check(name: str, schema: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Return a check of a tool's arguments that raises `ArgumentsRefused`.

    Patterns are matched in linear time, so that they have neither look-around nor back-references.

    Raises:
        InvalidRequest: it is not a JSON schema, or has such a pattern.
        EngineUnavailable: the package that checks it is missing.
    """
    try:
        from jsonschema import exceptions, validators  # noqa: PLC0415  an extra
        from referencing import Registry  # noqa: PLC0415  a dependency of jsonschema
    except ModuleNotFoundError as error:
        raise EngineUnavailable(
            f"The JSON schema of the tool {name!r} needs jsonschema. Install it: pip install 'greenroom[tools]'."
        ) from error
    untyped: Any = validators  # its types are incomplete
    standard = untyped.validator_for(schema)
    best_match: Callable[[Any], Any] = cast("Any", exceptions).best_match
    try:
        standard.check_schema(schema)
        own = _prepared(schema)
    except exceptions.SchemaError as error:
        raise InvalidRequest(f"The parameters of the tool {name!r} must be a JSON schema: {error.message}.") from None
    except _Unsupported as error:
        raise InvalidRequest(f"The parameters of the tool {name!r} must have {error}.") from None
    keywords = {keyword: _OWN.get(keyword, check) for keyword, check in standard.VALIDATORS.items()}
    kind = untyped.extend(standard, {keyword: partial(_counted, check) for keyword, check in keywords.items()})
    registry: Any = Registry
    validator = kind(own, registry=registry())  # without a registry, it would fetch references to other documents

    def check(arguments: dict[str, Any]) -> None:
        with at_most():
            error = best_match(validator.iter_errors(arguments))
        if error is not None:
            place = "".join(f"[{part!r}]" for part in error.absolute_path)
            raise ArgumentsRefused(f"{place}: {error.message}" if place else error.message)

    return check


class _Unsupported(Exception):
    """A schema has a keyword that cannot be checked safely; the message says what it must have instead."""


def _prepared(schema: Any) -> Any:
    """Return a schema without the parts that would select the standard checks."""
    if isinstance(schema, Mapping):
        given = cast("Mapping[str, Any]", schema)
        if isinstance(pattern := given.get("pattern"), str):
            _matcher(pattern)
        if isinstance(patterns := given.get("patternProperties"), Mapping):
            for each in cast("Mapping[str, Any]", patterns):
                _matcher(each)
            if "unevaluatedProperties" in given:
                raise _Unsupported("additionalProperties beside patternProperties, not unevaluatedProperties")
        return {
            key: value if key in _DATA else _prepared(value)
            for key, value in given.items()
            if key != "$schema" or not isinstance(value, str)
        }
    return [_prepared(each) for each in cast("list[Any]", schema)] if isinstance(schema, list) else schema


@lru_cache(1024)
def _matcher(pattern: str) -> Callable[[str], bool]:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError:
        raise _Unsupported(
            f"patterns that can be matched in linear time, without look-around and back-references, not "
            f"{brief(pattern)}"
        ) from None


# Keywords


def _counted(check: Any, validator: Any, value: Any, instance: Any, schema: Any) -> Any:
    check_time()
    return check(validator, value, instance, schema)


def _error(message: str) -> Exception:
    from jsonschema import ValidationError  # noqa: PLC0415  an extra

    return ValidationError(message)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterable[Any]:
    if isinstance(instance, str) and not _matcher(pattern)(instance):
        yield _error(f"{brief(instance)} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, _schema: Any) -> Iterable[Any]:
    for pattern, schema in patterns.items() if isinstance(instance, dict) else ():
        matches = _matcher(pattern)
        for name, value in cast("dict[str, Any]", instance).items():
            if matches(name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, of_others: Any, instance: Any, schema: Mapping[str, Any]) -> Iterable[Any]:
    if not isinstance(instance, dict):
        return
    given = cast("dict[str, Any]", instance)
    properties, patterns = (
        schema.get("properties", {}),
        [_matcher(each) for each in schema.get("patternProperties", ())],
    )
    others = [name for name in given if name not in properties and not any(matches(name) for matches in patterns)]
    if isinstance(of_others, Mapping):
        for name in others:
            yield from validator.descend(given[name], of_others, path=name)
    elif not of_others and others:
        names = ", ".join(map(brief, others[:5])) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        yield _error(f"Additional properties are not allowed, such as {names}")


def _unique_items(_validator: Any, unique: bool, instance: Any, _schema: Any) -> Iterable[Any]:
    if unique and isinstance(instance, list):
        items = cast("list[Any]", instance)
        if len(set(map(_identity, items))) < len(items):
            yield _error(f"{brief(items)} has non-unique elements")


def _identity(value: Any) -> Any:
    """Return a key that is equal for equal JSON. Numbers become text, whose hashes cannot be made to collide."""
    match value:
        case bool() | None:
            return (value,)
        case float() if value.is_integer():
            return "n", str(int(value))
        case int() | float():
            return "n", str(value)
        case list():
            return "a", tuple(map(_identity, cast("list[Any]", value)))
        case dict():
            return "o", frozenset((name, _identity(item)) for name, item in cast("dict[str, Any]", value).items())
        case _:
            return value


_OWN: Mapping[str, Any] = {
    "additionalProperties": _additional_properties,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "uniqueItems": _unique_items,
}
