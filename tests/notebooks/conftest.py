"""Fixtures of the notebooks' tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from greenroom import SessionPool
from greenroom.testing import engine_pool
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

ROOT = Path(__file__).parents[2]


def load(path: Path) -> ModuleType:
    """A module that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"notebooks_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def build() -> Any:
    """The script that executes notebooks and writes them."""
    return load(ROOT / "notebooks" / "build.py")


@pytest.fixture(scope="session")
def script() -> Any:
    """The turns of the examples' scripted models."""
    return load(ROOT / "examples" / "models" / "script.py")


@pytest.fixture(scope="session")
def bubblewrap() -> Iterator[SessionPool]:
    """A pool of real sandboxes."""
    with engine_pool("bubblewrap:", ready_session_instances=0) as pool:
        yield pool


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """The address of a server of real sandboxes."""
    with ExitStack() as stack:
        with skipping_without("bubblewrap:"):
            url = stack.enter_context(serving("bubblewrap:"))
        yield url
