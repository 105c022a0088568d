"""Directories in this user's cache that sandboxes see and no other user can change."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FOREIGN = "another user can change the directory"


def place() -> Path:
    """Return Greenroom's directory in the user's cache, whether it exists or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        cache = Path.home() / ".cache"
    return cache / "greenroom"


def descriptor(target: Path) -> int | None:
    """Open a directory to show it to sandboxes; `None` if it is missing, or another user can change it.

    Another user could replace it with a link to private files. So it must be owned by this user or root, inside
    another such directory; neither may be a link or writable by other users.
    """
    try:
        parent = _open_own(target.parent)
    except OSError:
        return None
    try:
        return _open_own(target.name, parent)
    except OSError:
        return None
    finally:
        os.close(parent)


def make_private(directory: Path) -> None:
    """Create a directory that only this user can access, or remove others' access to an existing one.

    Raises:
        OSError: it cannot be made, or belongs to another user.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    opened = os.open(directory, _DIRECTORY)
    try:
        if os.fstat(opened).st_uid != os.geteuid():
            raise PermissionError(_FOREIGN)
        os.fchmod(opened, 0o700)  # regardless of the umask, and of the process that made it
    finally:
        os.close(opened)


def _open_own(path: str | Path, parent: int | None = None) -> int:
    opened = os.open(path, _DIRECTORY, dir_fd=parent)
    status = os.fstat(opened)
    if status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return opened
    os.close(opened)
    raise PermissionError(_FOREIGN)
