"""What a process has started: its descendants, and Greenroom's containers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def statistics() -> Iterator[tuple[int, list[str]]]:
    """Every process, and the fields of its `/proc/PID/stat` that follow its name."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            yield int(process.name), fields


def descendants(owner: int) -> set[int]:
    """The descendants of a process, including those that have ended and that nobody has waited for."""
    children: dict[int, list[int]] = {}
    for process, fields in statistics():
        children.setdefault(int(fields[1]), []).append(process)
    found: set[int] = set()
    waiting = [owner]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def containers(owner: int) -> list[str]:
    """The ids of the containers of a process; none if there is no Docker."""
    if shutil.which("docker") is None:
        return []
    command = ["docker", "ps", "-aq", "--filter", f"label=greenroom.owner.pid={owner}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
