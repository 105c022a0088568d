"""Environments that have the distributions alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from releasing.distributions import FOLDERS, ROOT, UV, project, wheel_of


def installed(directory: Path, wheels: Path, *requirements: str) -> Path:
    """The programs of an environment that has these, too, from what the lock's installation has put into uv's cache."""
    if not directory.exists():
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, directory], check=True)
    command = [UV, "pip", "install", "--quiet", "--offline", "--python", directory / "bin/python"]
    constraint = ["--find-links", wheels, "--constraint", ROOT / "requirements.lock"]
    subprocess.run([*command, *constraint, *requirements], check=True)
    return directory / "bin"


def from_wheels(requirements: Sequence[str], wheels: Path) -> list[str]:
    """The requirements with the wheels in place of the distributions' names, for a pip that has an index."""
    own = {project(folder)["name"]: wheel_of(wheels, folder) for folder in FOLDERS}
    found: list[str] = []
    for requirement in map(Requirement, requirements):
        extras = f"[{','.join(requirement.extras)}]" if requirement.extras else ""
        wheel = own.get(requirement.name)
        found.append(f"{requirement.name}{extras} @ {wheel.absolute().as_uri()}" if wheel else str(requirement))
    return found
