"""bubblewrap for a user without privileges: the user `nobody`, if the tests run as root."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


@pytest.mark.timeout(900)
def test_the_suites_pass_without_privileges(bare_python: Path) -> None:
    directory = bare_python.parents[1] / "tests"
    directory.mkdir(exist_ok=True)
    suites = directory / "test_suites.py"
    suites.write_text(Path(__file__).with_name("unprivileged_suites.py").read_text())
    # Every sandbox has the same user here, so one of them can use up that user's quotas.
    left_out = ["-k", "not cannot_take_all"]
    run = subprocess.run(
        [bare_python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-ra", *left_out, suites],
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
