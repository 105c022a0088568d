"""A tool as code and models see it: a function with names, types and a text, made from its JSON schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from greenroom.errors import InvalidRequest
from greenroom.runner.protocol import MAX_TOOLS

_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
    "object": "dict[str, Any]",
    "array": "list[Any]",
}
_MOST_NESTED = 10
_MOST_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class ToolParameter:
    """One parameter of a tool."""

    name: str
    annotation: str
    """Its type in Python's notation."""
    required: bool = False
    default: Any = None
    """As JSON, for readers of the signature; it is not sent."""


@dataclass(frozen=True, slots=True)
class ToolStub:
    """A tool, as the code sees it."""

    name: str
    description: str = ""
    parameters: tuple[ToolParameter, ...] = ()
    returns: str = "Any"
    """The type of its result in Python's notation."""
    takes_others: bool = False
    """Whether it takes further arguments by name."""

    @property
    def signature(self) -> str:
        """The function's head, such as `get_orders(customer: int, limit: int = 10) -> list[dict[str, Any]]`."""
        parts = [
            f"{each.name}: {each.annotation}" + ("" if each.required else f" = {each.default!r}")
            for each in sorted(self.parameters, key=lambda each: not each.required)
        ]
        parts += ["**others"] if self.takes_others else []
        return f"{self.name}({', '.join(parts)}) -> {self.returns}"


def stub_of(name: str, description: str, schema: Mapping[str, Any], returns: Mapping[str, Any] | None) -> ToolStub:
    """Return the function for a JSON schema of its arguments, and one of its result."""
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    required = frozenset(cast("Sequence[str]", schema.get("required") or ()))
    parameters = tuple(
        ToolParameter(each, annotation(of, schema), each in required, _default(of)) for each, of in properties.items()
    )
    takes_others = bool(schema.get("additionalProperties", not properties))
    returned = "Any" if returns is None else annotation(returns, returns)
    return ToolStub(name, description, parameters, returned, takes_others)


def described(stubs: Iterable[ToolStub]) -> bytes:
    """Return the functions as JSON, for the runner.

    Raises:
        InvalidRequest: they are too large together.
    """
    content = json.dumps([dataclasses.asdict(each) for each in stubs]).encode()
    if len(content) > MAX_TOOLS:
        raise InvalidRequest(
            f"The tools must have at most {MAX_TOOLS >> 10} KiB of names, types and descriptions together, "
            f"not {len(content):,} bytes."
        )
    return content


def annotation(schema: Any, root: Mapping[str, Any]) -> str:
    """Return the type of a JSON schema in Python's notation; one without a counterpart, or with far too many parts, is
    `Any`.

    Args:
        schema: the schema.
        root: the document that its references point into.
    """
    try:
        return _Annotation(root).of(schema)
    except _TooLarge:
        return "Any"


class _TooLarge(Exception):
    """A schema has too many parts to be useful to a reader."""


class _Annotation:
    """Writes one type."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MOST_PARTS

    def of(self, schema: Any, depth: int = 0) -> str:
        self._left -= 1  # with references, a small schema can expand to a huge one
        if self._left < 0:
            raise _TooLarge
        if not isinstance(schema, Mapping) or depth > _MOST_NESTED:
            return "Any"
        given = cast("Mapping[str, Any]", schema)
        if isinstance(given.get("$ref"), str):
            return self.of(_target(given["$ref"], self._root), depth + 1)
        values = [given["const"]] if "const" in given else given.get("enum")
        if isinstance(values, Sequence) and not isinstance(values, str):
            return f"Literal[{', '.join(map(repr, cast('Sequence[Any]', values)))}]"
        options = given.get("anyOf") or given.get("oneOf")
        if isinstance(options, Sequence) and not isinstance(options, str):
            return _union(self.of(each, depth + 1) for each in cast("Sequence[Any]", options))
        kind = given.get("type")
        if isinstance(kind, Sequence) and not isinstance(kind, str):
            return _union(self.of({**given, "type": each}, depth + 1) for each in cast("Sequence[Any]", kind))
        if kind == "array" and "items" in given:
            return f"list[{self.of(given['items'], depth + 1)}]"
        if kind == "object" and isinstance(given.get("additionalProperties"), Mapping):
            return f"dict[str, {self.of(given['additionalProperties'], depth + 1)}]"
        return _TYPES.get(str(kind), "Any")


def _union(names: Iterable[str]) -> str:
    unique = dict.fromkeys(names)
    return "Any" if "Any" in unique else " | ".join(unique)


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = cast("Mapping[str, Any]", found).get(part) if isinstance(found, Mapping) else None
    return found


def _default(schema: Any) -> Any:
    return cast("Mapping[str, Any]", schema).get("default") if isinstance(schema, Mapping) else None
