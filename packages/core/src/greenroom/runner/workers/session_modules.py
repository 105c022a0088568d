"""Imports from the session's directory: always from the current source."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any, NoReturn

from ..files import DATA_DIR


class _Loader(SourceFileLoader):
    """Compiles a module each time.

    Bytecode is matched to its source by size and time in seconds: a module fixed within a second would run the old one.
    """

    def path_stats(self, path: str) -> NoReturn:
        raise OSError("no bytecode is used")


class _Finder(FileFinder):
    """Lists its directory each time: the time of a directory can stay the same when a module is added."""

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        self.invalidate_caches()
        return super().find_spec(fullname, target)


_LOADERS: list[tuple[Any, list[str]]] = [
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (_Loader, importlib.machinery.SOURCE_SUFFIXES),
    (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
]


def find_session_modules() -> None:
    """Let code import modules from the working directory; as in Jupyter, they do not shadow the standard library."""
    sys.path_hooks.insert(0, _find)
    places = (n for n, path in enumerate(sys.path) if os.path.basename(path) in {"site-packages", "dist-packages"})
    sys.path.insert(next(places, len(sys.path)), "")


def _find(path: str) -> _Finder:
    place = os.path.abspath(path)
    if not os.path.isdir(place) or os.path.commonpath([place, DATA_DIR]) != DATA_DIR:
        raise ImportError(f"{path} is not a session's directory", path=path)
    return _Finder(place, *_LOADERS)
