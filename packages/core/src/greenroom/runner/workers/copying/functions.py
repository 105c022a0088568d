"""Takes functions and small objects apart and puts them together again."""

from __future__ import annotations

import functools
import importlib
import marshal
import types
import typing
import weakref
from typing import Any

_ATTRIBUTES = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")


def reduce_function(function: types.FunctionType, names: Any) -> tuple[Any, ...]:
    """Take a function apart.

    Its cells come first without their contents, which can refer to the function; other functions that share a
    cell set the same content again.
    """
    state: dict[str, Any] = {name: getattr(function, name) for name in _ATTRIBUTES}
    annotate = getattr(function, "__annotate__", None)  # since Python 3.14
    if annotate is not None:
        state["__annotate__"] = annotate
    else:
        state["__annotations__"] = function.__annotations__
    if parameters := getattr(function, "__type_params__", None):
        state["__type_params__"] = parameters
    cells = function.__closure__
    contents = None if cells is None else [content(cell) for cell in cells]
    made_of = marshal.dumps(function.__code__), names, cells
    return make_function, made_of, (state, function.__dict__, contents), None, None, set_function


def make_function(code: bytes, names: dict[str, Any], cells: tuple[types.CellType, ...] | None) -> types.FunctionType:
    return types.FunctionType(marshal.loads(code), names, None, None, cells)  # noqa: S302  in the sandbox


def set_function(function: types.FunctionType, parts: tuple[dict[str, Any], dict[str, Any], list[Any] | None]) -> None:
    state, own, contents = parts
    for cell, held in zip(function.__closure__ or (), contents or (), strict=True):
        fill(cell, held)
    for name, value in state.items():
        setattr(function, name, value)
    function.__dict__.update(own)


def content(cell: types.CellType) -> tuple[Any, ...]:
    """Return the content of a cell; nothing if it is empty."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def fill(cell: types.CellType, held: tuple[Any, ...]) -> None:
    if held:
        (cell.cell_contents,) = held


def import_module(name: str) -> types.ModuleType:
    return importlib.import_module(name)


def set_names(module: types.ModuleType, names: dict[str, Any]) -> None:
    vars(module).update(names)


def call_method(value: Any, name: str) -> Any:
    return getattr(value, name)()


def make_cache(function: Any, size: int | None, typed: bool) -> Any:
    """Recreate a cache of results; it begins empty."""
    return functools.lru_cache(size, typed)(function)


def dead_reference() -> Any:
    class Gone:
        pass

    return weakref.ref(Gone())


def make_type_variable(name: str, constraints: tuple[Any, ...], bound: Any, covariant: bool, contra: bool) -> Any:
    make: Any = typing.TypeVar
    variable = make(name, *constraints, bound=bound, covariant=covariant, contravariant=contra)
    variable.__module__ = "__main__"
    return variable


def make_handler(kind: Any) -> Any:
    return kind.__new__(kind)


def set_handler(handler: Any, state: dict[str, Any]) -> None:
    handler.__dict__.update(state)
    handler.createLock()
