"""Fixtures of the deployments: images that .ci/engine-docker makes, by the real Docker engine."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from .documents import DEPLOY


def docker(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def unavailable(reason: str) -> None:
    """Skip, which is a failure where Docker is required."""
    if "docker" in os.environ.get("GREENROOM_REQUIRE_ENGINES", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


def _image(name: str) -> str:
    try:
        found = docker("image", "inspect", name).returncode == 0
    except OSError:
        found = False
    if not found:
        unavailable(f"The image {name} is missing: .ci/engine-docker makes it.")
    return name


@pytest.fixture(scope="session")
def server_image() -> str:
    return _image("greenroom-server:latest")


@pytest.fixture(scope="session")
def systemd_image() -> str:
    return _image("greenroom-systemd:bookworm")


@pytest.fixture(scope="session")
def wheels() -> Path:
    """What an image or a machine without a network is made of."""
    folder = DEPLOY / "wheels"
    if not folder.is_dir():
        unavailable("deploy/wheels is missing: `make wheels` makes it.")
    return folder


@pytest.fixture
def port() -> int:
    """A free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
