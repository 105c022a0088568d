"""A plug-in of pytest: fixtures for programs whose code runs in sessions.

It is loaded in every pytest of its environment, so it imports nothing else until one of its fixtures is used.
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
    where = "where the fixtures of greenroom run code, such as docker: (by default GREENROOM_POOL, or the best engine)"
    parser.getgroup("greenroom").addoption("--greenroom-pool", metavar="URL", help=where)
    parser.addini("greenroom_pool", where)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_MARKER}: the test needs sandboxes; its fixtures set this mark")


def pytest_itemcollected(item: pytest.Item) -> None:
    if not _WITH_SANDBOXES.isdisjoint(getattr(item, "fixturenames", ())):
        item.add_marker(_MARKER)


@pytest.fixture(scope="session")
def greenroom_pool_url(pytestconfig: pytest.Config) -> str | None:
    """The URL of the pool, as for `greenroom.connect`; a conftest can override it."""
    return pytestconfig.getoption("--greenroom-pool") or pytestconfig.getini("greenroom_pool") or None


@pytest.fixture(scope="session")
def greenroom_pool(greenroom_pool_url: str | None) -> Iterator[SessionPool]:
    """A pool of sandboxes, one for all tests. They are skipped where no sandbox can be made."""
    _require("greenroom.testing", "testing")
    from greenroom.testing import engine_pool

    with engine_pool(greenroom_pool_url) as pool:
        yield pool


@pytest.fixture
def greenroom_session(greenroom_pool: SessionPool) -> Iterator[Session]:
    """A session of the test's own, deleted at its end."""
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
    """The management endpoint of a pool behind Azure's API, on the loopback: one for all tests of a process.

    During the test, the environment leads Azure's clients there: `ACA_POOL_MANAGEMENT_ENDPOINT` and `GREENROOM_POOL`
    name the endpoint, and `DefaultAzureCredential` finds a managed identity.
    """
    for name, value in _azure_sessions_server.items():
        monkeypatch.setenv(name, value)
    return _azure_sessions_server["GREENROOM_POOL"]


@pytest.fixture
def greenroom_script() -> ScriptedBackend:
    """The answers of `greenroom_scripted_pool`, and what it was asked."""
    _require("greenroom.testing", "testing")
    from greenroom.testing import ScriptedBackend

    return ScriptedBackend()


@pytest.fixture
def greenroom_scripted_pool(greenroom_script: ScriptedBackend) -> Iterator[SessionPool]:
    """A pool that runs nothing: it gives the answers of `greenroom_script`."""
    from greenroom.testing import scripted_pool

    with scripted_pool(greenroom_script) as pool:
        yield pool


def _require(module: str, extra: str) -> None:
    """Fail with the command that installs what a fixture needs, if it is missing."""
    try:
        import_module(module)
    except ImportError as error:
        pytest.fail(f"{error}. Install it: pip install 'greenroom[{extra}]'.", pytrace=False)
