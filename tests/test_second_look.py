"""`.ci/second-look`, which has the last word on the few tests that failed beside others."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.waiting import within

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / ".ci" / "second-look"
# Fails the first time, or always.
TEST = """
import pathlib

def test_{number}():
    seen = pathlib.Path(__file__).with_suffix(".seen")
    first = not seen.exists()
    seen.touch()
    assert not first and not {always}
"""
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in (".ci", ".venv", "tests/clients"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / ".ci")
    (tmp_path / ".venv" / ".ready").touch()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for project in (tmp_path, tmp_path / "tests" / "clients"):
        (project / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = ['-p', 'no:randomly']\n")
    return tmp_path


def failed(repository: Path, project: str, *, tests: int = 1, always: bool = False) -> int:
    """Run tests that fail; return pytest's exit code."""
    for number in range(tests):
        (repository / project / f"test_{number}.py").write_text(TEST.format(number=number, always=always))
    command = [".venv/bin/pytest", "-q", project]
    return subprocess.run(command, cwd=repository, env=ENVIRONMENT, capture_output=True, check=False).returncode


def look(repository: Path, project: str, code: int) -> subprocess.Popen[str]:
    own = {} if project == "." else {"TESTS": project, "BIN": str(Path(sys.executable).parent)}
    command = [".ci/second-look", str(code)]
    output = subprocess.PIPE
    return subprocess.Popen(command, cwd=repository, env={**ENVIRONMENT, **own}, stdout=output, text=True)


Judge = Callable[[str, int], tuple[int, str]]


@pytest.fixture
def judge(repository: Path) -> Judge:
    def judge(project: str, code: int) -> tuple[int, str]:
        with look(repository, project, code) as script:
            output, _ = script.communicate(timeout=120)
            return script.returncode, output

    return judge


@pytest.mark.parametrize("project", [".", "tests/clients"])
def test_tests_that_pass_alone_are_named_and_pass(repository: Path, judge: Judge, project: str) -> None:
    code = failed(repository, project, tests=3)
    returned, output = judge(project, code)
    assert (code, returned) == (1, 0), output
    assert all(f"test_{number}.py::test_{number}" in output for number in range(3))
    assert "all of them passed" in output


def test_a_test_that_fails_again_fails(repository: Path, judge: Judge) -> None:
    returned, output = judge(".", failed(repository, ".", always=True))
    assert returned == 1
    assert "all of them passed" not in output


def test_more_than_five_failures_fail(repository: Path, judge: Judge) -> None:
    returned, output = judge(".", failed(repository, ".", tests=6))
    assert (returned, "6 tests failed" in output) == (1, True)


def test_an_exit_code_without_test_failures_fails(judge: Judge) -> None:
    assert judge(".", 2) == (2, "")


def test_it_waits_for_a_test_run_in_progress(repository: Path) -> None:
    code = failed(repository, ".")
    with (repository / ".venv" / ".ready").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with look(repository, ".", code) as script:
            assert within(60, lambda: _waits_for(lock.fileno()))
            assert script.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert "all of them passed" in script.communicate(timeout=120)[0]
            assert script.returncode == 0


def _waits_for(descriptor: int) -> bool:
    """Whether a process waits for the lock of a file."""
    inode = f":{os.fstat(descriptor).st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())
