"""The five distributions, which have one version, and their builds."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
FOLDERS = ["core", "langchain", "llamaindex", "semantic_kernel", "agent_framework"]


def project(folder: str) -> dict[str, Any]:
    """The table `project` of a distribution."""
    return tomllib.loads((ROOT / "packages" / folder / "pyproject.toml").read_text())["project"]


def version() -> str:
    """The version of the core, which the others share."""
    return project("core")["version"]


def with_extras(folder: str) -> str:
    """A requirement of the distribution with all its extras."""
    extras = ",".join(project(folder).get("optional-dependencies", {}))
    return project(folder)["name"] + (f"[{extras}]" if extras else "")


def wheel_of(wheels: Path, folder: str) -> Path:
    return next(wheels.glob(f"{_file_name(folder)}-*.whl"))


def sdist_of(sdists: Path, folder: str) -> Path:
    return next(sdists.glob(f"{_file_name(folder)}-*.tar.gz"))


def build(target: Path, *folders: str, packages: Path = ROOT / "packages", epoch: int | None = None) -> Path:
    """Build distributions into the target, and return it.

    Args:
        target: created if it does not exist.
        folders: the distributions' folders.
        packages: the folder that has them.
        epoch: the time of the files in seconds, for a source distribution and a wheel that is built from it; without
            it only a wheel is built.
    """
    kind = [] if epoch is not None else ["--wheel"]
    environment = {**os.environ, **({} if epoch is None else {"SOURCE_DATE_EPOCH": str(epoch)})}
    for folder in folders:
        command = [UV, "build", "--quiet", *kind, "--no-build-isolation", "--out-dir", target, packages / folder]
        subprocess.run(command, check=True, env=environment)
    (target / ".gitignore").unlink(missing_ok=True)  # uv's
    return target


def _file_name(folder: str) -> str:
    return project(folder)["name"].replace("-", "_")
