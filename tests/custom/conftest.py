"""The image of these tests, and pools of its containers."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import greenroom
from greenroom import SessionPool

IMAGE = "greenroom-test-custom:latest"
ROOT_IMAGE = "greenroom-test-custom:root"
TINY_IMAGE = "greenroom-test-custom:tiny"
BASE = "greenroom-base:bookworm"


def _cannot(reason: str) -> None:
    if "docker" in os.environ.get("GREENROOM_REQUIRE_ENGINES", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


def _fails(*command: str) -> bool:
    return bool(subprocess.run(["docker", *command], capture_output=True, check=False).returncode)


def docker(*command: str) -> str:
    done = subprocess.run(["docker", *command], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def image() -> str:
    """The image, built from Debian's packages; a build without changes takes a moment."""
    if shutil.which("docker") is None or _fails("version"):
        _cannot("no Docker engine answers")
    if _fails("image", "inspect", BASE):
        _cannot(f"Docker has no image {BASE}; .ci/engine-docker makes it")
    _build(IMAGE)
    return IMAGE


@pytest.fixture(scope="session")
def root_image(image: str) -> str:
    """The same image, with root as its user."""
    del image
    _build(ROOT_IMAGE, "--build-arg", "USER=0:0")
    return ROOT_IMAGE


@pytest.fixture(scope="session")
def tiny_image(image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a single program: it contains neither Python nor a shell."""
    del image
    busybox = shutil.which("busybox")
    if busybox is None:
        _cannot("busybox is not installed; Debian's package busybox-static has it")
    directory = tmp_path_factory.mktemp("tiny")
    shutil.copy(busybox or "", directory / "busybox")
    (directory / "index.html").write_text("hello")
    (directory / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox /busybox\nCOPY index.html /www/\nUSER 1000\n"
        'ENTRYPOINT ["/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]\n'
    )
    _build(TINY_IMAGE, directory=directory)
    return TINY_IMAGE


def _build(tag: str, *options: str, directory: Path = Path(__file__).parent / "image") -> None:
    with Path(tempfile.gettempdir(), "greenroom-test-custom.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the processes of one run
        command = ["docker", "build", "--quiet", "--tag", tag, *options, str(directory)]
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)


def template(image: str, **properties: Any) -> dict[str, Any]:
    """A template with one container of the image; properties replace those of the pool."""
    return {
        "type": "Microsoft.App/sessionPools",
        "apiVersion": "2024-08-02-preview",
        "name": "custom",
        "location": "westeurope",
        "properties": {
            "environmentId": "/subscriptions/s/resourceGroups/g/providers/Microsoft.App/managedEnvironments/e",
            "poolManagementType": "Dynamic",
            "containerType": "CustomContainer",
            "scaleConfiguration": {"maxConcurrentSessions": 50, "readySessionInstances": 1},
            "dynamicPoolConfiguration": {"executionType": "Timed", "cooldownPeriodInSeconds": 600},
            "customContainerTemplate": {
                "containers": [{"image": image, "name": "sandbox", "resources": {"cpu": 0.5, "memory": "1Gi"}}],
                "ingress": {"targetPort": 8080},
            },
            "sessionNetworkConfiguration": {"status": "EgressDisabled"},
            **properties,
        },
    }


@pytest.fixture(scope="module")
def pool(image: str) -> Iterator[SessionPool]:
    """A pool for tests that do not change its state."""
    with greenroom.connect("docker:", template=template(image)) as pool:
        yield pool


def containers_of(pid: int | None = None) -> list[str]:
    """The names of a process's containers, by default of this one's."""
    label = f"label=greenroom.owner.pid={pid or os.getpid()}"
    return docker("ps", "--all", "--filter", label, "--format", "{{.Names}}").splitlines()
