"""bubblewrap for a user without any privilege: nobody, where the tests run as root."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import greenroom

NOBODY = 65534


def test_bubblewrap_isolates_without_privileges(python_for_all: Path) -> None:
    root = os.geteuid() == 0
    nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if root else {}
    program = Path(__file__).with_name("unprivileged.py").read_text()
    run = subprocess.run(
        [python_for_all, "-I", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        **nobody,
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


@pytest.fixture(scope="module")
def python_for_all() -> Iterator[Path]:
    """An interpreter with Greenroom and IPython that every user may read."""
    base = next((path for path in (Path(sys.executable).resolve(), _of_the_system()) if _is_for_all(path)), None)
    if base is None:
        pytest.skip(f"No Python {_VERSION} here is for other users: {sys.executable} is in a private directory.")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        environment = Path(directory, "venv")
        subprocess.run([base, "-m", "venv", "--without-pip", environment], check=True)
        packages = environment / "lib" / f"python{_VERSION}" / "site-packages"
        for name in _needed("greenroom", "ipython"):
            _copy(importlib.metadata.distribution(name), packages)
        shutil.copytree(Path(greenroom.__file__).parent, packages / "greenroom", dirs_exist_ok=True)
        yield environment / "bin" / "python"


_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def _of_the_system() -> Path:
    return Path(f"/usr/bin/python{_VERSION}")


def _is_for_all(path: Path) -> bool:
    return path.exists() and all(part.stat().st_mode & 0o005 == 0o005 for part in (path, *path.parents))


def _needed(*names: str) -> set[str]:
    """Distributions, and all that these need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            wanted = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [item.name for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    return found


def _copy(distribution: importlib.metadata.Distribution, to: Path) -> None:
    for file in distribution.files or []:
        if file.suffix != ".pth" and ".." not in file.parts:
            (to / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), to / file)
