"""The image of the server, and what bubblewrap needs in it: the page's table, measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.waiting import within

from .conftest import docker
from .documents import DEPLOY

RUN = """
import sys, greenroom
try:
    with greenroom.connect("bubblewrap:?ready_session_instances=0&preload=") as pool:
        print(pool.session("user-0001").execute(sys.argv[1]).stdout, end="")
except greenroom.EngineUnavailable as error:
    sys.exit(f"unavailable: {error}")
"""
DENIED = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall({"x86_64": 321, "aarch64": 280}[os.uname().machine], 0, 0, 0)  # bpf
print(errno.errorcode[ctypes.get_errno()])
"""


@pytest.fixture
def options() -> list[str]:
    """The options of docker run that compose.bubblewrap.yaml has."""
    service = yaml.safe_load((DEPLOY / "compose.bubblewrap.yaml").read_text())["services"]["greenroom"]
    assert service["read_only"]
    found = ["--read-only", "--network", "none", "--rm"]
    found += [f"--tmpfs={each}" for each in service["tmpfs"]]
    found += [f"--cap-drop={each}" for each in service["cap_drop"]]
    found += [f"--security-opt={each.replace('./', f'{DEPLOY}/')}" for each in service["security_opt"]]
    return found


def run(image: str, options: list[str], program: str = RUN, code: str = "print(6 * 7)") -> tuple[int, str]:
    ended = docker("run", *options, "--entrypoint", "python3", image, "-c", program, code)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.slow
def test_bubblewrap_runs_in_the_opened_container(server_image: str, options: list[str]) -> None:
    assert run(server_image, options) == (0, "42\n")
    assert run(server_image, options, code="import os\nprint(os.listdir('/var/lib'))")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["seccomp", "systempaths"])
def test_bubblewrap_needs_each_permission(server_image: str, options: list[str], closed: str) -> None:
    code, said = run(server_image, [option for option in options if closed not in option])
    assert code == 1
    assert "unavailable: bubblewrap is not allowed to create user namespaces here" in said


@pytest.mark.slow
def test_the_profile_denies_what_a_server_never_needs(server_image: str, options: list[str]) -> None:
    assert run(server_image, options, DENIED) == (0, "EPERM\n")


@pytest.mark.slow
@pytest.mark.parametrize("extra", [["--cap-add=SYS_ADMIN"], ["--runtime=runsc"]], ids=["SYS_ADMIN", "gVisor"])
def test_the_image_refuses_to_start_without_isolation(server_image: str, extra: list[str]) -> None:
    code, said = run(server_image, ["--rm", "--network=none", *extra])
    assert code == 1
    assert "unavailable: bubblewrap does not work here" in said


def test_it_is_small_and_has_no_build_tools(server_image: str) -> None:
    (facts,) = json.loads(docker("image", "inspect", server_image).stdout)
    assert facts["Config"]["User"] == "10001:10001"
    base = json.loads(docker("image", "inspect", "greenroom-base:bookworm").stdout)[0]["Size"]
    assert facts["Size"] - base < 350 << 20
    find = "for name in gcc cc c++ make ld uv; do command -v $name; done; ls /opt/venv/bin | grep -E '^(pip|hatch)'; :"
    found = docker("run", "--rm", "--network=none", "--entrypoint=sh", server_image, "-c", find)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.fixture
def server(server_image: str) -> Iterator[Any]:
    """A container with a server that has no sandbox until one is wanted."""
    pool = "--pool=bubblewrap:?ready_session_instances=0"
    made = docker(
        "run",
        *("--detach", "--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined", "--network=none"),
        *("--health-interval=1s", server_image, "serve", pool, "--port=8080"),
    )
    assert made.returncode == 0, made.stderr
    container = made.stdout.strip()
    yield container
    docker("rm", "--force", "--volumes", container)


@pytest.mark.slow
def test_docker_sees_its_health_and_stops_it_cleanly(server: str) -> None:
    def is_healthy() -> bool:
        return docker("inspect", "--format", "{{.State.Health.Status}}", server).stdout.strip() == "healthy"

    assert within(60, is_healthy), docker("logs", server).stderr
    assert docker("stop", "--time", "60", server).returncode == 0
    assert docker("inspect", "--format", "{{.State.ExitCode}}", server).stdout.strip() == "0"
