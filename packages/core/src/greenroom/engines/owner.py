"""Who made a sandbox: labels that tell, later and from another process, whether its owner still lives."""

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
"""The label that is the same for all processes that can judge each other's life."""

_PID = "greenroom.owner.pid"
_STARTED = "greenroom.owner.started"


def labels() -> dict[str, str]:
    """The labels that name this process as the owner."""
    pid = os.getpid()
    return {MACHINE: machine(), _PID: str(pid), _STARTED: _start_time(pid) or ""}


def is_gone(owner: Mapping[str, str]) -> bool:
    """Whether the process that made these labels has certainly ended.

    In doubt it has not: a container may belong to a process on another machine that shares the Docker engine,
    or in another container, where the same number is another process.
    """
    if owner.get(MACHINE) != machine() or sys.platform == "win32":  # os.kill ends processes there
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
        pass  # alive, and of another user
    started = owner.get(_STARTED)
    # A number is used again, but not with the same start.
    return bool(started) and _start_time(pid) not in (None, started)


def mark() -> str:
    """The same in one word, for the name of what can have no labels."""
    return f"{_machine_mark()}-{os.getpid()}-{_start_time(os.getpid()) or ''}"


def is_gone_by_mark(word: str) -> bool:
    """As `is_gone`, by what `mark` returned."""
    of_machine, _, process = word.partition("-")
    pid, _, started = process.partition("-")
    return of_machine == _machine_mark() and is_gone({MACHINE: machine(), _PID: pid, _STARTED: started})


def _machine_mark() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


@cache
def machine() -> str:
    """This boot of this machine and, on Linux, this process namespace on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{platform.node()}/{uuid.getnode():x}"


def _start_time(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None where that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
