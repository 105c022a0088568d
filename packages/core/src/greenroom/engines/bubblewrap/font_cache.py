"""Matplotlib's font list, created once per machine instead of in each sandbox, where it takes seconds."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from greenroom.engines import private_cache

_FONTS = Path("/usr/share/fonts")

MAKE = "import contextlib\nwith contextlib.suppress(ImportError):\n    import matplotlib.font_manager"
"""Python code that writes the list to MPLCONFIGDIR; it does nothing if matplotlib is not installed."""

descriptor = private_cache.descriptor


def place(python: str) -> Path:
    """Return the path of the list for an interpreter, whether it exists or not."""
    fonts = _FONTS.stat().st_mtime_ns if _FONTS.is_dir() else 0
    key = hashlib.sha256(f"{python}\n{fonts}".encode(errors="surrogateescape")).hexdigest()[:16]
    return private_cache.place() / f"matplotlib-{key}"


async def make(target: Path, run: Callable[[Path], Awaitable[int]]) -> None:
    """Have `run` write the list to a new directory, and move that to the target if `run` succeeds.

    Two processes can do this at the same time: one of them wins, and both lists are valid.

    Raises:
        OSError: the target cannot be written, or another user can change its directory.
    """
    private_cache.make_private(target.parent)
    if os.path.lexists(target):
        return
    directory = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if await run(directory) == 0 and not target.exists():
            directory.chmod(0o755)  # for the user inside a sandbox; others cannot get through the parent
            directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
