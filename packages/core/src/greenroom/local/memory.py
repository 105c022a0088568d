"""How much memory is left on this machine, or in the container in which this process runs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from greenroom.engines.base import MemoryFrom
from greenroom.engines.measuring import fields_of

_KIB = 1 << 10
_ROOT = Path("/")
_SHORT = "avg10="
_MOST_RESERVED = 1 << 30
READ_INTERVAL = 1.0
"""The seconds between two readings, each of which takes up to a millisecond."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory at one moment, in bytes."""

    total: int
    available: int
    """The bytes that can be used without taking them from a process."""
    stalled: float = 0.0
    """The share of the last ten seconds in which all processes with work waited for memory, from 0 to 1."""
    limit: str = field(default="this machine", compare=False)
    """Whose memory this is, for messages."""

    @property
    def default_reserve(self) -> int:
        """How many bytes are kept free of sandboxes by default."""
        return min(self.total // 20, _MOST_RESERVED)


class MemoryWatch:
    """Reads memory at most once per second.

    Args:
        read: returns the memory.
        clock: returns the time in seconds.
    """

    def __init__(self, read: Callable[[], Memory | None], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._latest: Memory | None = None
        self.read_at = -math.inf
        """When it was last read."""

    def latest(self) -> Memory | None:
        """Return the current memory, at most a second old."""
        if (now := self._clock()) - self.read_at >= READ_INTERVAL:
            self._latest, self.read_at = self._read(), now
        return self._latest


def reader(source: MemoryFrom) -> Callable[[], Memory | None]:
    """Return the meter of the memory that sandboxes are taken from."""
    match source:
        case MemoryFrom.THIS_PROCESS:
            return read_memory
        case MemoryFrom.THIS_MACHINE:
            return partial(read_memory, groups=False)
        case MemoryFrom.ELSEWHERE:
            return lambda: None


def read_memory(root: Path = _ROOT, *, groups: bool = True) -> Memory | None:
    """Return the memory of this machine, or of a control group above this process if that has less; `None` without
    `/proc`.

    Args:
        root: the directory of `proc` and `sys`.
        groups: whether control groups count.
    """
    machine = _machine(root)
    if machine is None:
        return None
    stalled = _stalled(root / "proc/pressure/memory")
    memory = replace(machine, stalled=stalled)
    for group in _groups(root) if groups else ():
        left = _left(group)
        if left is not None and left.total < machine.total:  # a limit above the machine's memory has no effect
            memory = Memory(
                min(memory.total, left.total),
                min(memory.available, left.available),
                max(memory.stalled, left.stalled),
                f"the control group {group}" if left.available < memory.available else memory.limit,
            )
    return memory


def _machine(root: Path) -> Memory | None:
    found = fields_of(root / "proc/meminfo")
    total, available = found.get("MemTotal:"), found.get("MemAvailable:")
    return None if not total or available is None else Memory(total * _KIB, available * _KIB)


def _groups(root: Path) -> Iterator[Path]:
    """The control groups of this process that count memory, each with its ancestors, of version 1 or 2."""
    mount = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = (*line.split(":", 2), "", "")[:3]
            if controllers and "memory" not in controllers.split(","):
                continue
            top = mount / "memory" if controllers else mount
            inside = PurePosixPath(path.lstrip("/"))
            # In a container without a namespace for groups, the path is the machine's, and only the top is mounted.
            yield from (top / each for each in (inside, *inside.parents) if (top / each).is_dir())


def _left(group: Path) -> Memory | None:
    """The memory that a group has left; `None` if it has no limit. Cached files count as free: they can be dropped."""
    for limit, usage, cached, pressure in (
        ("memory.max", "memory.current", ("active_file", "inactive_file"), "memory.pressure"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"), ""),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such file, or `max`, which means no limit
            total, used = (int((group / name).read_text()) for name in (limit, usage))
            fields = fields_of(group / "memory.stat")
            used -= min(used, sum(fields.get(name, 0) for name in cached))
            return Memory(total, max(0, total - used), _stalled(group / pressure) if pressure else 0.0)
    return None


def _stalled(file: Path) -> float:
    """The line `full` of a pressure stall information file; 0 if the kernel has none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            match line.split():
                case ["full", average, *_] if average.startswith(_SHORT):
                    return min(1.0, max(0.0, float(average.removeprefix(_SHORT)) / 100))
                case _:
                    pass
    return 0.0
