"""A pytest plug-in: fixtures for programs that run code in sessions. Every pytest in its environment loads it, so it
imports nothing else until one of its fixtures is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from greenroom import Session, SessionPool
    from greenroom.testing import ScriptedBackend

_MARKER = "greenroom"
_WITH_SANDBOXES = frozenset({"greenroom_pool", "greenroom_session", "azure_sessions_endpoint"})


def pytest_addoption(parser: pytest.Parser) -> None:
    where = "the pool of greenroom's fixtures, such as docker: (by default GREENROOM_POOL, or the best engine)"
    parser.getgroup("greenroom").addoption("--greenroom-pool", metavar="URL", help=where)
    parser.addini("greenroom_pool", where)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_MARKER}: the test needs sandboxes; set by greenroom's fixtures")


def pytest_itemcollected(item: pytest.Item) -> None:
    if not _WITH_SANDBOXES.isdisjoint(getattr(item, "fixturenames", ())):
        item.add_marker(_MARKER)


@pytest.fixture(scope="session")
def greenroom_pool_url(pytestconfig: pytest.Config) -> str | None:
    """The URL of the pool, as for `greenroom.connect`; a conftest can override it."""
    return pytestconfig.getoption("--greenroom-pool") or pytestconfig.getini("greenroom_pool") or None


@pytest.fixture(scope="session")
def greenroom_pool(greenroom_pool_url: str | None) -> Iterator[SessionPool]:
    """A pool of sandboxes, shared by all tests. Tests are skipped if no sandbox can be created."""
    _require("greenroom.testing", "testing")
    from greenroom.testing import engine_pool

    with engine_pool(greenroom_pool_url) as pool:
        yield pool


@pytest.fixture
def greenroom_session(greenroom_pool: SessionPool) -> Iterator[Session]:
    """A new session for the test, deleted at its end."""
    with greenroom_pool.session() as session:
        yield session


@pytest.fixture(scope="session")
def _azure_sessions_server(greenroom_pool_url: str | None) -> Iterator[dict[str, str]]:
    _require("greenroom.testing", "testing")
    _require("greenroom.server.app", "server")
    from greenroom.testing.engines import skipping_without
    from greenroom.testing.identity import managed_identity
    from greenroom.testing.server import serving

    with ExitStack() as stack:
        with skipping_without(greenroom_pool_url):
            url = stack.enter_context(serving(greenroom_pool_url))
        identity = stack.enter_context(managed_identity())
        yield {"ACA_POOL_MANAGEMENT_ENDPOINT": url, "GREENROOM_POOL": url, **identity}


@pytest.fixture
def azure_sessions_endpoint(_azure_sessions_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The management endpoint of a pool with Azure's API, on the loopback, shared by all tests of a process.

    During the test, the environment directs Azure's clients to it: `ACA_POOL_MANAGEMENT_ENDPOINT` and `GREENROOM_POOL`
    name the endpoint, and `DefaultAzureCredential` finds a managed identity.
    """
    for name, value in _azure_sessions_server.items():
        monkeypatch.setenv(name, value)
    return _azure_sessions_server["GREENROOM_POOL"]


@pytest.fixture
def greenroom_script() -> ScriptedBackend:
    """The answers of `greenroom_scripted_pool`, and the requests that it received."""
    _require("greenroom.testing", "testing")
    from greenroom.testing import ScriptedBackend

    return ScriptedBackend()


@pytest.fixture
def greenroom_scripted_pool(greenroom_script: ScriptedBackend) -> Iterator[SessionPool]:
    """A pool that runs nothing and returns the answers of `greenroom_script`."""
    from greenroom.testing import scripted_pool

    with scripted_pool(greenroom_script) as pool:
        yield pool


def _require(module: str, extra: str) -> None:
    """Fail with the command that installs what a fixture needs, if it is missing."""
    try:
        import_module(module)
    except ImportError as error:
        pytest.fail(f"{error}. Install it: pip install 'greenroom[{extra}]'.", pytrace=False)
