"""Engines for `connect` without isolation, in place of those of this machine."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from greenroom.engines import registry
from greenroom.engines.base import Engine, EngineOptions, EnginePlugin
from greenroom.testing.memory_engine import MemoryEngine


class MemoryOptions(EngineOptions):
    """As Docker has them."""

    image: str | None = None


def _make(_options: MemoryOptions) -> Engine:
    return MemoryEngine()


IN_MEMORY = EnginePlugin(MemoryOptions, _make)


def only_engines(monkeypatch: pytest.MonkeyPatch, **plugins: EnginePlugin[Any]) -> None:
    """Replace Greenroom's own engines, by scheme, and hide the environment's pool."""
    for scheme, plugin in plugins.items():
        monkeypatch.setitem(sys.modules, f"engine_of_{scheme}", SimpleNamespace(PLUGIN=plugin))
    monkeypatch.setattr(registry, "BUILT_IN", {scheme: f"engine_of_{scheme}" for scheme in plugins})
    for name in ("GREENROOM_POOL", "GREENROOM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
