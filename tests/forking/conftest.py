"""A pool for forks, and a fork of a session that has run some code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from greenroom import SessionPool
from greenroom.testing import engine_pool


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with engine_pool("bubblewrap:", ready_session_instances=1, max_concurrent_sessions=6, memory="1Gi") as pool:
        yield pool
