"""An image that Docker does not have comes from a registry with credentials: Debian's, on the loopback."""

from __future__ import annotations

import copy
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import greenroom
from greenroom import ImageMissing, Progress

from .conftest import docker, template

pytestmark = pytest.mark.slow

USER, PASSWORD = "reader", "secret-of-a-test"
PASSWORDS = f"{USER}:$2b$05$gMPqvnJZ0AocgfIezrmA..28st6kGBfH3jEm.VsC6QQcPBw78/P8S\n"  # its bcrypt hash
SETTINGS = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {directory}/images}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: test, path: {directory}/passwords}}}}
log: {{level: error}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry that requires a password."""
    program = shutil.which("docker-registry")
    if program is None:
        reason = "docker-registry is not installed; Debian's package of that name has it"
        if "docker" in os.environ.get("GREENROOM_REQUIRE_ENGINES", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    directory: Path = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "passwords").write_text(PASSWORDS)
    (directory / "settings.yml").write_text(SETTINGS.format(directory=directory, port=port))
    with subprocess.Popen(
        [program, "serve", str(directory / "settings.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            deadline = time.monotonic() + 30
            while not _answers(port) and time.monotonic() < deadline:
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False
    return True


@pytest.fixture
def pushed(registry: str, tiny_image: str, tmp_path: Path) -> Iterator[str]:
    """The image in the registry, and not in Docker."""
    name = f"{registry}/team/custom:1.0"
    environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}  # where its password is stored
    docker("tag", tiny_image, name)
    login = ["docker", "login", "--username", USER, "--password-stdin", registry]
    subprocess.run(login, input=PASSWORD, env=environment, text=True, capture_output=True, check=True, timeout=60)
    subprocess.run(["docker", "push", "--quiet", name], env=environment, capture_output=True, check=True, timeout=300)
    docker("image", "rm", name)
    yield name
    subprocess.run(["docker", "image", "rm", name], capture_output=True, check=False)


def template_of(name: str, password: str | None) -> dict[str, Any]:
    resource = copy.deepcopy(template(name, scaleConfiguration={"readySessionInstances": 0}))
    if password is not None:
        resource["properties"]["secrets"] = [{"name": "password", "value": password}]
        resource["properties"]["customContainerTemplate"]["registryCredentials"] = {
            "server": name.partition("/")[0],
            "username": USER,
            "passwordSecretRef": "password",
        }
    return resource


def test_the_image_is_pulled_with_the_templates_credentials(pushed: str) -> None:
    seen: list[Progress] = []
    with (
        greenroom.connect("docker:", template=template_of(pushed, PASSWORD), on_progress=seen.append) as pool,
        pool.session("pulled-0001") as session,
    ):
        assert session.request("GET", "/").text == "hello"
    assert {(each.task, each.label, each.unit) for each in seen} == {("pull", pushed, "bytes")}
    assert seen[-1].done == seen[-1].total


def test_a_registry_that_refuses_is_an_error_with_its_reason(pushed: str) -> None:
    for password in (None, "another-password"):
        with pytest.raises(ImageMissing, match=r"can pull, not .*: (unauthorized|no basic auth)") as raised:
            greenroom.connect("docker:", template=template_of(pushed, password))
        assert pushed in str(raised.value)
        assert "another-password" not in str(raised.value)


def test_an_image_that_the_registry_does_not_have(registry: str) -> None:
    with pytest.raises(ImageMissing, match=r"can pull, not .*/team/custm:1\.0.*(not found|unknown)"):
        greenroom.connect("docker:", template=template_of(f"{registry}/team/custm:1.0", PASSWORD))


def test_the_nearest_image_is_named(image: str) -> None:
    with pytest.raises(ImageMissing, match=r"Did you mean 'greenroom-test-custom:latest'\? Docker has "):
        greenroom.connect("docker:", container={"image": "127.0.0.1:9/greenroom-test-custom:latest"})
    del image
