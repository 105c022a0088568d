"""The services of `examples`: each is a project of its own, whose tests run in a copy of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from greenroom.testing import engine_pool

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """Copies of both, as the one uses modules of the other."""
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    for name in ("web_service", "notebook_service"):
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def environment(**variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GREENROOM_", "PYTEST_"))}
    return {**kept, **variables}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["web_service", "notebook_service"])
def test_the_projects_own_tests_pass(name: str, projects: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300"],
        cwd=projects / name,
        env=environment(GREENROOM_REQUIRE_ENGINES="bubblewrap"),  # it is there
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "skipped" not in ended.stdout


def commands(project: Path) -> str:
    """The commands of a project's page but its installation, on ports that are free, and the end of what they began."""
    blocks = re.findall(r"^```\n(.*?)^```", (project / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    script = "".join(block for block in blocks if not block.startswith(("pip", "{")))
    for port in ("8000", "8080"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            script = script.replace(port, str(free.getsockname()[1]))
    return f"set -e\ntrap 'kill $(jobs -p); wait' EXIT\n{script}"


def run_commands(project: Path) -> str:
    """Run a page's commands, and return what they print on standard output."""
    if shutil.which("curl") is None:
        pytest.skip("The commands of the page need curl.")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    python = os.pathsep.join([str(project), str(project.with_name("web_service"))])  # as if they were installed
    ended = subprocess.run(
        ["bash", "-c", commands(project)],
        cwd=project,
        env=environment(PATH=path, PYTHONPATH=python),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout


def test_the_commands_of_the_web_service_run(projects: Path) -> None:
    (shown,) = re.findall(r"^{\"status.*$", (projects / "web_service/README.md").read_text(), re.MULTILINE)
    assert re.search(re.escape(shown).replace("…", "[0-9.e-]+"), run_commands(projects / "web_service"))


def test_the_commands_of_the_notebook_service_run(projects: Path) -> None:
    assert '"text/plain":"42"' in run_commands(projects / "notebook_service")
    notebook = json.loads((projects / "notebook_service/notebook.ipynb").read_text())
    assert [cell["source"] for cell in notebook["cells"]] == ["x = 6", "x * 7"]
