"""The fixtures of the clients' tests: servers, a session per test, an identity."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator

import pytest
from identity import Identity, identity_endpoint
from serving import POOLS, Server, serving


@pytest.fixture(scope="session", params=POOLS)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def key() -> str:
    return secrets.token_urlsafe()


@pytest.fixture(scope="session")
def server(engine: str, key: str) -> Iterator[Server]:
    with serving(engine, key) as server:
        yield server


@pytest.fixture(scope="session")
def tls_server(engine: str, key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(engine, key, tls=tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def identifier(server: Server) -> Iterator[str]:
    """A session of the test's own."""
    identifier = f"session-{uuid.uuid4()}"
    yield identifier
    server.delete(identifier)


@pytest.fixture
def identity(key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
    """Has `DefaultAzureCredential` find a managed identity, whose tokens the servers take."""
    with identity_endpoint(key) as identity:
        monkeypatch.setenv("IDENTITY_ENDPOINT", identity.url)
        monkeypatch.setenv("IDENTITY_HEADER", identity.secret)
        yield identity
