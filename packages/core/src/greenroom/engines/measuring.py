"""The usage of a sandbox: counted by its control groups, otherwise estimated from its processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from greenroom.engines.base import Resources
from greenroom.models import UsageSource

_MOUNT = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/meminfo")
_COUNTERS = ("cpuacct", "memory", "")
"""The controllers that count usage; the empty name is version 2 of control groups."""
_MOST_PROCESSES = 1000  # of one sandbox: a fork bomb must not make a reading slow
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def of_group(directories: Sequence[Path]) -> Resources | None:
    """Return the usage counted by control groups of version 1 or 2; `None` if they are gone, or do not count it.

    For a sandbox forked from a template, they count the pages that it has written, not those that it shares.
    """
    cpu, memory, peak = None, None, None
    for directory in directories:
        cpu = _cpu(directory) if cpu is None else cpu
        if memory is None:
            memory = _number(directory / "memory.current", directory / "memory.usage_in_bytes")
            peak = _number(directory / "memory.peak", directory / "memory.max_usage_in_bytes")
    return None if cpu is None or memory is None else Resources(UsageSource.CONTROL_GROUPS, cpu, memory, peak)


class Gauge:
    """Counters of control groups that are kept open: opening one takes ten times as long as reading it.

    It reads in microseconds, where `of_group` takes a fraction of a millisecond.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._unit = 1e9
        self._cpu = _opened(directories, ["cpuacct.usage"], os.O_RDONLY)
        if self._cpu is None:
            self._unit, self._cpu = 1e6, _opened(directories, ["cpu.stat"], os.O_RDONLY)
        self._peak = _opened(directories, ["memory.peak", "memory.max_usage_in_bytes"], os.O_RDWR, os.O_RDONLY)
        self.highest = 0
        """The peak in bytes as seen by `take_peak`, which under version 1 resets the kernel's own."""
        self.take_peak()

    def cpu(self) -> float | None:
        """Return the seconds of processor time so far; `None` if nothing counts them."""
        content = b"" if self._cpu is None else _read(self._cpu)
        fields = content.split(None, 2)
        return int(fields[1 if self._unit == 1e6 else 0]) / self._unit if fields else None

    def take_peak(self) -> int | None:
        """Return the peak in bytes since the last call; `None` if unknown.

        It is known if the kernel can reset its peak, or if the peak has risen since.
        """
        if self._peak is None or not (content := _read(self._peak)):
            return None
        peak, before = int(content), self.highest
        self.highest = max(peak, before)
        try:
            os.pwrite(self._peak, b"0", 0)
        except OSError:  # the file is read-only, or the kernel is older than 6.12
            return peak if peak > before else None
        return peak

    def close(self) -> None:
        for descriptor in (self._cpu, self._peak):
            if descriptor is not None:
                os.close(descriptor)
        self._cpu = self._peak = None


def swap_left() -> int:
    """Return the bytes of free swap space on this machine."""
    return fields_of(_MACHINE).get("SwapFree:", 0) << 10


def machine_memory() -> int | None:
    """Return the bytes of memory on this machine; `None` if unknown."""
    kilobytes = fields_of(_MACHINE).get("MemTotal:")
    return None if kilobytes is None else kilobytes << 10


def fields_of(file: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number per line; none if the file does not exist."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            match line.split():
                case [name, number, *_] if number.isascii() and number.isdigit():
                    found[name] = int(number)
                case _:
                    pass
    return found


def groups_of(process: int, name: str) -> tuple[Path, ...]:
    """Return the control group directories of a process, if their paths name it, as those of containers do."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                directory = _MOUNT / controller / path.lstrip("/")
                if controller in _COUNTERS and name in path and directory.is_dir():
                    found[controller] = directory
    return tuple(found[controller] for controller in _COUNTERS if controller in found)


def groups_named(id: str) -> tuple[Path, ...]:  # noqa: A002  Docker's own word
    """Return the control group directories of a container, where Docker creates them by default."""
    places = (f"docker/{id}", f"system.slice/docker-{id}.scope")
    found = (_MOUNT / controller / place for controller in _COUNTERS for place in places)
    return tuple(directory for directory in found if directory.is_dir())


def of_processes(root: int) -> Resources | None:
    """Return the usage of a process and its descendants, including children that they have waited for.

    An estimate: shared pages, even a template's, count for each process, and the usage of killed processes is missing.
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


def _opened(directories: Sequence[Path], names: Sequence[str], *modes: int) -> int | None:
    """Return a descriptor of the first of these files that exists, in the first mode that is allowed."""
    for file in (directory / name for directory in directories for name in names):
        for mode in modes:
            with contextlib.suppress(OSError):
                descriptor = os.open(file, mode | os.O_CLOEXEC)
                if descriptor < _most_descriptors():
                    return descriptor
                os.close(descriptor)
                return None
    return None


def _most_descriptors() -> int:
    """Half of the descriptors that this process can have: sandboxes and connections need them more than usage does."""
    import resource  # noqa: PLC0415  exists on Unix only

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft // 2


def _read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 64, 0)
    except OSError:  # the group is gone
        return b""


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
