"""Control groups: the limits on memory, processors and processes of a whole sandbox, where we may set them.

Root may, and so may the owner of a delegated group (version 2). Where nobody lets us, `find` returns `None`, and
the bubblewrap engine falls back on limits of single processes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from greenroom.engines.base import Limits

MOUNT = Path("/sys/fs/cgroup")
_PREFIX = "greenroom-"
_PERIOD = 100_000  # microseconds, over which a share of the processors is counted


@dataclass(frozen=True, slots=True)
class Group:
    """The group of one sandbox: one directory (version 2), or one a controller (version 1)."""

    directories: tuple[Path, ...]

    @property
    def members(self) -> list[Path]:
        """The files into which a process writes itself to join."""
        return [directory / "cgroup.procs" for directory in self.directories]

    @property
    def memory_events(self) -> tuple[Path, str] | None:
        """The file that counts kills for want of memory, and where the runner looks for it in a sandbox."""
        for name, place in (("memory.events", ""), ("memory.oom_control", "memory/")):
            for directory in self.directories:
                if (directory / name).exists():
                    return directory / name, f"{MOUNT}/{place}{name}"
        return None

    def limit_memory(self, memory: int) -> None:
        """Change the limit on memory.

        Raises:
            OSError: more is in use already, or the kernel refuses otherwise.
        """
        for directory in self.directories:
            if (directory / "memory.max").exists():
                (directory / "memory.max").write_text(str(memory))
            elif (directory / "memory.limit_in_bytes").exists():
                # Version 1 wants memory below memory and swap together at each moment.
                both = directory / "memory.memsw.limit_in_bytes"
                order = [directory / "memory.limit_in_bytes", both]
                if both.exists() and int(both.read_text()) < memory:
                    order.reverse()
                for file in order:
                    _write_if_there(file, str(memory))

    def remove(self, *, patience: float = 2.0) -> None:
        """Remove the group once its last process is gone; what stays is for the sweep of the next engine."""
        deadline = time.monotonic() + patience
        for directory in self.directories:
            while not _remove(directory) and time.monotonic() < deadline:
                time.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups can be made: a parent directory by controller; all the same one under version 2."""

    parents: dict[str, Path]

    def create(self, limits: Limits) -> Group:
        """Make a group with these limits.

        Raises:
            OSError: the kernel refuses.
        """
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        group = Group(tuple(dict.fromkeys(parent / name for parent in self.parents.values())))
        try:
            for directory in group.directories:
                directory.mkdir()
            self._limit(name, limits)
        except BaseException:
            group.remove(patience=0)
            raise
        return group

    def sweep(self) -> int:
        """Remove the empty groups of processes that are gone; returns how many."""
        removed = 0
        for parent in set(self.parents.values()):
            for directory in parent.glob(f"{_PREFIX}*"):
                owner = directory.name.removeprefix(_PREFIX).partition("-")[0]
                if not (owner.isdecimal() and Path(f"/proc/{owner}").exists()):
                    removed += _remove(directory)
        return removed

    def _limit(self, name: str, limits: Limits) -> None:
        memory, pids, cpu = (self.parents[controller] / name for controller in ("memory", "pids", "cpu"))
        (pids / "pids.max").write_text(str(limits.pids))
        if (memory / "memory.max").exists():
            (memory / "memory.max").write_text(str(limits.memory))
            _write_if_there(memory / "memory.swap.max", "0")
            (cpu / "cpu.max").write_text(f"{int(limits.cpus * _PERIOD)} {_PERIOD}")
        else:
            (memory / "memory.limit_in_bytes").write_text(str(limits.memory))
            _write_if_there(memory / "memory.memsw.limit_in_bytes", str(limits.memory))
            (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (cpu / "cpu.cfs_quota_us").write_text(str(int(limits.cpus * _PERIOD)))


def find() -> Hierarchy | None:
    """Where this process may make groups, found by making one."""
    for parents in (_version_1(), *_version_2()):
        if parents is None:
            continue
        hierarchy = Hierarchy(parents)
        try:
            hierarchy.create(Limits()).remove(patience=0.5)
        except OSError:
            continue
        return hierarchy
    return None


def _own_groups() -> dict[str, str]:
    """The path of this process's group by controller, the empty name being version 2."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def _version_1() -> dict[str, Path] | None:
    own = _own_groups()
    parents: dict[str, Path] = {}
    for controller in ("memory", "pids", "cpu"):
        candidates = [MOUNT / controller / own.get(controller, "/").lstrip("/"), MOUNT / controller]
        parent = next((path for path in candidates if (path / "cgroup.procs").exists()), None)
        if parent is None:
            return None
        parents[controller] = parent
    return parents


def _version_2() -> list[dict[str, Path] | None]:
    """Our own group if it may have children with limits, else the root's."""
    own = MOUNT / _own_groups().get("", "/").lstrip("/")
    found: list[dict[str, Path] | None] = []
    for parent in dict.fromkeys((own, MOUNT)):
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text("+memory +pids +cpu")
            found.append(dict.fromkeys(("memory", "pids", "cpu"), parent))
    return found


def _write_if_there(path: Path, value: str) -> None:
    if path.exists():  # without swap accounting it is not
        path.write_text(value)


def _remove(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError as error:
        return error.errno == errno.ENOENT
    return True
