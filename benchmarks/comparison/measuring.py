"""The resources of this process's sandboxes: memory and processor time, read from the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_QUIET = 0.05  # seconds of processor time per half second below which sandboxes count as idle
_HERTZ = os.sysconf("SC_CLK_TCK")


def seconds(act: Callable[[], object]) -> float:
    """Return how long a function takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Reading:
    """The memory of processes, in bytes."""

    kept: int
    """Memory that cannot be dropped, each page once: anonymous pages (one that several processes share since a fork
    counts once), mapped memory in tmpfs, and page tables. It excludes pages of files: all sandboxes share those of
    libraries, which can be read again."""
    pss: int
    """All resident pages, each divided by the number of processes that have it mapped. So a session's figure depends on
    how many others use the same libraries at that moment: when one loads pandas, the figure of the others falls."""


def reading(others: frozenset[int] = frozenset()) -> Reading | None:
    """Return the memory of all that this process has started for its sandboxes.

    Args:
        others: processes to exclude.

    Returns:
        `None` if the kernel does not show it to this user.
    """
    found = dict.fromkeys(("Pss", "Pss_Anon", "Pss_Shmem", "VmPTE"), 0)
    for process in _processes():
        if process in others:
            continue
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            status = Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        except OSError:
            return None
        for line in (*rollup.splitlines(), *status.splitlines()):
            name, _, value = line.partition(":")
            if name in found:
                found[name] += int(value.split()[0]) * 1024
    tables = found["VmPTE"]
    return Reading(found["Pss_Anon"] + found["Pss_Shmem"] + tables, found["Pss"] + tables)


def memory(others: frozenset[int] = frozenset()) -> int | None:
    """Return the bytes in a `reading` that cannot be dropped."""
    taken = reading(others)
    return None if taken is None else taken.kept


def processes() -> frozenset[int]:
    """Return the processes that belong to this one now.

    They are its descendants, the processes in its containers, and the containerd shims that keep these.
    """
    return frozenset(_processes())


def wait_until_idle(others: frozenset[int] = frozenset(), timeout: float = 60) -> None:
    """Wait until sandboxes no longer start or import: until they use almost no processor time."""
    deadline = time.monotonic() + timeout
    before = _processor_time(others)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = _processor_time(others)
        if now - before < _QUIET:
            return
        before = now


def available_memory() -> int:
    """Return the bytes that are available on the machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def machine() -> dict[str, object]:
    """Return the conditions on which the figures depend."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "architecture": os.uname().machine,
        "kernel": os.uname().release.partition("-")[0],
        "processors": os.cpu_count(),
        "model": model.partition(":")[2].strip(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
    }


def _processes() -> Iterator[int]:
    parents: dict[int, int] = {}
    groups: dict[int, str] = {}
    containers = _containers()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if containers:
                # A container's shim has the container's id among its arguments, and is not in its control group.
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                groups[int(entry.name)] = (entry / "cgroup").read_text() + command
        except OSError:
            continue
    for process in parents:
        ancestor = parents.get(process)
        while ancestor and ancestor != os.getpid():
            ancestor = parents.get(ancestor)
        if ancestor or any(container in groups.get(process, "") for container in containers):
            yield process


def _containers() -> list[str]:
    """The ids of the containers that this process has started."""
    command = ["docker", "ps", "--quiet", "--no-trunc", "--filter", f"label=greenroom.owner.pid={os.getpid()}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []


def _processor_time(others: frozenset[int]) -> float:
    ticks = 0
    for process in _processes():
        if process in others:
            continue
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _HERTZ


def as_json(value: object) -> str:
    """Return a value as the text of a file, with figures rounded to four digits."""
    return json.dumps(_rounded(value), indent=1) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_rounded(each) for each in cast("list[Any]", value)]
    return value
