"""What a sandbox has used: counted by its control groups, else estimated from its processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from greenroom.engines.base import Resources
from greenroom.models import UsageSource

_MOUNT = Path("/sys/fs/cgroup")
_COUNTERS = ("cpuacct", "memory", "")
"""The controllers that count, the empty name being version 2 of control groups."""
_MOST_PROCESSES = 1000  # of one sandbox: a fork bomb must not make a reading long
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def of_group(directories: Sequence[Path]) -> Resources | None:
    """Return what control groups of version 1 or 2 have counted; `None` if they are gone, or do not count it."""
    cpu, memory, peak = None, None, None
    for directory in directories:
        cpu = _cpu(directory) if cpu is None else cpu
        if memory is None:
            memory = _number(directory / "memory.current", directory / "memory.usage_in_bytes")
            peak = _number(directory / "memory.peak", directory / "memory.max_usage_in_bytes")
    return None if cpu is None or memory is None else Resources(UsageSource.CONTROL_GROUPS, cpu, memory, peak)


def groups_of(process: int, name: str) -> tuple[Path, ...]:
    """Return the directories of the control groups of a process, if their paths name it, as those of containers do."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                directory = _MOUNT / controller / path.lstrip("/")
                if controller in _COUNTERS and name in path and directory.is_dir():
                    found[controller] = directory
    return tuple(found[controller] for controller in _COUNTERS if controller in found)


def of_processes(root: int) -> Resources | None:
    """Return what a process and those below it have used, with what those used that they have waited for.

    Shared pages count for each process, and what a killed process used is missing: an estimate.
    """
    ticks, pages, found = 0, 0, False
    for process in _tree(root):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
            # The name, which the process chooses, can hold spaces and parentheses.
            fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
            found = True
    return Resources(UsageSource.PROCESSES, ticks / _TICKS, pages * _PAGE) if found else None


def _cpu(directory: Path) -> float | None:
    nanoseconds = _number(directory / "cpuacct.usage")
    if nanoseconds is not None:
        return nanoseconds / 1e9
    with contextlib.suppress(OSError, ValueError):
        for line in (directory / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) / 1e6
    return None


def _number(*files: Path) -> int | None:
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            return int(file.read_text())
    return None


def _tree(root: int) -> Iterator[int]:
    waiting, count = [root], 0
    while waiting and count < _MOST_PROCESSES:
        process, count = waiting.pop(), count + 1
        yield process
        with contextlib.suppress(OSError, ValueError):
            waiting += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
