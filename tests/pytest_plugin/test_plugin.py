"""The plug-in of pytest, as it is in the environments of its users: each test runs pytest of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from greenroom.testing import engine_pool

EXAMPLE = Path(__file__).parents[2] / "examples/testing"
NO_DOCKER = "docker:?docker_host=unix:///nowhere.sock"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__")))


def run(project: Path, *arguments: str, as_installed: bool = False, **variables: str) -> tuple[int, str]:
    """Run pytest in a folder; return its exit code and its output. Other plug-ins only slow it down."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "PYTEST_"))}
    if not as_installed:
        arguments = ("-p", "pytest_greenroom", *arguments)
        variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *arguments],
        cwd=project,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_it_imports_nothing_but_pytest() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_greenroom; "
        "print(*sorted(set(sys.modules) - before))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "pytest_greenroom\n"


def test_the_plugin_is_silent_where_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_other(): assert not any(name.partition('.')[0] == 'greenroom' for name in sys.modules)\n"
    )
    code, output = run(tmp_path, "-p", "no:asyncio", as_installed=True)
    assert (code, "greenroom" in output) == (0, False), output


@pytest.mark.timeout(300)
def test_the_example_passes_with_several_workers(project: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    code, output = run(project, "-n", "2", as_installed=True)
    assert (code, "5 passed" in output) == (0, True), output


def test_tests_that_need_sandboxes_are_skipped_without_and_can_be_left_out(project: Path) -> None:
    code, output = run(project, "--greenroom-pool", NO_DOCKER, "-rs")
    assert (code, "2 passed, 3 skipped" in output) == (0, True), output
    assert "Docker" in output
    code, output = run(project, "-m", "not greenroom")
    assert (code, "2 passed, 3 deselected" in output) == (0, True), output


def test_a_required_engine_that_is_missing_is_an_error(project: Path) -> None:
    code, output = run(project, "--greenroom-pool", NO_DOCKER, GREENROOM_REQUIRE_ENGINES="docker")
    assert (code, "2 passed, 3 errors" in output) == (1, True), output


def test_a_missing_extra_is_named_with_the_command_that_installs_it(project: Path) -> None:
    (project / "conftest.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    code, output = run(project, "-k", "offline")
    assert code == 1
    assert "pip install 'greenroom[server]'" in output
    assert "Traceback" not in output


def test_the_pool_can_be_chosen_in_a_conftest(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture(scope='session')\ndef greenroom_pool_url(): return 'nonsense:'\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(greenroom_pool): pass\n")
    code, output = run(tmp_path)
    assert (code, "nonsense" in output) == (1, True), output


def test_the_environment_is_changed_only_for_the_test(tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    (tmp_path / "test_it.py").write_text(
        "import json, os, urllib.request\n"
        "NAMES = ('ACA_POOL_MANAGEMENT_ENDPOINT', 'GREENROOM_POOL', 'IDENTITY_ENDPOINT', 'IDENTITY_HEADER')\n"
        "def test_in_it(azure_sessions_endpoint):\n"
        "    assert all(name in os.environ for name in NAMES)\n"
        "    assert azure_sessions_endpoint.startswith('http://127.0.0.1:')\n"
        "    url = os.environ['IDENTITY_ENDPOINT'] + '?api-version=2019-08-01&resource=https://dynamicsessions.io'\n"
        "    headers = {'X-IDENTITY-HEADER': os.environ['IDENTITY_HEADER']}\n"
        "    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:\n"
        "        assert json.load(response)['resource'] == 'https://dynamicsessions.io'\n"
        "def test_after_it():\n    assert not any(name in os.environ for name in NAMES)\n"
    )
    code, output = run(tmp_path, "--greenroom-pool", "bubblewrap:?ready_session_instances=0")
    assert (code, "2 passed" in output) == (0, True), output
