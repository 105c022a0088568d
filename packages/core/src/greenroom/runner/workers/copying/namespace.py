"""The contents of the session's shell: variables, inputs and outputs, and what cells have registered with IPython."""

from __future__ import annotations

import linecache
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

_UNDERSCORES = ("_", "__", "___")


class Item(NamedTuple):
    """Something that is copied or left out as a whole."""

    kind: str
    name: str
    value: Any

    @property
    def label(self) -> str:
        """Its name for users."""
        match self.kind:
            case "variable":
                return self.name
            case "output":
                return f"Out[{self.name}]"
            case _:
                return f"{self.kind} {self.name}"


def items_of(shell: Any, initial: dict[str, Any]) -> Iterator[Item]:
    """Yield what to copy, in an order in which it can be recreated: dependencies come first.

    Args:
        shell: IPython's shell.
        initial: the variables that every session begins with.
    """
    names, hidden = shell.user_ns, shell.user_ns_hidden
    yield Item("sources", "of cells", _sources(shell))
    yield Item("history", "of cells", _history(shell))
    own = {
        name: value
        for name, value in list(names.items())  # threads of the session may be running
        if isinstance(name, str)
        and initial.get(name, _NOTHING) is not value
        and hidden.get(name, _NOTHING) is not value
    }
    for late in (False, True):
        for name, value in own.items():
            if isinstance(value, types.ModuleType | types.FunctionType | type) is not late:
                yield Item("variable", name, value)
    for number, value in dict(shell.history_manager.output_hist).items():
        yield Item("output", str(number), value)
    hook = shell.displayhook
    for name in _UNDERSCORES:
        yield Item("last output", name, (getattr(hook, name, ""), names.get(name) is hidden.get(name, _NOTHING)))
    yield from _given_to_ipython(shell)
    yield Item("order", "of variables", [name for name in names if isinstance(name, str)])


_NOTHING = object()


def _sources(shell: Any) -> Any:
    """The source of cells, for tracebacks and `inspect`."""
    compiler = shell.compile
    numbers: dict[str, int] = dict(getattr(compiler, "_filename_map", {}))
    return numbers, {name: linecache.cache[name] for name in numbers if name in linecache.cache}


def _set_sources(shell: Any, _name: str, value: Any) -> None:
    numbers, entries = value
    linecache.cache.update(entries)
    getattr(shell.compile, "_filename_map", {}).update(numbers)


def _history(shell: Any) -> Any:
    manager = shell.history_manager
    last = [getattr(manager, name) for name in ("_i", "_ii", "_iii", "_i00")]
    inputs = list(manager.input_hist_parsed), list(manager.input_hist_raw)
    return inputs, last, list(manager.dir_hist), shell.execution_count


def _set_history(shell: Any, _name: str, value: Any) -> None:
    manager = shell.history_manager
    (parsed, raw), last, directories, shell.execution_count = value
    manager.input_hist_parsed[:], manager.input_hist_raw[:] = parsed, raw
    manager.dir_hist[:] = directories
    for name, text in zip(("_i", "_ii", "_iii", "_i00"), last, strict=True):
        setattr(manager, name, text)
    inputs = {f"_i{number}": text for number, text in enumerate(raw) if number}
    inputs |= {"_i": manager._i, "_ii": manager._ii, "_iii": manager._iii}  # noqa: SLF001
    shell.push(inputs, interactive=False)


def _set_variable(shell: Any, name: str, value: Any) -> None:
    shell.user_ns[name] = value


def _set_output(shell: Any, name: str, value: Any) -> None:
    shell.history_manager.output_hist[int(name)] = value
    shell.push({f"_{name}": value}, interactive=False)


def _set_last_output(shell: Any, name: str, value: Any) -> None:
    last, shown = value
    setattr(shell.displayhook, name, last)
    if shown:
        shell.push({name: last}, interactive=False)


def _set_order(shell: Any, _name: str, order: list[str]) -> None:
    names = shell.user_ns
    for name in order:
        if name in names:
            names[name] = names.pop(name)


def _given_to_ipython(shell: Any) -> Iterator[Item]:
    for kind, magics in shell.magics_manager.magics.items():
        for name, function in list(magics.items()):
            if _is_of_cells(shell, function):
                yield Item(f"{kind} magic", name, function)
    for media_type, formatter in shell.display_formatter.formatters.items():
        printers = {kind: printer for kind, printer in formatter.type_printers.items() if _is_of_cells(shell, printer)}
        if printers:
            yield Item("formatters", f"of {media_type}", (media_type, printers))
    for event, callbacks in shell.events.callbacks.items():
        own = [callback for callback in callbacks if _is_of_cells(shell, callback)]
        if own:
            yield Item("callbacks", f"of {event}", (event, own))


def _is_of_cells(shell: Any, function: Any) -> bool:
    # By type alone: IPython loads a lazy magic when any attribute is read, and an interrupt then leaves it broken.
    if type(function) not in {types.FunctionType, types.MethodType}:
        return False
    return function.__globals__ is shell.user_ns or (
        type(function) is types.FunctionType and function.__module__ == "__main__"
    )


def _set_magic(kind: str) -> Any:
    def set_magic(shell: Any, name: str, function: Any) -> None:
        shell.magics_manager.magics[kind][name] = function

    return set_magic


def _set_formatters(shell: Any, _name: str, value: Any) -> None:
    media_type, printers = value
    shell.display_formatter.formatters[media_type].type_printers.update(printers)


def _set_callbacks(shell: Any, _name: str, value: Any) -> None:
    event, callbacks = value
    shell.events.callbacks[event].extend(callbacks)


def forget(shell: Any, initial: dict[str, Any]) -> None:
    """Reset the namespace to its initial state, before it is filled again."""
    for magics in shell.magics_manager.magics.values():
        _drop(magics, [name for name, function in magics.items() if _is_of_cells(shell, function)])
    for formatter in shell.display_formatter.formatters.values():
        printers = formatter.type_printers
        _drop(printers, [kind for kind, printer in printers.items() if _is_of_cells(shell, printer)])
    for callbacks in shell.events.callbacks.values():
        callbacks[:] = [callback for callback in callbacks if not _is_of_cells(shell, callback)]
    names = shell.user_ns
    names.clear()
    names.update(initial)
    shell.history_manager.output_hist.clear()


def _drop(held: dict[Any, Any], keys: list[Any]) -> None:
    for key in keys:
        del held[key]


SETTERS: dict[str, Any] = {
    "sources": _set_sources,
    "history": _set_history,
    "variable": _set_variable,
    "output": _set_output,
    "last output": _set_last_output,
    "line magic": _set_magic("line"),
    "cell magic": _set_magic("cell"),
    "formatters": _set_formatters,
    "callbacks": _set_callbacks,
    "order": _set_order,
}
