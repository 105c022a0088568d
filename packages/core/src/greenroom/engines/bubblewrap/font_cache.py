"""Matplotlib's font list, made once per machine instead of once per sandbox, where it takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FOREIGN = "another user can change the directory"
_FONTS = Path("/usr/share/fonts")

MAKE = "import contextlib\nwith contextlib.suppress(ImportError):\n    import matplotlib.font_manager"
"""Python that writes the list to MPLCONFIGDIR; it does nothing where matplotlib is not installed."""


def place(python: str) -> Path:
    """Return where the list for an interpreter is kept, whether it exists or not."""
    fonts = _FONTS.stat().st_mtime_ns if _FONTS.is_dir() else 0
    key = hashlib.sha256(f"{python}\n{fonts}".encode(errors="surrogateescape")).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        cache = Path.home() / ".cache"
    return cache / "greenroom" / f"matplotlib-{key}"


def descriptor(target: Path) -> int | None:
    """Open the list to show it to sandboxes; `None` where it is missing, or another user can change it.

    Another user could replace it with a link to private files. So it must be a directory of this user or of root, in
    another such directory; neither is a link, and no other user can write to them.
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


async def make(target: Path, run: Callable[[Path], Awaitable[int]]) -> None:
    """Have `run` write the list into a new directory, and move that to the target if `run` succeeded.

    Two processes can do so at the same time: one of them wins, and both lists are good.

    Raises:
        OSError: the target cannot be written, or another user can change its directory.
    """
    _make_private(target.parent)
    if os.path.lexists(target):
        return
    directory = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if await run(directory) == 0 and not target.exists():
            directory.chmod(0o755)  # for the user that code in a sandbox has; others do not get through the parent
            directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make_private(directory: Path) -> None:
    """Make a directory that only this user can access, or take away others' access to the existing one."""
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
