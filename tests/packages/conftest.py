"""An index of the test's own, as pip and uv are configured by their users, and a cache of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.packages.index import Index, served

from greenroom.testing import engine_pool


@pytest.fixture(scope="session")
def _bubblewrap() -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    directory = tmp_path / "index"
    directory.mkdir()
    with served(directory) as index:
        for name, value in {
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": index.simple,
            "PIP_CACHE_DIR": str(tmp_path / "pip"),
            "UV_NO_CONFIG": "1",
            "UV_INDEX_URL": index.simple,
            "UV_CACHE_DIR": str(tmp_path / "uv"),
            "NPM_CONFIG_USERCONFIG": "/dev/null",
            "NPM_CONFIG_REGISTRY": index.url,
            "NPM_CONFIG_CACHE": str(tmp_path / "npm"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_FIND_LINKS", "UV_INDEX"):
            monkeypatch.delenv(name, raising=False)
        yield index


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "greenroom" / "packages"
