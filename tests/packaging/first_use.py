"""From an empty virtual environment to the first program and the first test, timed: `make first-use`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from releasing.distributions import FOLDERS, build
from tests.packaging.installing import from_wheels
from tests.packaging.pages import first_program, first_test


@dataclass(frozen=True)
class Step:
    """Something that a newcomer does."""

    name: str
    seconds: float


def first_use(directory: Path, wheels: Path, install: Callable[..., Path]) -> list[Step]:
    """Do what README.md and docs/testing.md begin with, in an environment that has nothing else.

    Args:
        directory: an empty one, for the environment and what the program writes.
        wheels: of this tree.
        install: as `installed`.

    Raises:
        subprocess.CalledProcessError: a step failed.
        ValueError: the program has not printed what stands below it.
    """
    steps: list[Step] = []

    @contextmanager
    def timed(name: str) -> Generator[None, None, None]:
        began = time.monotonic()
        yield
        steps.append(Step(name, time.monotonic() - began))

    first, (requirement, test) = first_program("README.md"), first_test()
    folder = directory / "work"
    folder.mkdir()
    with timed("install"):
        python = install(directory / "venv", wheels, *first.requirements) / "python"
    with timed("first program"):
        printed = subprocess.run([python, "-c", first.program], cwd=folder, check=True, capture_output=True, text=True)
    if printed.stdout != first.printed:
        raise ValueError(f"The first program must print {first.printed!r}, not {printed.stdout!r}.")
    (folder / "test_first.py").write_text(test)
    with timed("install pytest"):
        install(directory / "venv", wheels, requirement)
    with timed("first test"):
        subprocess.run([python, "-m", "pytest", "-q"], cwd=folder, check=True, capture_output=True)
    return steps


def installed_with_pip(directory: Path, wheels: Path, *requirements: str) -> Path:
    """As `installed`, but as a newcomer does it: with venv and pip, from the index, nothing cached."""
    python = directory / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*pip, *from_wheels(requirements, wheels)], check=True)
    return directory / "bin"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="greenroom-first-use-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # sandboxes run its Python as other users
        steps = first_use(directory, build(directory / "wheels", *FOLDERS), installed_with_pip)
    for step in [*steps, Step("all", sum(step.seconds for step in steps))]:
        print(f"{step.name:<16}{step.seconds:6.1f} s")


if __name__ == "__main__":
    main()
