"""Takes classes apart and puts them together again.

A class is created empty and gets its attributes afterwards, as they can refer to it. Meanwhile, none of the session's
code runs: copying a class does not call its metaclass's `__new__` or its bases' `__init_subclass__` again,
which would register it twice or miss their arguments.
"""

from __future__ import annotations

import contextlib
import enum
import types
from collections.abc import Generator
from typing import Any, cast

from .names import can_be_imported

_LEFT_OUT = {"__dict__", "__weakref__", "_abc_impl", "__annotations_cache__"}
_OF_ENUMS = {
    "__new__",
    "_boundary_",
    "_flag_mask_",
    "_generate_next_value_",
    "_hashable_values_",
    "_inverted_",
    "_all_bits_",
    "_member_map_",
    "_member_names_",
    "_member_type_",
    "_new_member_",
    "_singles_mask_",
    "_unhashable_values_",
    "_unhashable_values_map_",
    "_use_args_",
    "_value2member_map_",
    "_value_repr_",
}
_OF_MEMBERS = {"_value_", "_name_", "_sort_order_", "__objclass__"}
_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def reduce_class(kind: Any) -> Any:
    if can_be_imported(kind) or kind in {type(None), type(NotImplemented), type(...)}:
        return NotImplemented
    if not kind.__flags__ & _HEAP:  # one of the interpreter's own classes
        name = next((name for name, value in vars(types).items() if value is kind), None)
        return NotImplemented if name is None else (getattr, (types, name))
    if issubclass(kind, enum.Enum):
        return _reduce_enum(kind)
    beginning: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    attributes: dict[str, Any] = {}
    for name, value in _attributes(kind).items():
        if name in {"__slots__", "__orig_bases__"}:
            beginning[name] = value
        elif name not in _LEFT_OUT and name not in beginning and not _is_slot(value, kind):
            attributes[name] = value
    if "__slots__" in beginning and not isinstance(beginning["__slots__"], str):
        beginning["__slots__"] = tuple(beginning["__slots__"])
    if "__abstractmethods__" in vars(kind):
        attributes["__abstractmethods__"] = kind.__abstractmethods__
    metaclass = cast("Any", type(kind))
    makes = next(each for each in metaclass.__mro__ if can_be_imported(each))
    made_of = (metaclass, makes), kind.__name__, kind.__bases__, beginning
    return make_class, made_of, attributes, None, None, set_class


def _attributes(value: Any) -> dict[str, Any]:
    return {**vars(value)}


def _is_slot(value: Any, kind: type) -> bool:
    return isinstance(value, types.MemberDescriptorType) and value.__objclass__ is kind


def make_class(metaclasses: tuple[Any, Any], name: str, bases: tuple[type, ...], beginning: dict[str, Any]) -> Any:
    metaclass, makes = metaclasses
    with _silent(bases):
        if makes is metaclass:
            return makes(name, bases, dict(beginning))
        return makes.__new__(metaclass, name, bases, dict(beginning))


@contextlib.contextmanager
def _silent(bases: tuple[type, ...]) -> Generator[None, None, None]:
    """Keep classes of the session from being notified again of a subclass that they already know."""
    hooks = {
        kind: vars(kind)["__init_subclass__"]
        for base in bases
        for kind in base.__mro__
        if "__init_subclass__" in vars(kind) and not can_be_imported(kind)
    }
    for kind in hooks:
        type.__setattr__(kind, "__init_subclass__", classmethod(_ignore))
    try:
        yield
    finally:
        for kind, hook in hooks.items():
            type.__setattr__(kind, "__init_subclass__", hook)


def _ignore(_kind: type, **_: Any) -> None:
    pass


def set_class(kind: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        type.__setattr__(kind, "__annotate__" if name == "__annotate_func__" else name, value)


def _reduce_enum(kind: Any) -> tuple[Any, ...]:
    members: dict[str, Any] = kind._member_map_
    values = {name: member._value_ for name, member in members.items()}
    attributes: dict[str, Any] = {
        name: value
        for name, value in _attributes(kind).items()
        if name not in _OF_ENUMS | _LEFT_OUT | members.keys() | {"__module__", "__qualname__"}
    }
    own: dict[str, dict[str, Any]] = {
        name: {key: part for key, part in _attributes(member).items() if key not in _OF_MEMBERS}
        for name, member in members.items()
    }
    boundary = getattr(kind, "_boundary_", None)
    made_of = kind.__bases__, kind.__name__, (kind.__module__, kind.__qualname__), values, boundary
    return make_enum, made_of, (attributes, own), None, None, set_enum


def make_enum(bases: tuple[Any, ...], name: str, place: tuple[str, str], values: dict[str, Any], boundary: Any) -> Any:
    metaclass = cast("Any", type(bases[-1]))
    names = metaclass.__prepare__(name, bases)
    names["__module__"], names["__qualname__"] = place
    for member, value in values.items():
        names[member] = value
    return metaclass.__new__(metaclass, name, bases, names, **({} if boundary is None else {"boundary": boundary}))


def set_enum(kind: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    attributes, own = state
    set_class(kind, attributes)
    for name, parts in own.items():
        kind._member_map_[name].__dict__.update(parts)
