"""What the tests of the adapters work with."""

from collections.abc import Iterator

import pytest

from greenroom import SessionPool
from greenroom.testing import ScriptedBackend, engine_pool, scripted_pool


@pytest.fixture
def backend() -> ScriptedBackend:
    """What the pool says and remembers."""
    return ScriptedBackend()


@pytest.fixture
def pool(backend: ScriptedBackend) -> Iterator[SessionPool]:
    """A pool in which nothing runs."""
    with scripted_pool(backend) as pool:
        yield pool


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[SessionPool]:
    """A pool of real sandboxes."""
    with engine_pool("bubblewrap:", preload=()) as pool:
        yield pool
