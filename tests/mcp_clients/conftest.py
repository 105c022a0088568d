"""The fixtures of MCP's clients of version 2: one server for all of them, and the command that they start."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from serving import GREENROOM, Server, serving

POOL = "bubblewrap:?preload=matplotlib.pyplot&ready_session_instances=1"
COMMAND = (str(GREENROOM), "mcp", "--pool", POOL)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving("bubblewrap", secrets.token_urlsafe(), pool=POOL) as server:
        yield server
