"""Objects of any shape come out of a copy in the same shape: what was one object is one, what was two is two."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import functools
import io
import types
from collections.abc import Iterator
from pickle import Unpickler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.workers.copying.names import KNOWN
from greenroom.runner.workers.copying.pickling import SessionPickler

# What a cell defines. A graph's nodes are objects of these kinds, and each has a list of those that it leads to.
_CELL = """
import dataclasses, functools

class Plain:
    def __init__(self):
        self.next = []

class Slotted:
    __slots__ = ("next", "__weakref__")
    def __init__(self):
        self.next = []

class Child(Plain):
    def __init__(self):
        super().__init__()
        self.other = self.next

@dataclasses.dataclass(eq=False)
class Record:
    next: list = dataclasses.field(default_factory=list)

class Listed(list):
    pass

def closure():
    links = []
    def read():
        return links
    def read_again():
        return read()
    read.twin = read_again
    return read

def recursive():
    links = []
    def read(depth=1):
        return links if depth == 0 else read(depth - 1)
    return read

def link(links):
    return links

KINDS = [Plain, Slotted, Child, Record, Listed, list, dict, closure, recursive, lambda: functools.partial(link, [])]
"""

_GRAPHS = st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 11), max_size=4)), min_size=1, max_size=12)


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    yield
    KNOWN.clear()


def copied(values: list[Any], namespace: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the values as another session reads them, and its namespace."""
    KNOWN.clear()
    KNOWN["namespace"] = namespace
    stream = io.BytesIO()
    pickler = SessionPickler(stream)
    for value in values:
        pickler.dump(value)
    pickler.dump_cells()
    stream.seek(0)
    new: dict[str, Any] = {"__name__": "__main__"}
    KNOWN["namespace"] = new
    unpickler = Unpickler(stream)
    unpickler.load()
    found = [unpickler.load() for _ in values]
    while (cells := unpickler.load()) is not None:
        for cell, held in cells:
            if held:
                (cell.cell_contents,) = held
    return found, new


def links_of(node: Any) -> list[Any]:
    """The list of what a node leads to."""
    match node:
        case dict():
            return node.setdefault("next", [])
        case list():
            return node
        case types.FunctionType():
            return node()
        case functools.partial():
            return node()
        case _:
            return node.next


def parts_of(value: Any) -> list[Any]:
    """All that an object leads to, in an order."""
    match value:
        case dict():
            return [part for pair in value.items() for part in pair]
        case list():
            return [*value, vars(value)] if hasattr(value, "__dict__") else list(value)
        case types.FunctionType():
            cells = value.__closure__ or ()
            return [*cells, value.__dict__, value.__defaults__, value.__name__, value.__qualname__]
        case types.CellType():
            return [value.cell_contents]
        case functools.partial():
            return [value.func, *value.args]
        case tuple():
            return list(value)
        case _ if hasattr(value, "__slots__"):
            return [value.next]
        case _ if hasattr(value, "__dict__"):
            return [type(value).__name__, vars(value)]
        case _:
            return []


def assert_same_shape(first: Any, second: Any) -> None:
    """Walk both at the same time; each object of one belongs to exactly one of the other."""
    pairs: dict[int, int] = {}
    back: dict[int, int] = {}
    waiting = [(first, second)]
    alive: list[Any] = []
    while waiting:
        a, b = waiting.pop()
        assert type(a).__name__ == type(b).__name__
        if isinstance(a, str | int | None) or a == ():
            assert a == b
            continue
        known = id(a) in pairs
        assert pairs.setdefault(id(a), id(b)) == id(b)
        assert back.setdefault(id(b), id(a)) == id(a)
        if not known:
            parts = parts_of(a), parts_of(b)
            alive.append(parts)  # so that no other object gets the identity of a part
            waiting += zip(*parts, strict=True)


@given(graph=_GRAPHS)
def test_a_graph_keeps_its_shape(graph: list[tuple[int, list[int]]]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(_CELL, namespace)
    kinds = namespace["KINDS"]
    nodes = [kinds[kind]() for kind, _ in graph]
    for node, (_, links) in zip(nodes, graph, strict=True):
        links_of(node).extend(nodes[link % len(nodes)] for link in links)
    found, new = copied(nodes, namespace)
    assert_same_shape(nodes, found)
    for node in found:
        if isinstance(node, types.FunctionType):
            assert node.__globals__ is new
