"""Compiles the bytecode of an environment's packages once on the host, because sandboxes cannot store it.

Some installers do not compile packages, and code in sandboxes sees the packages read-only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_LOOKED_AT = 200  # source files, spread over the packages

# It ends with the process that started it, and exits if another process is compiling the same packages.
_COMPILE = """
import ctypes, compileall, fcntl, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.nice(19)
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit()
compileall.compile_dir(sys.argv[1], quiet=2)
"""


def command_to_compile(python: str) -> list[str] | None:
    """Return the command that compiles the packages of a virtual environment.

    `None` if they have their bytecode already, or if another user owns the environment: then nothing in it is run or
    written here.
    """
    environment = Path(python).parent.parent
    for packages in environment.glob("lib/python3*/site-packages"):
        if _is_own(environment) and _is_own(packages) and _lacks_bytecode(packages):
            # Neither the environment's own code nor its .pth files are run.
            return [python, "-I", "-S", "-c", _COMPILE, str(packages)]
    return None


def _is_own(directory: Path) -> bool:
    return directory.stat().st_uid == os.geteuid() and os.access(directory, os.W_OK)


def _lacks_bytecode(packages: Path) -> bool:
    tag = packages.parent.name.replace("python", "cpython-").replace(".", "")
    looked_at = list(islice(_sources(packages), _LOOKED_AT))
    missing = sum(not (source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc").exists() for source in looked_at)
    return missing > len(looked_at) / 10


def _sources(packages: Path) -> Iterator[Path]:
    """Yield a few source files of each package."""
    for package in packages.iterdir():
        if (package / "__init__.py").exists():
            yield from islice(package.glob("*.py"), 5)
