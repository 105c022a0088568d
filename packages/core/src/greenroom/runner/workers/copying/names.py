"""Objects that a copy refers to by name: those that can be imported, and those that each session has its own of."""

from __future__ import annotations

import copyreg
import importlib
import sys
import types
from typing import Any, cast

OWN_MODULE = "__main__"
"""The module in which cells define functions and classes."""

KNOWN: dict[str, Any] = {}
"""Objects that every session has exactly one of, by name: its namespace, its shell, its streams."""


class Known:
    """Stands for an object in `KNOWN`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return known, (self.name,)


class ModuleNames:
    """Stands for the namespace of a module that can be imported."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return names_of_module, (self.name,)


def known(name: str) -> Any:
    return KNOWN[name]


def names_of_module(name: str) -> dict[str, Any]:
    return importlib.import_module(name).__dict__


def is_module(module: object) -> bool:
    """Whether this is a module that another process can import, not one that code has created."""
    name = getattr(module, "__name__", None)
    if name == OWN_MODULE or not isinstance(name, str) or sys.modules.get(name) is not module:
        return False
    return getattr(module, "__spec__", None) is not None


def can_be_imported(value: Any) -> bool:
    """Whether a function or a class is found by its name in a module that can be imported."""
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or not is_module(sys.modules.get(module)):
        return False
    found: Any = sys.modules[module]
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            return False
    return found is value


class Sentinels:
    """Objects that are module attributes, such as `dataclasses.MISSING`."""

    def __init__(self) -> None:
        self._plain: dict[Any, bool] = {}
        self._places: dict[int, tuple[str, str]] | None = None

    def place(self, value: Any) -> tuple[str, str] | None:
        """Return the module and the name of such an object; `None` for all others."""
        if not self._is_plain(value):
            return None
        if self._places is None:
            self._places = {
                id(found): (module_name, name)
                for module_name, module in list(sys.modules.items())
                if is_module(module)
                for name, found in list(vars(module).items())
                if self._is_plain(found) and _are_of_one_library(found, module_name)
            }
        return self._places.get(id(value))

    def _is_plain(self, value: Any) -> bool:
        """Whether pickle itself would take an object apart."""
        kind = cast("Any", type(value))
        plain = self._plain.get(kind)
        if plain is None:
            plain = self._plain[kind] = (
                kind.__module__ != OWN_MODULE
                and kind.__reduce_ex__ is object.__reduce_ex__
                and kind.__reduce__ is object.__reduce__
                and kind not in copyreg.dispatch_table
                and not issubclass(kind, _OTHERWISE)
            )
        return plain


_OTHERWISE = (type, types.ModuleType, types.FunctionType, int, float, complex, str, bytes, list, dict, tuple, set)


def _are_of_one_library(value: Any, module: str) -> bool:
    library: object = cast("Any", type(value)).__module__
    return type(value) is object or (isinstance(library, str) and library.partition(".")[0] == module.partition(".")[0])
