"""Pools for tests that need a real engine."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from greenroom.connecting import connect
from greenroom.errors import EngineUnavailable
from greenroom.sessions import SessionPool


def engine_pool(url: str | None, **options: Any) -> SessionPool:
    """Open a pool of an engine. If the engine is missing, the test is skipped, or fails if the engine is required.

    Args:
        url: as for `greenroom.connect`. The engine is required if its scheme is in the environment variable
            `GREENROOM_REQUIRE_ENGINES`, a list such as `bubblewrap,docker`; without a URL, some engine is required if
            the variable is set.
        options: as for `greenroom.connect`.
    """
    with skipping_without(url):
        return connect(url, **options)


@contextmanager
def skipping_without(url: str | None) -> Generator[None, None, None]:
    """Skip the test if `EngineUnavailable` is raised inside, unless that engine is required."""
    try:
        yield
    except EngineUnavailable as error:
        required = os.environ.get("GREENROOM_REQUIRE_ENGINES", "")
        if (url.partition(":")[0] in required.split(",")) if url else required:
            raise
        pytest.skip(str(error))
