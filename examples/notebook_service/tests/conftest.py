"""The service in this process, with real sandboxes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import greenroom
from code_service.settings import Settings
from code_service.users import new_token
from notebook_service.app import create_app

SECRET = "a secret of the tests alone, and long enough"


class Notebook:
    """A notebook of a user, over HTTP."""

    def __init__(self, service: TestClient, user: str = "alice") -> None:
        self.service = service
        self.headers = {"Authorization": f"Bearer {new_token(SECRET, user)}"}
        self.id = self.ask("POST", "").json()["id"]

    def ask(self, method: str, path: str, **options: Any) -> Any:
        return self.service.request(method, f"/notebooks{path}", headers=self.headers, **options)

    def run(self, code: str) -> Any:
        """Add a cell, and return it as it has run."""
        response = self.ask("POST", f"/{self.id}/cells", json={"code": code})
        assert response.status_code == 200, response.text
        return response.json()

    def saved(self) -> Any:
        return self.ask("GET", f"/{self.id}").json()


Serving = Callable[..., Any]


@pytest.fixture
def serving(greenroom_pool: greenroom.SessionPool, tmp_path: Path) -> Serving:
    """Start the service: each time a new one, over the same files."""

    @contextmanager
    def serve(*, timeout: float = 60, **options: Any) -> Generator[TestClient, None, None]:
        settings = Settings(SECRET, tmp_path / "rates.sqlite", burst=1000, timeout=timeout)
        app = create_app(settings, greenroom_pool, directory=tmp_path / "notebooks", **options)
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client
        for session in greenroom_pool.sessions():
            greenroom_pool.session(session.identifier).delete()

    return serve


@pytest.fixture
def service(serving: Serving) -> Iterator[TestClient]:
    with serving() as client:
        yield client
