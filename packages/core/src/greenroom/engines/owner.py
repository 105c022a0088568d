"""Labels that name a sandbox's owner, so that another process can later find out whether the owner is still alive."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path

MACHINE = "greenroom.owner.machine"
"""The label with the same value in all processes that can check whether each other is alive."""

_PID = "greenroom.owner.pid"
_STARTED = "greenroom.owner.started"


def labels() -> dict[str, str]:
    """The labels that name this process as the owner."""
    pid = os.getpid()
    return {MACHINE: machine(), _PID: str(pid), _STARTED: _start_time(pid) or ""}


def is_gone(owner: Mapping[str, str]) -> bool:
    """Whether the process that made these labels has certainly ended.

    If in doubt, it has not: a container can belong to a process on another machine that shares the Docker engine,
    or in another container, where the same process ID is another process.
    """
    if owner.get(MACHINE) != machine() or sys.platform == "win32":  # on Windows, os.kill ends processes
        return False
    try:
        pid = int(owner[_PID])
    except (KeyError, ValueError):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # alive, and owned by another user
    started = owner.get(_STARTED)
    # The system reuses IDs, but not with the same start time.
    return bool(started) and _start_time(pid) not in (None, started)


def mark() -> str:
    """The labels as one word, for the names of things that cannot have labels."""
    return f"{_machine_mark()}-{os.getpid()}-{_start_time(os.getpid()) or ''}"


def is_gone_by_mark(word: str) -> bool:
    """Like `is_gone`, for a word that `mark` returned."""
    of_machine, _, process = word.partition("-")
    pid, _, started = process.partition("-")
    return of_machine == _machine_mark() and is_gone({MACHINE: machine(), _PID: pid, _STARTED: started})


def _machine_mark() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


@cache
def machine() -> str:
    """An identifier of this boot of this machine and, on Linux, of this process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{platform.node()}/{uuid.getnode():x}"


def _start_time(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None if that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
