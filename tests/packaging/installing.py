"""The distributions and environments that have them alone."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).with_name("uv")
FOLDERS = ["core", "langchain", "llamaindex", "semantic_kernel", "agent_framework"]


def project(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "packages" / folder / "pyproject.toml").read_text())["project"]


def wheel_of(wheels: Path, folder: str) -> Path:
    return next(wheels.glob(project(folder)["name"].replace("-", "_") + "-*.whl"))


def build(target: Path, *folders: str) -> Path:
    """Build the wheels of distributions, and return the target."""
    for folder in folders:
        command = [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", target]
        subprocess.run([*command, ROOT / "packages" / folder], check=True)
    return target


def installed(directory: Path, wheels: Path, *requirements: str) -> Path:
    """The programs of an environment that has these, too, from what the lock's installation has put into uv's cache."""
    if not directory.exists():
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, directory], check=True)
    command = [UV, "pip", "install", "--quiet", "--offline", "--python", directory / "bin/python"]
    constraint = ["--find-links", wheels, "--constraint", ROOT / "requirements.lock"]
    subprocess.run([*command, *constraint, *requirements], check=True)
    return directory / "bin"
