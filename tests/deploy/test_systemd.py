"""The unit: what systemd says of it, and the page's commands under systemd as process 1 of a container.

A virtual machine would be closer to the real thing, and needs a processor that virtualizes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import within

from .conftest import docker, unavailable
from .documents import DEPLOY, ROOT, checkout, commands

UNIT = DEPLOY / "greenroom.service"
EXPOSURE = 3.5
"""Of 10; the page says what it is."""
PYTHON = "/usr/local/lib/greenroom/bin/python"

CLIENT = """
import json, ssl, sys, urllib.request
method, path = sys.argv[1:3]
key = open("/root/greenroom/key.txt").read().strip()
url = f"https://localhost:8080{path}?api-version=2025-10-02-preview&identifier=user-0001"
body = sys.argv[3].encode() if len(sys.argv) > 3 else None
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
request = urllib.request.Request(url, body, headers, method=method)
context = ssl.create_default_context(cafile="/root/greenroom/ca.pem")
with urllib.request.urlopen(request, context=context, timeout=60) as response:
    print(json.dumps({"id": response.headers.get("operation-id"), "body": json.load(response)}))
"""


@pytest.fixture
def analyze() -> Callable[..., str]:
    if shutil.which("systemd-analyze") is None:
        unavailable("systemd-analyze is not installed.")

    def analyze(*arguments: str) -> str:
        command = ["systemd-analyze", "--no-pager", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    return analyze


def test_systemd_understands_the_unit(analyze: Callable[..., str], tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    assert "greenroom.service" not in analyze("verify", str(unit))


def test_it_is_hardened(analyze: Callable[..., str]) -> None:
    said = analyze("security", "--offline=true", f"--threshold={int(EXPOSURE * 10)}", str(UNIT))
    found = re.search(r"exposure level for greenroom\.service: ([\d.]+)", said)
    assert found is not None
    assert f"rates it {found[1]} of 10" in (ROOT / "docs" / "deploy.md").read_text()


class Machine:
    """A container with systemd as process 1."""

    def __init__(self, container: str) -> None:
        self._container = container

    def try_to(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = ["--env=PIP_NO_INDEX=1", "--env=PIP_FIND_LINKS=/wheels", "--env=PIP_NO_COMPILE=1"]
        options = [*environment, "--workdir=/root/greenroom"]
        return docker("exec", *options, self._container, "bash", "-c", command, "bash", *arguments)

    def run(self, command: str, *arguments: str) -> str:
        ended = self.try_to(command, *arguments)
        if ended.returncode != 0:
            log = self.try_to("journalctl --no-pager --lines 50").stdout
            pytest.fail(f"{command}\n{ended.stdout}\n{ended.stderr}\n{log}")
        return ended.stdout

    def request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        arguments = [method, path, *([] if body is None else [json.dumps(body)])]
        return json.loads(self.run(f'{PYTHON} -c "$@"', CLIENT, *arguments))


@pytest.fixture
def machine(systemd_image: str, wheels: Path, tmp_path: Path) -> Iterator[Machine]:
    name = f"greenroom-systemd-{uuid.uuid4().hex[:8]}"
    open_for_systemd = ["seccomp=unconfined", "systempaths=unconfined", "apparmor=unconfined"]
    made = docker(
        *("run", "--detach", "--name", name, "--network=none", "--tmpfs=/run", "--tmpfs=/tmp:exec"),
        *(f"--cap-add={each}" for each in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH")),
        *(f"--security-opt={each}" for each in open_for_systemd),
        *("--volume", f"{Path(__file__).parent}/systemd.sh:/systemd.sh:ro", "--volume", f"{wheels}:/wheels:ro"),
        *(systemd_image, "sh", "/systemd.sh", name),
    )
    try:
        assert made.returncode == 0, made.stderr
        machine = Machine(name)
        source = checkout(tmp_path / "greenroom")
        assert docker("cp", str(source), f"{name}:/root/greenroom").returncode == 0
        states = ("running", "degraded")
        assert within(60, lambda: machine.try_to("systemctl is-system-running").stdout.strip() in states)
        yield machine
    finally:
        docker("rm", "--force", "--volumes", name)
        groups = [Path(mount, name) for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")]
        assert within(60, lambda: all(map(_is_removed, groups)))


def _is_removed(directory: Path) -> bool:
    """Remove what a machine leaves of a control group that Docker did not make, once its processes are gone."""
    for path, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    return not directory.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_page(machine: Machine) -> None:
    steps = commands("systemd")
    assert len(steps) > 5
    for step in steps:
        output = machine.run(step.line)
        if step.output:
            assert output == step.output

    asynchronous = {"codeInputType": "Inline", "executionType": "Asynchronous"}
    done = machine.request("POST", "/executions", {**asynchronous, "code": "print(6 * 7)"})["id"]
    endless = machine.request("POST", "/executions", {**asynchronous, "code": "while True: pass"})["id"]

    def end_of(execution: str) -> dict[str, Any]:
        return machine.request("GET", f"/executions/{execution}")["body"]

    assert within(60, lambda: end_of(done)["status"] == "Succeeded")
    before = end_of(done)
    machine.run("systemctl kill --kill-whom=all --signal=KILL greenroom")
    healthy = f"{PYTHON} deploy/healthcheck.py"
    assert within(60, lambda: machine.try_to(healthy).returncode == 0)  # Restart=on-failure
    assert end_of(done) == before
    assert "The server ended while the execution was running" in json.dumps(end_of(endless))

    machine.run("systemctl restart greenroom")
    assert within(60, lambda: machine.try_to(healthy).returncode == 0)
    assert end_of(done) == before
    machine.run("systemctl stop greenroom")
    assert machine.run("systemctl show --property=Result --property=ExecMainStatus greenroom").split() == [
        "Result=success",
        "ExecMainStatus=0",
    ]
    assert machine.try_to("ls /proc/*/exe -l | grep -E 'bwrap|/usr/local/lib/greenroom'").stdout == ""
