"""bubblewrap for a user without privileges: the user `nobody`, if the tests run as root."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


# A login would give the user a keyring, which the kernel lists only for that user.
KEYRING = """
import ctypes, platform
from pathlib import Path

getting, of_the_user, created = 0, -4, 1
ctypes.CDLL(None).syscall({"x86_64": 250, "aarch64": 219}[platform.machine()], getting, of_the_user, created)
assert Path("/proc/keys").read_text()
"""


@pytest.mark.timeout(900)
def test_the_suites_pass_without_privileges(bare_python: Path) -> None:
    directory = bare_python.parents[1] / "tests"
    directory.mkdir(exist_ok=True)
    suites = directory / "test_bubblewrap.py"
    suites.write_text(Path(__file__).with_name(suites.name).read_text())
    (directory / "conftest.py").write_text(KEYRING)
    classes = [f"{suites}::{name}" for name in ("TestIsolation", "TestAttacks")]
    run = subprocess.run(
        [bare_python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-ra", *classes],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        **_nobody(),
    )
    print(run.stdout[-20_000:])
    assert run.returncode == 0, run.stderr


def _nobody() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def test_bubblewrap_isolates_without_privileges(bare_python: Path) -> None:
    root = os.geteuid() == 0
    program = Path(__file__).with_name("unprivileged.py").read_text()
    run = subprocess.run(
        [bare_python, "-I", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        **_nobody(),
    )
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout)
    if "user namespaces" in answers.get("unavailable", ""):
        pytest.skip(answers["unavailable"])
    assert answers == {
        "the user": NOBODY if root else os.geteuid(),
        "code runs": "42",
        "files go in": "'1,2'",
        "files come out": "3",
        "capabilities": "['0000000000000000']",
        "writes to the system": "OSError",
        "sees its neighbours": "2",
        "networks": "[(1, 'lo')]",
        "goes out": "OSError",
        "takes too much memory": "MemoryError",
        "forks without an end": "BlockingIOError",
        "takes too much time": "TimeoutError",
        "is still there": "1",
        "does not react": "TimeoutError",
        "begins anew": "(False, '3')",
        "what is left": [],
    }
    assert run.stderr == ""
