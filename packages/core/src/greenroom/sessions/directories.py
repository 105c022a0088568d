"""Transfers of whole directories to and from a session.

A session's listing can be hostile. A download creates a new directory and new files in it, under names that it checks,
so that no existing link can lead out of it and no existing file is overwritten.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Self

from greenroom.backend import Backend
from greenroom.errors import FileMissing, FileRefused, InvalidRequest
from greenroom.local_files import open_to_read, open_without_waiting, refused, unreadable, writing
from greenroom.models import DATA_DIR, RemoteFile
from greenroom.progress import Meter
from greenroom.sessions.rules import check_file_path
from greenroom.sessions.transfers import at_most, counted, write_chunks

MAX_FILES = 20_000
"""The maximum number of files and directories below one directory; a session lists no more."""

DOWNLOAD_LIMIT = 1 << 30
"""The default limit in bytes of all files in a directory download."""

_MAX_DEPTH = 50  # of a session's listings

_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)

# Links, devices and pipes, which are left out, and files that were replaced since they were listed. HTTP has a single
# error for all of them.
_NO_FILE = {errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EISDIR, errno.ENOTDIR, errno.EPERM}


class LocalFile(NamedTuple):
    """A file to upload."""

    local: Path
    parts: tuple[str, ...]
    """The names that lead to it from its directory."""
    remote: str
    size: int


class LocalDirectory:
    """A local directory to upload.

    Symbolic links below it are not followed, as they could lead out of it: neither existing ones nor those that replace
    a directory or a file during the upload (if the system can open files relative to a directory).

    Raises:
        InvalidRequest: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        if _BY_DESCRIPTOR:
            try:
                self._descriptor = os.open(path, _DIRECTORY)
            except OSError as error:
                raise unreadable(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def files(self, remote: str) -> list[LocalFile]:
        """Return the regular files below it, with their paths in the session.

        Raises:
            InvalidRequest: it cannot be read, has no files or too many, or a name cannot be used in a session.
        """
        directory = self._path
        found: list[LocalFile] = []
        for parts, size in _regular(directory, self._descriptor, ()):
            if len(found) == MAX_FILES:
                raise InvalidRequest(
                    f"The local directory {str(directory)!r} must contain at most {MAX_FILES:,} files."
                )
            path_there = PurePosixPath(remote, *parts)
            if len(path_there.parts) - len(PurePosixPath(DATA_DIR).parts) > _MAX_DEPTH:
                raise _too_deep(directory)
            found.append(LocalFile(directory.joinpath(*parts), parts, check_file_path(str(path_there)), size))
        if not found:
            raise InvalidRequest(
                f"The local directory {str(directory)!r} must contain at least one file: sessions keep no empty "
                "directories."
            )
        return found

    def open(self, file: LocalFile) -> BinaryIO:
        """Open one of its files.

        Raises:
            InvalidRequest: it cannot be read, is no longer a regular file, or its path contains a link.
        """

        def opener(name: str, flags: int) -> int:
            flags |= getattr(os, "O_NOFOLLOW", 0)
            if self._descriptor is None:
                return open_without_waiting(name, flags)
            with contextlib.ExitStack() as opened:
                above = self._descriptor
                for part in file.parts[:-1]:
                    above = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
                    opened.callback(os.close, above)
                return open_without_waiting(file.parts[-1], flags, dir_fd=above)

        return open_to_read(file.local, opener)


def _too_deep(directory: Path) -> InvalidRequest:
    return InvalidRequest(
        f"A local directory must not contain files more than {_MAX_DEPTH} directories deep, as "
        f"{str(directory)!r:.200} does."
    )


def _regular(directory: Path, descriptor: int | None, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the names and the size of each regular file below a directory that is open as `descriptor`."""
    try:
        found: list[tuple[str, os.stat_result]] = []
        with os.scandir(directory if descriptor is None else descriptor) as scanned:
            found += ((entry.name, entry.stat(follow_symlinks=False)) for entry in scanned)
        for name, status in sorted(found, key=lambda each: each[0]):
            below = (*parts, name)
            if stat.S_ISREG(status.st_mode):
                yield below, status.st_size
            elif stat.S_ISDIR(status.st_mode):
                if len(below) > _MAX_DEPTH:
                    raise _too_deep(directory)
                if descriptor is None:
                    yield from _regular(directory / name, None, below)
                    continue
                opened = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                try:
                    yield from _regular(directory / name, opened, below)
                finally:
                    os.close(opened)
    except OSError as error:
        raise unreadable(directory, error) from error


async def download_directory(
    backend: Backend, identifier: str, remote: str, target: Path, limit: int | None, *, meter: Meter
) -> Path:
    """Download a directory to a new or empty local one, which appears once it is complete.

    Raises:
        FileRefused: the files have more than `limit` bytes, a listed name cannot be used, or the local directory
            cannot be created or is not empty.
    """
    _check_empty(target)
    entries = await backend.files(identifier, remote, recursive=True)
    partial = target.with_name(f".greenroom-{uuid.uuid4().hex}")
    left = DOWNLOAD_LIMIT if limit is None else limit
    total = left
    files = [(entry, partial.joinpath(*_parts_below(entry, remote))) for entry in entries if not entry.is_directory]
    directories = {partial.joinpath(*_parts_below(entry, remote)) for entry in entries if entry.is_directory}
    for path in [*directories, *(path.parent for _, path in files)]:
        directories.update(path.parents[: len(path.parts) - len(partial.parts)])
        directories.add(path)
        if len(directories) > MAX_FILES:
            raise FileRefused(errno.EMFILE, f"The session lists files in more than {MAX_FILES:,} directories", remote)
    meter.expect(sum(entry.size for entry, _ in files))
    with writing(target):
        try:
            await asyncio.to_thread(_make, sorted(directories | {partial}))
            for entry, path in files:
                try:
                    async with aclosing(backend.download(identifier, entry.path)) as chunks:
                        content = counted(at_most(left, chunks, remote, whole=total), meter)
                        left -= await write_chunks(content, path)
                except (FileMissing, FileRefused) as error:
                    if isinstance(error, FileRefused) and error.errno not in _NO_FILE:
                        raise
                    path.unlink()
            made = partial.rename(target)
        except BaseException:
            with contextlib.suppress(asyncio.CancelledError):  # even if it is cancelled again
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True))
            raise
    meter.finish()
    return made


def _make(directories: Iterable[Path]) -> None:
    for directory in directories:
        directory.mkdir(exist_ok=True)


def _check_empty(target: Path) -> None:
    if not target.name or target.is_symlink():
        raise refused(target, errno.EINVAL, "the directory must have a name and must not be a symbolic link")
    with writing(target):
        try:
            empty = not any(target.iterdir())
        except FileNotFoundError:
            return
    if not empty:
        raise refused(target, errno.ENOTEMPTY, "the directory is not empty")


def _parts_below(entry: RemoteFile, directory: str) -> tuple[str, ...]:
    """Return the names that lead from a directory of a session to an entry listed below it.

    Raises:
        FileRefused: they lead elsewhere, or cannot be file names on this machine.
    """
    path = entry.path
    parts = path.removeprefix(f"{directory}/").split("/") if path.startswith(f"{directory}/") else [""]
    if not all(map(_is_name, parts)):
        raise FileRefused(errno.EINVAL, "The session lists a file under a path that cannot be used", path)
    if len(parts) > _MAX_DEPTH:
        raise FileRefused(errno.ENAMETOOLONG, "The session lists a file that is too many directories deep", path)
    return tuple(parts)


def _is_name(part: str) -> bool:
    """Whether a part of a path can only be a file name on this machine."""
    if part in {"", ".", ".."} or "\0" in part:
        return False
    if os.sep != "/" and any(each in part for each in (os.sep, ":")):  # it could lead to another drive
        return False
    try:
        os.fsencode(part)
    except UnicodeEncodeError:
        return False
    return True
