"""The commands of docs/deploy.md, and a checkout to run them in."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "deploy.md"


@dataclass(frozen=True)
class Command:
    """A line after a prompt, and the output that is shown below it."""

    line: str
    output: str


def commands(section: str) -> list[Command]:
    """The commands of a section of the page, in order."""
    text = re.split(r"^##+ ", PAGE.read_text(), flags=re.MULTILINE)
    (found,) = (part for part in text if part.startswith(f"{section}\n"))
    return [
        Command(line, output)
        for block in re.findall(r"```console\n(.*?)```", found, re.DOTALL)
        for line, output in re.findall(r"^[$#] (.*)\n((?:(?![$#] ).*\n)*)", block, re.MULTILINE)
    ]


def run(command: str, directory: Path, environment: Mapping[str, str]) -> str:
    """Run a command, successfully, and return its output."""
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def checkout(to: Path) -> Path:
    """Copy what the images and the unit are made of."""
    for name in ("deploy", "packages/core"):
        shutil.copytree(ROOT / name, to / name, ignore=_not_in_git)
    shutil.copy(ROOT / ".dockerignore", to)
    return to


def _not_in_git(_: str, names: list[str]) -> Iterator[str]:
    return (name for name in names if name in {"__pycache__", "secrets", ".env"} or name.endswith(".egg-info"))
