"""An interpreter to show to sandboxes that is not the one that runs the tests."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import greenroom
from greenroom.engines.bubblewrap import bytecode

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="session")
def bare_python() -> Iterator[Path]:
    """An interpreter that every user can read, with the installed Greenroom and IPython, without bytecode."""
    base = next((path for path in (Path(sys.executable).resolve(), _of_the_system()) if _is_for_all(path)), None)
    if base is None:
        pytest.skip(f"No Python {_VERSION} here is for other users: {sys.executable} is in a private directory.")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        environment = Path(directory, "venv")
        subprocess.run([base, "-m", "venv", "--without-pip", environment], check=True)
        packages = environment / "lib" / f"python{_VERSION}" / "site-packages"
        for name in _needed("greenroom", "aiodocker", "ipython", "pytest"):
            _copy(importlib.metadata.distribution(name), packages)
        source = Path(greenroom.__file__).parent
        shutil.copytree(source, packages / "greenroom", ignore=shutil.ignore_patterns("*.pyc"), dirs_exist_ok=True)
        shutil.copy(source.parent / "pytest_greenroom.py", packages)
        yield environment / "bin" / "python"


@pytest.fixture
def python(bare_python: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter to which modules can be added; its packages stay without bytecode, for other tests."""

    def nothing(_python: str) -> None:
        pass

    monkeypatch.setattr(bytecode, "command_to_compile", nothing)
    return bare_python


@pytest.fixture
def python_without_bytecode(bare_python: Path) -> Path:
    """The same interpreter, after others may have compiled its packages."""
    for cache in bare_python.parent.parent.rglob("__pycache__"):
        shutil.rmtree(cache)
    return bare_python


def _of_the_system() -> Path:
    return Path(f"/usr/bin/python{_VERSION}")


def _is_for_all(path: Path) -> bool:
    return path.exists() and all(part.stat().st_mode & 0o005 == 0o005 for part in (path, *path.parents))


def _needed(*names: str) -> set[str]:
    """Return distributions with all of their dependencies."""
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
        if file.suffix not in {".pth", ".pyc"} and ".." not in file.parts:
            (to / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), to / file)
