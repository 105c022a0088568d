"""Servers over real sandboxes, as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from greenroom.testing import engine_pool

from .azure import ServerKind

KEY = "the-key-of-these-tests"
POOL = "bubblewrap:?preload=&"
OPTIONS: Mapping[ServerKind, list[str]] = {
    "lenient": ["--pool", POOL + "ready_session_instances=1"],
    "strict": ["--pool", POOL + "ready_session_instances=1", "--strict"],
    "small": ["--pool", POOL + "ready_session_instances=0&max_concurrent_sessions=1&acquire_timeout=0"],
}


@contextmanager
def serving(kind: ServerKind) -> Generator[httpx.Client, None, None]:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("greenroom"), "serve", "--port", "0", *OPTIONS[kind]],
        env={**os.environ, "GREENROOM_API_KEY": KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        announcement = process.stderr.readline()
        assert announcement.startswith("Serving"), announcement + process.stderr.read()
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=announcement.split()[-1], headers=headers, timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="session")
def lenient() -> Iterator[httpx.Client]:
    """A client of the server as it is."""
    with serving("lenient") as client:
        yield client


@pytest.fixture(scope="session")
def strict() -> Iterator[httpx.Client]:
    """A client of one with `--strict`."""
    with serving("strict") as client:
        yield client


@pytest.fixture(scope="session")
def small() -> Iterator[httpx.Client]:
    """A client of one with room for a single session."""
    with serving("small") as client:
        yield client
