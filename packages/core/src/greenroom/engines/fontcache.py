"""Matplotlib's list of fonts, made once a machine instead of once a sandbox, where it takes seconds."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

_FONTS = Path("/usr/share/fonts")

MAKE = "import contextlib\nwith contextlib.suppress(ImportError):\n    import matplotlib.font_manager"
"""Python that writes the list to MPLCONFIGDIR; it does nothing where matplotlib is not installed."""


def place(python: str) -> Path:
    """Where the list for an interpreter is kept, whether it is there or not."""
    fonts = _FONTS.stat().st_mtime_ns if _FONTS.is_dir() else 0
    key = hashlib.sha256(f"{python}\n{fonts}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "greenroom" / f"matplotlib-{key}"


async def make(target: Path, run: Callable[[Path], Awaitable[int]]) -> None:
    """Have `run` write the list into a directory, and put that in its place if it was written.

    Two processes may do so at once: one of them wins, and both lists are good.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if await run(directory) == 0 and not target.exists():
            directory.chmod(0o755)
            directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
