"""Estimate pydantic's work on arguments before it starts: hostile code chose them, and nothing can interrupt pydantic.

A union without a discriminator tries all of its members. If they contain the union again, each level of the arguments
multiplies the work.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeAlias, cast

from pydantic import TypeAdapter

from greenroom.tools.schemas import at_most, check_time

_MOST, _MOST_EACH = 50_000, 30
"""How many attempts to validate are allowed: in total, and additionally for each value."""
_TURN = 10_000
"""Steps after which the time is checked."""

_ARRAYS = frozenset({"list", "set", "frozenset", "generator", "tuple"})
_LEAVES = frozenset({"any", "none", "bool", "int", "float", "complex", "decimal", "str", "bytes", "date", "time"}) | {
    *("datetime", "timedelta", "literal", "enum", "uuid", "url", "multi-host-url", "is-instance", "is-subclass"),
    *("callable", "missing-sentinel"),
}

_Schema: TypeAlias = Mapping[str, Any]
_Parts: TypeAlias = list[tuple[_Schema, Any]]


class TooMuchWork(ValueError):
    """Validating the arguments would take more work than is allowed."""


def effort_check(adapter: TypeAdapter[Any]) -> Callable[[Any], None] | None:
    """Return a check that raises `TooMuchWork`; `None` if arguments of this type cannot multiply the work."""
    root = cast("_Schema", adapter.core_schema)
    definitions: dict[str, _Schema] = {}
    unions: list[_Schema] = []
    stack: list[Any] = [root]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            schema = cast("dict[str, Any]", each)
            if isinstance(ref := schema.get("ref"), str) and "type" in schema:
                definitions[ref] = schema
            if schema.get("type") == "union":
                unions.append(schema)
            stack += [value for key, value in schema.items() if key not in {"metadata", "serialization"}]
        elif isinstance(each, list | tuple):
            stack += cast("list[Any]", each)
    if not unions or not definitions:  # without definitions, it has no recursion
        return None
    widest = max(sum(each["type"] not in _LEAVES for each in _choices(union)) for union in unions)

    def check(arguments: Any) -> None:
        count, depth = _measure(arguments)
        if widest**depth > _MOST_EACH:
            with at_most():
                _check(root, definitions, arguments, _MOST + _MOST_EACH * count)

    return check


def _check(root: _Schema, definitions: Mapping[str, _Schema], arguments: Any, most: int) -> None:
    """Add up the work by parts; each part is visited once, however often pydantic would visit it."""
    known: dict[tuple[int, int], int] = {}
    steps = 0

    def work(schema: _Schema, value: Any) -> Generator[tuple[_Schema, Any], int, int]:
        total = 1
        for part, its_value in _parts(schema, value):
            while part.get("type") == "definition-ref":
                part = definitions[part["schema_ref"]]  # noqa: PLW2901  a schema with a missing one could not be built
            if part["type"] in _LEAVES or (part["type"] in _ARRAYS and not isinstance(its_value, list)):
                total += 1
            else:
                total += known.get(_key(part, its_value)) or (yield part, its_value)
            if total > most:
                raise TooMuchWork
        return total

    while root["type"] == "definition-ref":
        root = definitions[root["schema_ref"]]
    stack = [(_key(root, arguments), work(root, arguments))]
    found = 0
    while stack:
        steps += 1
        if steps % _TURN == 0:
            check_time()
        key, running = stack[-1]
        try:
            schema, value = running.send(found) if found else next(running)
        except StopIteration as end:
            found = known[key] = end.value
            stack.pop()
            continue
        inner, found = _key(schema, value), 0
        known[inner] = 1  # while it is visited: it can refer to itself
        stack.append((inner, work(schema, value)))


def _key(schema: _Schema, value: Any) -> tuple[int, int]:
    """Return a key for a schema and a value; all values without parts have the same key, as they take the same work."""
    has_parts = isinstance(value, dict | list)
    return id(schema), id(cast("object", value)) if has_parts else 0


def _measure(value: Any) -> tuple[int, int]:
    """Return how many values a JSON value contains, and how many levels of objects and arrays."""
    count, deepest = 0, 0
    stack: list[tuple[Any, int]] = [(value, 1)] if isinstance(value, dict | list) else []
    while stack:
        each, depth = stack.pop()
        parts: Any = cast("dict[str, Any]", each).values() if isinstance(each, dict) else each
        count, deepest = count + len(parts), max(deepest, depth)
        stack += [(part, depth + 1) for part in parts if isinstance(part, dict | list)]
    return count, deepest


def _parts(schema: _Schema, value: Any) -> _Parts:
    """Return the schemas that are tried on the value and on its parts."""
    match schema.get("type"):
        case "union":
            return [(each, value) for each in _choices(schema)]
        case "tagged-union":
            return [(each, value) for each in _tagged(schema, value)]
        case "model-fields" | "typed-dict" | "dataclass-args" | "arguments":
            return _of_fields(schema, value)
        case kind if kind in _ARRAYS and isinstance(value, list):
            items = schema.get("items_schema")
            each_of = cast("list[_Schema | None]", items if isinstance(items, list) else [items])
            values = cast("list[Any]", value)
            last = len(each_of) - 1
            return [
                (item, each) for number, each in enumerate(values) if (item := each_of[min(number, last)]) is not None
            ]
        case "dict" if isinstance(value, dict):
            values = schema.get("values_schema")
            return [] if values is None else [(values, each) for each in cast("dict[str, Any]", value).values()]
        case "dict":
            return []
        case _:
            return [(each, value) for each in _inner(schema)]


def _choices(union: _Schema) -> list[_Schema]:
    return [cast("_Schema", each[0] if isinstance(each, tuple) else each) for each in union["choices"]]


def _tagged(schema: _Schema, value: Any) -> list[_Schema]:
    choices = cast("Mapping[Any, _Schema]", schema["choices"])
    field = schema.get("discriminator")
    if isinstance(field, str) and isinstance(value, dict):
        tag = cast("dict[str, Any]", value).get(field)
        return [choices[tag]] if isinstance(tag, str) and tag in choices else []
    return list(choices.values())


def _of_fields(schema: _Schema, value: Any) -> _Parts:
    if not isinstance(value, dict):
        return []
    given = cast("dict[str, Any]", value)
    fields: Any = schema.get("fields", schema.get("arguments_schema", {}))
    named = (
        cast("dict[str, Any]", fields).items()
        if isinstance(fields, dict)
        else [(each["name"], each) for each in fields]
    )
    parts: _Parts = []
    for name, field in named:
        alias: Any = field.get("validation_alias", field.get("alias", name))
        if isinstance(alias, str):
            parts += [(field["schema"], given[each]) for each in sorted({name, alias} & given.keys())]
        else:  # it can lead anywhere
            parts += [(field["schema"], each) for each in given.values()]
    if (others := schema.get("extras_schema")) is not None:
        parts += [(others, each) for each in given.values()]
    return parts


def _inner(schema: _Schema) -> Generator[_Schema, None, None]:
    """Yield the schemas in one that validates the same value."""
    for key in ("schema", "lax_schema", "strict_schema", "json_schema", "python_schema"):
        if isinstance(inner := schema.get(key), dict):
            yield cast("_Schema", inner)
    yield from cast("list[_Schema]", schema.get("steps", []))
