"""Files that a template's modules keep open, such as libffi its own library, of which it maps further pages later.

Each fork opens them again: otherwise all forks would share each file's position and flags.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection
from typing import NamedTuple


class OpenFile(NamedTuple):
    """A regular file that is open for reading."""

    descriptor: int
    path: str
    inheritable: bool


def left_open(known: Collection[int]) -> tuple[list[OpenFile], list[str]]:
    """Return the open files of this process that forks can reopen, and the names of all others.

    Args:
        known: descriptors to leave out.
    """
    files: list[OpenFile] = []
    others: list[str] = []
    for descriptor in sorted({*map(int, os.listdir("/proc/self/fd"))}.difference(known)):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if os.path.isfile(path) and _is_only_for_reading(descriptor):
                files.append(OpenFile(descriptor, path, os.get_inheritable(descriptor)))
            else:
                others.append(path)
    return files, others


def open_by_path(file: OpenFile) -> None:
    """Replace a descriptor from another sandbox with this process's own, which programs do not inherit.

    Raises:
        OSError: this process cannot open the file, or another file has its path.
    """
    _replace(file.descriptor, file.path, inheritable=False)


def open_again(file: OpenFile) -> None:
    """Replace a descriptor from another process of the sandbox with this process's own.

    It needs no path, since another file can have it by now.
    """
    _replace(file.descriptor, f"/proc/self/fd/{file.descriptor}", inheritable=file.inheritable)


def close_all_except(kept: Collection[int]) -> None:
    """Close all other descriptors of this process."""
    for number in {*map(int, os.listdir("/proc/self/fd"))}.difference(kept):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            os.close(number)


def _replace(descriptor: int, path: str, *, inheritable: bool) -> None:
    """Replace a descriptor with a new one of the same file, at the same position."""
    new = os.open(path, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(new), os.fstat(descriptor)):
            raise OSError(errno.ESTALE, "it has been replaced", path)
        os.lseek(new, os.lseek(descriptor, 0, os.SEEK_CUR), os.SEEK_SET)
        os.dup2(new, descriptor, inheritable=inheritable)
    finally:
        os.close(new)


def _is_only_for_reading(descriptor: int) -> bool:
    """Whether an open file has neither been opened for writing nor locked."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH):
        return False
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        return not any(line.startswith("lock:") for line in file)
