"""The service in this process, over the pool that a test needs."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import greenroom
from code_service.app import create_app
from code_service.settings import Settings
from code_service.users import new_token

SECRET = "a secret of the tests alone, and long enough"


def as_user(name: str) -> dict[str, str]:
    """The headers of a user's requests."""
    return {"Authorization": f"Bearer {new_token(SECRET, name)}"}


@contextmanager
def serving(pool: greenroom.SessionPool, directory: Path, **options: float) -> Generator[TestClient, None, None]:
    """The service over a pool; its requests are those of a user named alice, unless they say otherwise."""
    settings = Settings(SECRET, directory / "rates.sqlite", **options)  # pyright: ignore[reportArgumentType]
    with TestClient(create_app(settings, pool), raise_server_exceptions=False, headers=as_user("alice")) as client:
        yield client


@pytest.fixture
def service(greenroom_pool: greenroom.SessionPool, tmp_path: Path) -> Iterator[TestClient]:
    """The service with real sandboxes, whose sessions end with the test."""
    with serving(greenroom_pool, tmp_path, burst=1000) as client:
        yield client
    for session in greenroom_pool.sessions():
        greenroom_pool.session(session.identifier).delete()


@pytest.fixture
def scripted(greenroom_scripted_pool: greenroom.SessionPool, tmp_path: Path) -> Iterator[TestClient]:
    """The service over a pool that runs nothing."""
    with serving(greenroom_scripted_pool, tmp_path, burst=1000) as client:
        yield client
