"""Settings that cells make in the process and in libraries, if later cells depend on them.

Settings of a library are copied only if the session has imported it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from .namespace import Item

_PLAIN = (str, int, float, bool, type(None))


class _Setting(NamedTuple):
    module: str
    get: Callable[[Any], Any]
    set: Callable[[Any, Any], None]


def settings_of(shell: Any, before: dict[str, str]) -> Iterator[Item]:
    """Yield the settings to copy before the variables, which may need them.

    Args:
        shell: IPython's shell.
        before: the environment variables of a new session, including the session's own.
    """
    changed: dict[str, str | None] = {name: value for name, value in os.environ.items() if before.get(name) != value}
    changed |= {name: None for name in before if name not in os.environ}
    yield Item("environment", "variables", changed)
    yield Item("working", "directory", _directory())
    yield Item("sys.path", "entries", list(sys.path))
    yield Item("extensions", "of IPython", sorted(shell.extension_manager.loaded))


def late_settings_of(shell: Any) -> Iterator[Item]:
    """Yield the settings to copy last, as recreating the variables can change them."""
    yield Item("settings", "of IPython", _traits(shell))
    yield Item("aliases", "of IPython", list(shell.alias_manager.aliases))
    for name, logger in [("root", logging.root), *logging.root.manager.loggerDict.items()]:
        if isinstance(logger, logging.Logger) and (name == "root" or name.partition(".")[0] not in sys.modules):
            yield Item("logger", name, (logger.level, logger.propagate, logger.disabled, list(logger.handlers)))
    for name, (module, get, _) in _SETTINGS.items():
        if (loaded := sys.modules.get(module)) is not None:
            with contextlib.suppress(Exception):  # another version of the library
                yield Item("library", name, get(loaded))


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # deleted
        return None


def _set_environment(_shell: Any, _name: str, changed: dict[str, str | None]) -> None:
    for name, value in changed.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    time.tzset()


def _set_directory(_shell: Any, _name: str, directory: str | None) -> None:
    if directory is not None:
        with contextlib.suppress(OSError):  # not one of the session's files
            os.chdir(directory)


def _set_path(_shell: Any, _name: str, path: list[str]) -> None:
    sys.path[:] = path


def _load_extensions(shell: Any, _name: str, extensions: list[str]) -> None:
    for name in extensions:
        if name not in shell.extension_manager.loaded:
            shell.extension_manager.load_extension(name)


def _set_aliases(shell: Any, _name: str, aliases: list[tuple[str, str]]) -> None:
    there = set(shell.alias_manager.aliases)
    for name, command in aliases:
        if (name, command) not in there:
            shell.alias_manager.define_alias(name, command)


def _set_logger(_shell: Any, name: str, value: Any) -> None:
    logger = logging.root if name == "root" else logging.getLogger(name)
    level, logger.propagate, logger.disabled, logger.handlers[:] = value
    logger.setLevel(level)


# IPython


def _configurables(shell: Any) -> dict[str, Any]:
    found = {"shell": shell, "display": shell.display_formatter, "magics": shell.magics_manager}
    found |= {f"formatter {name}": formatter for name, formatter in shell.display_formatter.formatters.items()}
    inline: Any = sys.modules.get("matplotlib_inline.config")
    if inline is not None:
        found["inline"] = inline.InlineBackend.instance(parent=shell)
    return found


def _traits(shell: Any) -> Any:
    values = {
        owner: {
            name: value
            for name in configurable.trait_names(config=True)
            if _is_plain(value := getattr(configurable, name))
        }
        for owner, configurable in _configurables(shell).items()
    }
    return values, shell.InteractiveTB.mode, "matplotlib_inline.config" in sys.modules


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(part) for key, part in cast("dict[Any, Any]", value).items())
    if type(value) in {list, tuple, set}:
        return all(_is_plain(part) for part in value)
    return type(value) in _PLAIN


def _set_traits(shell: Any, _name: str, value: Any) -> None:
    values, mode, inline = value
    if inline:
        importlib.import_module("matplotlib_inline.config")
    for owner, configurable in _configurables(shell).items():
        for name, wanted in values.get(owner, {}).items():
            if getattr(configurable, name) != wanted:
                with contextlib.suppress(Exception):
                    setattr(configurable, name, wanted)
    shell.InteractiveTB.set_mode(mode=mode)


# Libraries


def _pandas_options(pandas: Any) -> dict[str, Any]:
    registered = pandas._config.config._registered_options  # noqa: SLF001
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are deprecated
        values = {name: pandas.get_option(name) for name in registered}
    return {name: value for name, value in values.items() if value != registered[name].defval}


def _set_pandas_options(pandas: Any, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in options.items():
            pandas.set_option(name, value)


def _filters(module: Any) -> list[Any]:
    return list(module.filters)


def _set_filters(module: Any, filters: list[Any]) -> None:
    module.filters[:] = filters
    module._filters_mutated()  # noqa: SLF001


def _locale(module: Any) -> str:
    return module.setlocale(module.LC_ALL)


def _set_locale(module: Any, value: str) -> None:
    module.setlocale(module.LC_ALL, value)


def _printing(numpy: Any) -> dict[str, Any]:
    return numpy.get_printoptions()


def _set_printing(numpy: Any, options: dict[str, Any]) -> None:
    numpy.set_printoptions(**{name: value for name, value in options.items() if name != "override_repr"})


def _handling(numpy: Any) -> dict[str, str]:
    return numpy.geterr()


def _set_handling(numpy: Any, handling: dict[str, str]) -> None:
    numpy.seterr(**handling)


def _rc_parameters(matplotlib: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict(
        cast("Any", dict).items(matplotlib.rcParams)
    )  # without looking the backend up, which would choose one
    return {name: value for name, value in values.items() if name != "backend" or isinstance(value, str)}


def _set_rc_parameters(matplotlib: Any, values: dict[str, Any]) -> None:
    cast("Any", dict).update(matplotlib.rcParams, values)


def _figures(pyplot: Any) -> Any:
    """pyplot's open figures by number, the current one last, and those that the end of the cell would show."""
    managers = pyplot._pylab_helpers.Gcf.figs  # noqa: SLF001
    inline: Any = sys.modules.get("matplotlib_inline.backend_inline")
    show = None if inline is None else (list(inline.show._to_draw), inline.show._draw_called)  # noqa: SLF001
    return [(number, manager.canvas.figure) for number, manager in managers.items()], show, pyplot.isinteractive()


def _set_figures(pyplot: Any, value: Any) -> None:
    """Register figures under their numbers; pyplot gave them others when they were recreated."""
    numbers, show, interactive = value
    managers = pyplot._pylab_helpers.Gcf.figs  # noqa: SLF001
    managers.clear()
    for number, figure in numbers:
        manager = figure.canvas.manager
        manager.num = number
        with contextlib.suppress(AttributeError):
            figure.number = number
        managers[number] = manager
    inline: Any = sys.modules.get("matplotlib_inline.backend_inline")
    if inline is not None and show is not None:
        inline.show._to_draw, inline.show._draw_called = show  # noqa: SLF001
    (pyplot.ion if interactive else pyplot.ioff)()


def _plotly_defaults(io: Any) -> Any:
    return io.templates.default, io.renderers.default


def _set_plotly_defaults(io: Any, value: Any) -> None:
    io.templates.default, io.renderers.default = value


def _calls(module: str, get: str, change: str) -> _Setting:
    """A setting that one function of a module returns and another one sets."""

    def call(loaded: Any) -> Any:
        return getattr(loaded, get)()

    def set_to(loaded: Any, value: Any) -> None:
        getattr(loaded, change)(value)

    return _Setting(module, call, set_to)


_SETTINGS: dict[str, _Setting] = {
    "warnings": _Setting("warnings", _filters, _set_filters),
    "locale": _Setting("locale", _locale, _set_locale),
    "recursion limit": _calls("sys", "getrecursionlimit", "setrecursionlimit"),
    "decimal": _calls("decimal", "getcontext", "setcontext"),
    "numpy printing": _Setting("numpy", _printing, _set_printing),
    "numpy errors": _Setting("numpy", _handling, _set_handling),
    "pandas options": _Setting("pandas", _pandas_options, _set_pandas_options),
    "plotly defaults": _Setting("plotly.io", _plotly_defaults, _set_plotly_defaults),
    "matplotlib figures": _Setting("matplotlib.pyplot", _figures, _set_figures),
    "matplotlib parameters": _Setting("matplotlib", _rc_parameters, _set_rc_parameters),
    # Last: recreating the settings before these can use random numbers.
    "numpy random": _calls("numpy.random", "get_state", "set_state"),
    "torch random": _calls("torch", "get_rng_state", "set_rng_state"),
    "random": _calls("random", "getstate", "setstate"),
}


def _set_library(_shell: Any, name: str, value: Any) -> None:
    setting = _SETTINGS[name]
    setting.set(importlib.import_module(setting.module), value)


SETTERS: dict[str, Any] = {
    "environment": _set_environment,
    "working": _set_directory,
    "sys.path": _set_path,
    "extensions": _load_extensions,
    "settings": _set_traits,
    "aliases": _set_aliases,
    "logger": _set_logger,
    "library": _set_library,
}
