"""Environments in the user's cache: created once by one process, then only read."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path

from greenroom.engines import private_cache
from greenroom.errors import EngineUnavailable
from greenroom.untrusted import printable

_POLL = 0.1
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_SPACE = "No space left on device"


def place() -> Path:
    """Return the directory of all environments, whether it exists or not."""
    return private_cache.place() / "packages"


def key(*parts: str) -> str:
    """Return a name derived from these parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()[:32]


async def lock_of(name: str, resolve: Callable[[Path], Awaitable[str]]) -> str:
    """Return the stored lock of a name, or create and store it.

    Raises:
        EngineUnavailable: the cache cannot be written.
        GreenroomError: as for `resolve`, which gets a directory for temporary files.
    """
    target = place() / f"{name}.lock"
    async with _alone(name) as directory:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return target.read_text(encoding="utf-8")
        text = await resolve(directory)
        with _explained():
            written = directory / "lock"
            written.write_text(text, encoding="utf-8")
            written.rename(target)
    return text


async def environment(name: str, make: Callable[[Path], Awaitable[None]]) -> Path:
    """Return the environment of a name. The first process creates it while others wait; a partial one is never used.

    Raises:
        EngineUnavailable: the cache cannot be written, or its disk is full.
        GreenroomError: as for `make`, which gets an empty directory.
    """
    target = place() / name
    if _is_there(target):
        return target
    async with _alone(name) as directory:
        if not _is_there(target):
            with _explained():
                made = directory / "environment"
                made.mkdir(mode=0o755)
                await make(made)
                await asyncio.to_thread(_write_through, made)
                made.chmod(0o755)
                made.rename(target)
    return target


def explain_full_disk(output: str) -> None:
    """Raise an error if an installer ended because the disk is full.

    Raises:
        EngineUnavailable: it did.
    """
    if _NO_SPACE in output or "os error 28" in output or "ENOSPC" in output:
        raise _full()


@contextlib.asynccontextmanager
async def _alone(name: str) -> AsyncGenerator[Path, None]:
    """Hold the lock of a name and yield a new directory. At the end, remove it and the leftovers of killed
    processes."""
    cache = place()
    with _explained():
        for directory in (cache.parent, cache):
            private_cache.make_private(directory)
        opened = os.open(cache / f".{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while not _locked(opened):  # noqa: ASYNC110  another process has it
            await asyncio.sleep(_POLL)
        prefix = f".{name}-"
        for left in cache.glob(f"{prefix}*"):
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        with _explained():
            directory = Path(tempfile.mkdtemp(prefix=prefix, dir=cache))
        try:
            yield directory
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
    finally:
        os.close(opened)


def _locked(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(target: Path) -> bool:
    return target.is_dir() and not target.is_symlink()


def _write_through(directory: Path) -> None:
    """Flush the files to disk before their directory gets its name, in case of a power loss."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(opened) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(opened)


@contextlib.contextmanager
def _explained() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full() from error
        raise EngineUnavailable(
            f"The packages cannot be stored in {printable(str(place()))}: {error.strerror}. Choose another directory "
            "with XDG_CACHE_HOME."
        ) from error


def _full() -> EngineUnavailable:
    return EngineUnavailable(
        f"The disk is full: the packages were not installed in {printable(str(place()))}, and no partial "
        "installation is left. Free some space, or choose another directory with XDG_CACHE_HOME."
    )
