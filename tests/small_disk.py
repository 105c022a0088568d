"""A disk with little room, for tests of what happens when it is full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(disk: Path, size: str) -> Generator[Path, None, None]:
    """Mount a file system of this size, such as `1m`, at a new directory."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    ended = subprocess.run(mount, capture_output=True, check=False)
    if ended.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted: {ended.stderr.decode()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
