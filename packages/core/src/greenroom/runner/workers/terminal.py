"""Imports IPython without its terminal, which a session does not have."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_EMBED = "IPython.terminal.embed"


@contextmanager
def without_terminal() -> Generator[None, None, None]:
    """Import IPython without its terminal: that is a third of a worker's start time, only for `IPython.embed`.

    Code that accesses `IPython.embed` still gets it, as it is imported then.
    """
    placeholder: Any = ModuleType(_EMBED)
    placeholder.embed = object()
    sys.modules[_EMBED] = placeholder
    try:
        yield
    finally:
        del sys.modules[_EMBED]
    package: Any = sys.modules["IPython"]
    names: dict[str, Any] = package.__dict__
    if names.get("embed") is placeholder.embed:  # later versions import it by themselves when it is accessed
        del package.embed
        package.__getattr__ = _embed


def _embed(name: str) -> Any:
    if name != "embed":
        raise AttributeError(f"module 'IPython' has no attribute {name!r}")
    from IPython.terminal import embed

    terminal: Any = embed
    return terminal.embed
