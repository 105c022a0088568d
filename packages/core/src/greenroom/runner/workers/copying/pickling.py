"""A pickler that also copies what cells define: functions, closures, classes and their instances.

`pickle` refers to functions and classes by module and name, which another process cannot import if a cell has defined
them. Here they are taken apart and put together again: their code uses the new session's namespace, and objects that
they share remain shared.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import logging
import marshal
import socket
import subprocess
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable
from pickle import PickleError, Pickler
from typing import Any, cast

from . import classes, functions
from .names import KNOWN, Known, ModuleNames, Sentinels, can_be_imported, is_module

PROTOCOL = 5


class CannotBeCopied(PickleError):
    """There is an object of a kind that cannot leave its process."""

    def __init__(self, kind: str, value: object) -> None:
        super().__init__(kind)
        self.kind = kind
        self.value = value


_LOCKS = tuple({type(lock) for lock in (threading.Lock(), threading.RLock())})

_KINDS: list[tuple[Any, str]] = [
    (types.GeneratorType, "a generator"),
    (types.AsyncGeneratorType, "an asynchronous generator"),
    (types.CoroutineType, "a coroutine"),
    ((types.FrameType, types.TracebackType), "a traceback"),
    (io.IOBase, "an open file"),
    (socket.socket, "a socket"),
    (threading.Thread, "a thread"),
    ((*_LOCKS, threading.Event, threading.Condition, threading.Semaphore), "a lock"),
    (subprocess.Popen, "a process"),
    ((asyncio.Future, asyncio.Handle), "a task"),
    (asyncio.AbstractEventLoop, "an event loop"),
    (memoryview, "a view of memory"),
]
_MEMORY = (io.BytesIO, io.StringIO)


class SessionPickler(Pickler):
    """Writes values one after another; objects that they share remain shared when they are read."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, PROTOCOL)
        self._namespace: dict[str, Any] = KNOWN["namespace"]
        self._kinds: dict[Any, str | None] = {}
        self._sentinels = Sentinels()
        self._cells: dict[int, types.CellType] = {}
        self._filled: set[int] = set()
        self._begin()

    def _begin(self) -> None:
        """Let the objects in `KNOWN` stand for their counterparts in the other session, wherever they occur.

        The pickler looks up every object in its memo before anything else, even a dictionary.
        """
        stand_ins = [Known(name) for name in KNOWN]
        self.dump(stand_ins)
        memo = dict(self.memo.copy())
        for stand_in in stand_ins:
            value = KNOWN[stand_in.name]
            if id(value) not in memo:  # two names can refer to one object; the number of entries must stay the same
                index, _ = memo.pop(id(stand_in))
                memo[id(value)] = (index, value)
        self.memo = memo

    def dump_cells(self) -> None:
        """Write the contents of cells whose functions were not written."""
        while left := [cell for number, cell in self._cells.items() if number not in self._filled]:
            self._filled.update(id(cell) for cell in left)
            self.dump([(cell, functions.content(cell)) for cell in left])
        self.dump(None)

    def reducer_override(self, value: Any) -> Any:
        kind = cast("Any", type(value))
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            return reduce(self, value)
        if issubclass(kind, type):
            return classes.reduce_class(value)
        if kind not in self._kinds:
            self._kinds[kind] = next((words for kinds, words in _KINDS if issubclass(kind, kinds)), None)
        words = self._kinds[kind]
        if words is not None and not isinstance(value, _MEMORY):
            raise CannotBeCopied(words, value)
        if isinstance(value, logging.Handler):
            state = {name: part for name, part in vars(value).items() if name != "lock"}
            return functions.make_handler, (kind,), state, None, None, functions.set_handler
        if (place := self._sentinels.place(value)) is not None:
            module, name = place
            return getattr, (sys.modules[module], name)
        return NotImplemented

    def reduce_function(self, function: types.FunctionType) -> Any:
        if can_be_imported(function):
            return NotImplemented
        names: Any = function.__globals__
        if names is not self._namespace:
            module = sys.modules.get(names.get("__name__"))  # type: ignore[arg-type]
            if is_module(module) and vars(module) is names:
                names = ModuleNames(module.__name__)  # type: ignore[union-attr]
        self._filled.update(id(cell) for cell in function.__closure__ or ())
        return functions.reduce_function(function, names)

    def reduce_cell(self, cell: types.CellType) -> Any:
        self._cells[id(cell)] = cell
        return types.CellType, ()

    def reduce_module(self, module: types.ModuleType) -> Any:
        if is_module(module):
            return functions.import_module, (module.__name__,)
        own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
        return types.ModuleType, (module.__name__, module.__doc__), own, None, None, functions.set_names


_OF_EVERY_MODULE = {"__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__name__", "__spec__"}


def _view(method: str) -> Callable[[SessionPickler, Any], Any]:
    def reduce_view(_pickler: SessionPickler, view: Any) -> Any:
        (mapping,) = gc.get_referents(view)
        return functions.call_method, (mapping, method)

    return reduce_view


def _lru_cache(_pickler: SessionPickler, cached: Any) -> Any:
    if can_be_imported(cached):
        return NotImplemented
    parameters = cached.cache_parameters()
    return functions.make_cache, (cached.__wrapped__, parameters["maxsize"], parameters["typed"])


def _weak(_pickler: SessionPickler, reference: Any) -> Any:
    value = reference()
    return (weakref.ref, (value,)) if value is not None else (functions.dead_reference, ())


def _type_variable(_pickler: SessionPickler, variable: Any) -> Any:
    if can_be_imported(variable) or (
        is_module(module := sys.modules.get(variable.__module__)) and vars(module).get(variable.__name__) is variable
    ):
        return NotImplemented
    name, bound, constraints = variable.__name__, variable.__bound__, variable.__constraints__
    return functions.make_type_variable, (name, constraints, bound, variable.__covariant__, variable.__contravariant__)


def _cached_property(_pickler: SessionPickler, value: Any) -> Any:
    return functools.cached_property, (value.func,), {"attrname": value.attrname, "__doc__": value.__doc__}


_NOTHING: dict[Any, Any] = {}

_REDUCERS: dict[type, Callable[[SessionPickler, Any], Any]] = {
    types.FunctionType: SessionPickler.reduce_function,
    types.CellType: SessionPickler.reduce_cell,
    types.ModuleType: SessionPickler.reduce_module,
    types.CodeType: lambda _, code: (marshal.loads, (marshal.dumps(code),)),
    types.MappingProxyType: lambda _, proxy: (types.MappingProxyType, (dict(proxy),)),
    type(_NOTHING.keys()): _view("keys"),
    type(_NOTHING.values()): _view("values"),
    type(_NOTHING.items()): _view("items"),
    property: lambda _, value: (property, (value.fget, value.fset, value.fdel, value.__doc__)),
    classmethod: lambda _, value: (classmethod, (value.__func__,)),
    staticmethod: lambda _, value: (staticmethod, (value.__func__,)),
    functools.cached_property: _cached_property,
    type(functools.lru_cache(len)): _lru_cache,
    weakref.ref: _weak,
    weakref.WeakValueDictionary: lambda _, value: (weakref.WeakValueDictionary, (dict(value),)),
    weakref.WeakKeyDictionary: lambda _, value: (weakref.WeakKeyDictionary, (dict(value),)),
    weakref.WeakSet: lambda _, value: (weakref.WeakSet, (list(value),)),
    typing.TypeVar: _type_variable,
    typing.NewType: lambda _, value: (
        NotImplemented if can_be_imported(value) else (typing.NewType, (value.__name__, value.__supertype__))
    ),
}
