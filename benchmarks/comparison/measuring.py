"""What sandboxes of this process take: memory and processor time, read from the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

_QUIET = 0.05  # seconds of processors in half a second, below which sandboxes count as idle
_HERTZ = os.sysconf("SC_CLK_TCK")


def seconds(act: Callable[[], object]) -> float:
    """Return how long a function takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def memory(own: frozenset[int] = frozenset()) -> float | None:
    """Return the bytes that the sandboxes of this process cost: what cannot be dropped, each page once.

    These are anonymous pages (a page that several processes share since a fork counts once), memory in tmpfs that is
    mapped, and the page tables. Pages of files are not counted: the libraries' are shared by all sandboxes, and can be
    read again. Their share in a process depends on who else has them mapped at the moment; in a control group, they
    all count for whoever reads them first. Both made earlier figures vary by half from run to run.

    Args:
        own: processes that do not count.

    Returns:
        `None` where the kernel does not show it to this user.
    """
    total = 0
    for process in _processes():
        if process in own:
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
            if name in {"Pss_Anon", "Pss_Shmem", "VmPTE"}:
                total += int(value.split()[0]) * 1024
    return total


def processes() -> frozenset[int]:
    """Return the processes that belong to this one now: its descendants, and those in its containers."""
    return frozenset(_processes())


def wait_until_idle(own: frozenset[int] = frozenset(), timeout: float = 60) -> None:
    """Wait until sandboxes no longer start or import: until they use next to no processor time."""
    deadline = time.monotonic() + timeout
    before = _processor_time(own)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = _processor_time(own)
        if now - before < _QUIET:
            return
        before = now


def available_memory() -> int:
    """Return the bytes that the machine can still give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
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
                groups[int(entry.name)] = (entry / "cgroup").read_text()
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
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        return []


def _processor_time(own: frozenset[int]) -> float:
    ticks = 0
    for process in _processes():
        if process in own:
            continue
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _HERTZ


def as_json(value: object) -> str:
    """Return a value as the text of a file, with figures that have four digits."""
    return json.dumps(_rounded(value), indent=1) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_rounded(each) for each in cast("list[Any]", value)]
    return value
