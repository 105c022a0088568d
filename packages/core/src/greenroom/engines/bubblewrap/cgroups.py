"""Control groups: limits on memory, processors and processes of a whole sandbox, where we are allowed to set them.

Root is allowed to, and so is the owner of a delegated group (version 2). Elsewhere `find` returns `None`, and the
bubblewrap engine falls back to limits on single processes.

Under version 2 a group with limited children cannot hold processes itself, and a service manager takes controllers
away from the children of its own groups if its units do not need them. So the sandboxes have a group of their own,
whose children keep their limits, and in a delegated group all existing processes are moved to another group:

    delegated group, or the root's
    ├── greenroom.host                      the processes that were in the delegated group
    └── greenroom.sandboxes
        └── greenroom-<process>-<random>    one sandbox
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from greenroom.engines import measuring, owner
from greenroom.engines.base import ControlGroups, Limits, Resources

MOUNT = Path("/sys/fs/cgroup")
_PREFIX = "greenroom-"
_HOST = "greenroom.host"
_SANDBOXES = "greenroom.sandboxes"
_CONTROLLERS = ("memory", "pids", "cpu")
_FREEZER = "freezer"  # a controller of version 1; version 2 freezes without one
_MOVES = 10  # attempts: processes fork while they are moved
_PERIOD = 100_000  # microseconds: the period over which a share of the processors is counted
_KILL_TIMEOUT = 5.0

# The file and values that suspend the processes of a group and resume them.
_FREEZERS = {"cgroup.freeze": ("1", "0"), "freezer.state": ("FROZEN", "THAWED")}
_PIECE = 16 << 20  # bytes moved to swap between two pauses

# A group's share of busy processors: while its sandbox starts with no caller waiting for it, and afterwards.
_SHARES = {"cpu.weight": (6, 100), "cpu.shares": (64, 1024)}

EVENTS = (f"{MOUNT}/memory.events", f"{MOUNT}/memory/memory.oom_control")
"""Where the runner finds the count of out-of-memory kills in a sandbox: under version 2 and 1."""


@dataclass(frozen=True, slots=True)
class Group:
    """The group of one sandbox: one directory (version 2), or one directory per controller (version 1)."""

    directories: tuple[Path, ...]

    @property
    def members(self) -> list[Path]:
        """The files to which a process writes its ID to join."""
        return [directory / "cgroup.procs" for directory in self.directories]

    @property
    def memory_events(self) -> tuple[Path, str] | None:
        """The file that counts out-of-memory kills, and where the runner finds it in a sandbox."""
        for target in EVENTS:
            name = Path(target).name
            for directory in self.directories:
                if (directory / name).exists():
                    return directory / name, target
        return None

    @property
    def memory_events_below(self) -> tuple[str, str] | None:
        """Like `memory_events`, with the path of the file below `Hierarchy.events`."""
        if (events := self.memory_events) is None:
            return None
        return str(events[0].relative_to(events[0].parents[1])), events[1]

    def resources(self) -> Resources | None:
        """What its processes have used so far; `None` if the kernel does not report it."""
        return measuring.of_group(self.directories)

    def limit_memory(self, memory: int) -> None:
        """Change the memory limit.

        Raises:
            OSError: more memory is already in use, or the kernel refuses for another reason.
        """
        for directory in self.directories:
            if (directory / "memory.max").exists():
                _limit_memory_2(directory, memory)
            elif (directory / "memory.limit_in_bytes").exists():
                # At each step, version 1 requires a memory limit of at most the combined limit of memory and swap.
                both = directory / "memory.memsw.limit_in_bytes"
                order = [directory / "memory.limit_in_bytes", both]
                if both.exists() and int(both.read_text()) < memory:
                    order.reverse()
                for file in order:
                    _write_if_there(file, str(memory))

    def take_full_share(self) -> None:
        """Take the same share of busy processors as every other group from now on."""
        for directory in self.directories:
            for name, (_, full) in _SHARES.items():
                with contextlib.suppress(OSError):  # removed meanwhile
                    _write_if_there(directory / name, str(full))

    def freeze(self) -> bool:
        """Suspend every process in the group; return whether the kernel does so."""
        return self._set_freezer(0)

    def thaw(self) -> None:
        """Resume the processes, and stop moving memory to swap."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                if (directory / "memory.reclaim").exists():
                    _write_if_there(directory / "memory.swap.max", "0")
        self._set_freezer(1)

    def allow_swap(self) -> bool:
        """Allow the group as much swap as memory; return whether its memory can be moved there.

        That requires version 2, and swap space on the machine.
        """
        for directory in self.directories:
            with contextlib.suppress(OSError):
                if (directory / "memory.reclaim").exists() and measuring.swap_left() >= _PIECE:
                    (directory / "memory.swap.max").write_text((directory / "memory.max").read_text())
                    return True
        return False

    def _set_freezer(self, state: int) -> bool:
        for directory in self.directories:
            for name, words in _FREEZERS.items():
                with contextlib.suppress(OSError):  # removed meanwhile
                    if (directory / name).exists():
                        (directory / name).write_text(words[state])
                        return True
        return False

    def reclaim(self) -> bool:
        """Move a piece of the group's memory to swap; return whether there may be more to move."""
        for directory in self.directories:
            with contextlib.suppress(OSError, ValueError):
                before = int((directory / "memory.current").read_text())
                with contextlib.suppress(BlockingIOError):  # there was less to move
                    (directory / "memory.reclaim").write_text(str(min(before, _PIECE)))
                return int((directory / "memory.current").read_text()) < before - _PIECE // 16
        return False

    def kill(self) -> None:
        """Kill every process in the group, whatever it does to prevent that.

        The death of process 1 of the sandbox ends the others, but only once process 1 runs, which they can delay.
        """
        deadline = time.monotonic() + _KILL_TIMEOUT
        self.strike()
        for directory in self.directories:
            while _kill_processes(directory) and time.monotonic() < deadline:
                time.sleep(0.005)

    def strike(self) -> None:
        """Begin to kill: send the signal to every existing process."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                _write_if_there(directory / "cgroup.kill", "1")  # version 2, from Linux 5.14 on
            with contextlib.suppress(OSError):
                _write_if_there(directory / "pids.max", "0")  # no process is created while we count them
        for directory in self.directories:
            _kill_processes(directory)
        self.thaw()  # under version 1, frozen processes die only once thawed, without running any more of their code

    def remove(self, *, timeout: float = 2.0) -> None:
        """Remove the group once its last process is gone; otherwise the sweep of a later engine removes it."""
        deadline = time.monotonic() + timeout
        for directory in self.directories:
            while not _remove(directory) and time.monotonic() < deadline:
                time.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups can be made: a parent directory per controller; under version 2, the same one for all."""

    parents: dict[str, Path]

    @property
    def version(self) -> ControlGroups:
        unified = (self.parents["memory"] / "cgroup.controllers").exists()
        return ControlGroups.VERSION_2 if unified else ControlGroups.VERSION_1

    @property
    def events(self) -> Path:
        """The directory of the groups that count out-of-memory kills."""
        return self.parents["memory"]

    def create(self, limits: Limits) -> Group:
        """Make a group with these limits.

        Raises:
            OSError: the kernel refuses.
        """
        name = f"{_PREFIX}{owner.mark()}-{secrets.token_hex(6)}"
        group = self._group(name)
        try:
            for directory in group.directories:
                directory.mkdir()
            self._limit(name, limits)
        except BaseException:
            group.remove(timeout=0)
            raise
        return group

    @property
    def freezes(self) -> bool:
        """Whether its groups can be frozen."""
        return self.version is ControlGroups.VERSION_2 or _FREEZER in self.parents

    def sweep(self, is_gone: Callable[[str], bool] = owner.is_gone_by_mark) -> int:
        """Remove the groups of dead owners, and kill the processes left in them; return the number of groups.

        Args:
            is_gone: whether the owner with a mark is dead.
        """
        names = {
            directory.name
            for parent in self.parents.values()
            for directory in parent.glob(f"{_PREFIX}*")
            if is_gone(directory.name.removeprefix(_PREFIX).rpartition("-")[0])
        }
        groups = [self._group(name) for name in names]
        for group in groups:
            group.strike()
        for group in groups:
            group.kill()
            group.remove()
        return len(groups)

    def _group(self, name: str) -> Group:
        return Group(tuple(dict.fromkeys(parent / name for parent in self.parents.values())))

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
            # Version 1 counts these buffers separately; without a limit they could take all of the machine's memory.
            _write_if_there(memory / "memory.kmem.tcp.limit_in_bytes", str(limits.memory // 4))
            (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (cpu / "cpu.cfs_quota_us").write_text(str(int(limits.cpus * _PERIOD)))
        for file, (starting, _) in _SHARES.items():
            _write_if_there(cpu / file, str(starting))


def end_all_of(mark: str, parents: Mapping[str, str]) -> int:
    """Kill the sandboxes of a dead owner, including frozen ones; return their number.

    Args:
        mark: the owner's mark.
        parents: the parents in the owner's `Hierarchy`.
    """
    hierarchy = Hierarchy({controller: Path(parent) for controller, parent in parents.items()})
    return hierarchy.sweep(lambda found: found == mark)


def find() -> Hierarchy | None:
    """Return where this process can make groups, determined by making one; `None` if nowhere."""
    for parents in _places():
        hierarchy = Hierarchy(parents)
        try:
            hierarchy.create(Limits()).remove(timeout=0.5)
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


def _places() -> Iterator[dict[str, Path]]:
    """Candidates for the parents of a `Hierarchy`, the best first."""
    if (parents := _version_1()) is not None:
        yield parents
        yield {controller: parents[controller] for controller in _CONTROLLERS}  # without accounting
    own = MOUNT / _own_groups().get("", "/").lstrip("/")
    for group in dict.fromkeys((own.parent if own.name == _HOST else own, MOUNT)):
        with contextlib.suppress(OSError):
            if (delegated := _is_delegated(group)) or group == MOUNT:
                yield dict.fromkeys(_CONTROLLERS, _group_of_sandboxes(group, move=delegated))


def _version_1() -> dict[str, Path] | None:
    own = _own_groups()
    parents: dict[str, Path] = {}
    for controller in (*_CONTROLLERS, _FREEZER):
        candidates = [MOUNT / controller / own.get(controller, "/").lstrip("/"), MOUNT / controller]
        parent = next((path for path in candidates if (path / "cgroup.procs").exists()), None)
        if parent is not None:
            parents[controller] = parent
        elif controller != _FREEZER:
            return None
    if (counter := _counter_of_version_1(own, parents["cpu"])) is not None:
        parents["cpuacct"] = counter
    return parents


def _counter_of_version_1(own: dict[str, str], cpu: Path) -> Path | None:
    """The parent in the hierarchy that counts processor time, which is often that of `cpu`."""
    for path in (MOUNT / "cpuacct" / own.get("cpuacct", "/").lstrip("/"), MOUNT / "cpuacct"):
        if (path / "cgroup.procs").exists():
            return cpu if path.samefile(cpu) else path
    return None


def _is_delegated(group: Path) -> bool:
    """Whether this group of version 2 was delegated to us, with all processes in it."""
    with contextlib.suppress(OSError):
        if os.getxattr(group, "user.delegate") == b"1":  # systemd's mark
            return True
    return 0 != group.stat().st_uid == os.geteuid()  # a user's own service manager leaves no mark


def _group_of_sandboxes(group: Path, *, move: bool) -> Path:
    """Return the child group that holds the sandboxes' groups.

    Args:
        group: a group of version 2.
        move: whether the processes in it may be moved to another group.

    Raises:
        OSError: children cannot have limits here.
    """
    for _ in range(_MOVES):
        try:
            _allow_limits_below(group)
            break
        except OSError as error:
            if error.errno != errno.EBUSY or not move:
                raise
        host = group / _HOST
        host.mkdir(exist_ok=True)
        for process in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (host / "cgroup.procs").write_text(process)
    sandboxes = group / _SANDBOXES
    sandboxes.mkdir(exist_ok=True)
    _allow_limits_below(sandboxes)
    return sandboxes


def _allow_limits_below(group: Path) -> None:
    (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in _CONTROLLERS))


def _limit_memory_2(group: Path, memory: int) -> None:
    """Set the limit under version 2 without ending processes: `memory.max` would kill, `memory.high` only reclaims."""
    (group / "memory.high").write_text(str(memory))
    try:
        if int((group / "memory.current").read_text()) > memory:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        (group / "memory.max").write_text(str(memory))
    finally:
        (group / "memory.high").write_text("max")


def _write_if_there(path: Path, value: str) -> None:
    if path.exists():  # some are missing, such as those of swap without swap accounting
        path.write_text(value)


def _processes(directory: Path) -> list[int]:
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _kill_processes(directory: Path) -> bool:
    """Send SIGKILL to each process of a group; return whether there was one."""
    members = _processes(directory)
    for pid in members:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(members)


def _remove(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError as error:
        return error.errno == errno.ENOENT
    return True
