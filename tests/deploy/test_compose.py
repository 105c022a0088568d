"""The page's commands for Compose, with Debian's docker-compose: a client over TLS, a restart, and nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.waiting import within

from .conftest import docker, unavailable
from .documents import DEPLOY, Command, checkout, commands, run

PROJECT = f"greenroom-test-{os.getpid()}"


@pytest.fixture
def environment(port: int) -> dict[str, str]:
    if shutil.which("docker-compose") is None:
        unavailable("docker-compose is not installed.")
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the client's greenroom
        "COMPOSE_PROJECT_NAME": PROJECT,
        "GREENROOM_BASE": "greenroom-base:bookworm",
        "GREENROOM_PORT": f"127.0.0.1:{port}",
        "PIP_NO_INDEX": "1",
    }


@pytest.fixture
def directory(tmp_path: Path, environment: dict[str, str], wheels: Path) -> Iterator[Path]:
    del wheels  # they are part of it
    root = checkout(tmp_path)
    yield root / "deploy"
    subprocess.run(
        ["docker-compose", "down", "--volumes", "--timeout", "60"],
        cwd=root / "deploy",
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )


def left() -> str:
    """The project's containers, networks and volumes."""
    filter_ = f"--filter=label=com.docker.compose.project={PROJECT}"
    kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
    return "".join(docker(*kind, "--quiet", filter_).stdout for kind in kinds)


def owner_of_sandboxes(directory: Path, environment: dict[str, str]) -> str:
    """The label that the server gives its sandboxes, as long as its container runs."""
    name = "from greenroom.engines import owner; print(owner.MACHINE, owner.machine(), sep='=')"
    return run(f'docker-compose exec -T greenroom python3 -c "{name}"', directory, environment).strip()


def sandboxes(owners: set[str]) -> str:
    return "".join(docker("ps", "--all", "--quiet", f"--filter=label={owner}").stdout for owner in owners)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_of_the_page(
    server_image: str, environment: dict[str, str], directory: Path, port: int, engine_image: None
) -> None:
    owners: set[str] = set()
    steps = commands("Compose")
    assert steps[0] == Command("cd deploy", "")
    clients = [step for step in steps if "greenroom run" in step.line]
    assert len(clients) == 1
    for step in steps[1:]:
        line = step.line.replace("localhost:8080", f"localhost:{port}")
        if line.endswith("image build"):  # the image is there, and no index may be in reach of a container
            line += " --help"
        output = run(line, directory, environment)
        if step.output:
            assert output == step.output
        if "restart" in line:
            _answers_again(clients[0], directory, environment, port)
        if "greenroom run" in line or "restart" in line:
            owners.add(owner_of_sandboxes(directory, environment))
            assert within(60, lambda: sandboxes(owners) != "")  # one is kept ready
    assert within(60, lambda: sandboxes(owners) == "")
    run("docker-compose down --volumes", directory, environment)
    assert left() == ""


def _answers_again(client: Command, directory: Path, environment: dict[str, str], port: int) -> None:
    wait = "until docker-compose exec -T greenroom python3 /opt/healthcheck.py; do sleep 1; done"
    run(wait, directory, environment)
    assert run(client.line.replace(":8080", f":{port}"), directory, environment) == client.output


@pytest.fixture
def engine_image() -> None:
    """The image of the sandboxes."""
    from greenroom.testing import engine_pool

    engine_pool("docker:", ready_session_instances=0).close()


def test_the_two_files_differ_only_in_the_engine() -> None:
    both = [yaml.safe_load((DEPLOY / name).read_text()) for name in ("compose.yaml", "compose.bubblewrap.yaml")]
    first, second = (content["services"]["greenroom"] for content in both)
    different = {key for key in first | second if first.get(key) != second.get(key)}
    assert different == {"build", "command", "group_add", "volumes", "security_opt", "mem_limit", "pids_limit"}
    for each in (first, second):
        assert (each["read_only"], each["cap_drop"], each["restart"]) == (True, ["ALL"], "unless-stopped")
        assert {"--tls-self-signed", "--api-key-file=/run/secrets/keys"} <= {*each["command"]}
        assert "no-new-privileges" in each["security_opt"]
        assert "privileged" not in each
