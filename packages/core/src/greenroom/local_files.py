"""Files on this machine that callers name: download targets and upload sources."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from greenroom.errors import FileRefused, GreenroomError, InvalidRequest
from greenroom.untrusted import brief


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a local file.

    Raises:
        InvalidRequest: it cannot be the name of a file.
        TypeError: it is not a path.
    """
    name = os.fsdecode(path)
    try:
        valid = bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise InvalidRequest(f"The local path must be the name of a file, not {brief(name)}.")
    return Path(name)


def is_directory(path: Path) -> bool:
    """Whether there is a directory; not if that cannot be found out."""
    return os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises errors


def open_without_waiting(name: str, flags: int, *, dir_fd: int | None = None) -> int:
    """As `os.open`, also for a pipe without a writer, which would block."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), dir_fd=dir_fd)


def open_to_read(path: Path, opener: Callable[[str, int], int] = open_without_waiting) -> BinaryIO:
    """Open a local file, which must be a regular file: reading from any other can block forever.

    Raises:
        InvalidRequest: it cannot be read, or is not a regular file.
    """
    try:
        file = open(path, "rb", opener=opener)  # noqa: SIM115  the caller closes it
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    except OSError as error:
        raise unreadable(path, error) from error
    raise InvalidRequest(
        f"The local file {str(path)!r} must be a regular file, not a device or a pipe. Pass it as an open file."
    )


def unreadable(path: Path, error: OSError) -> InvalidRequest:
    """The error for a local file that cannot be read."""
    return InvalidRequest(f"The local file {str(path)!r} cannot be read: {error.strerror or error}.")


@contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Turn errors of the local file system into Greenroom's while a local file is written.

    Raises:
        FileRefused: the local file system refuses; it has the error number.
    """
    try:
        yield
    except GreenroomError:  # an error of the session; some are an OSError too
        raise
    except OSError as error:
        raise refused(path, error.errno, error.strerror or str(error)) from error


def check_target(path: Path) -> None:
    """Check that a regular file can be written here, before its content is fetched.

    Raises:
        FileRefused: something other than a regular file is there, or the name is not possible.
    """
    with writing(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise refused(path, number, "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file")


def refused(path: Path, number: int | None, reason: str) -> FileRefused:
    """The error for a local file or directory that cannot be written."""
    return FileRefused(number or errno.EIO, f"The local file cannot be written: {reason}", str(path))
