"""The files of a session: reads and writes below one directory, and nowhere else.

Paths are opened component by component without following symbolic links, so no link, `..` or race created by the
session's code can lead out of the directory. Only regular files are opened, so no device or FIFO can block.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from .protocol import MAX_LIST, Frame, HostEvent, file_entry

DATA_DIR = "/mnt/data"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PARTIAL = ".greenroom-upload-"
_MAX_ENTRIES = 20_000
_MAX_DEPTH = 50
_MAX_OPEN = 64
_MAX_READ = 1 << 20
_LISTED_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")

T = TypeVar("T")


class Upload:
    """A new file, which appears under its name once it is complete."""

    def __init__(self, tree: FileTree, path: str) -> None:
        self._path = path
        self._tree = tree
        self._parent, self._name = tree.open_parent(path, create=True)
        self._partial = f"{_PARTIAL}{os.urandom(8).hex()}"
        try:
            if tree.is_directory(self._parent, self._name):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._file = os.open(
                self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=self._parent
            )
            tree.give_away(self._file)
        except BaseException:
            os.close(self._parent)
            raise

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def finish(self) -> dict[str, Any]:
        """Give the file its name; return its entry."""
        os.rename(self._partial, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        entry = _entry(self._path, os.fstat(self._file))
        self.close()
        return entry

    def close(self) -> None:
        """Delete the file unless it is finished. Idempotent."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._partial, dir_fd=self._parent)  # a finished file has been renamed
        os.close(self._file)
        os.close(self._parent)
        self._file = -1


class Download:
    """An open file, whose content stays the same if another file takes its name."""

    def __init__(self, tree: FileTree, path: str) -> None:
        parent, name = tree.open_parent(path)
        try:
            self._file = os.open(name, _FILE, dir_fd=parent)
        finally:
            os.close(parent)
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(code, os.strerror(code), path)
        self.entry = _entry(path, status)

    def read(self, size: int) -> bytes:
        return os.read(self._file, size)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class FileTree:
    """The files below a directory. Paths are absolute and begin with `/mnt/data`, whatever the real directory."""

    def __init__(self, directory: str = DATA_DIR, *, owner: int | None = None) -> None:
        """
        Args:
            directory: the real directory.
            owner: the owner of new files and directories, if not this process's user.
        """
        self._root = DATA_DIR
        self._owner = owner
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._descriptor)

    def entries(self, path: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Return the entries of a directory, sorted by path.

        Raises:
            OSError: E2BIG if there are more than 20,000.
        """
        directory = self._open_directory(self._parts(path))
        try:
            found: list[dict[str, Any]] = []
            for entry, _ in _walk(directory, path, depth=_MAX_DEPTH if recursive else 1):
                found.append(entry)
                if len(found) > _MAX_ENTRIES:
                    raise OSError(errno.E2BIG, f"more than {_MAX_ENTRIES} files", path)
        finally:
            os.close(directory)
        return sorted(found, key=lambda entry: entry["path"])

    def entry(self, path: str) -> dict[str, Any]:
        """Return the entry of one file, link or directory."""
        parent, name = self.open_parent(path)
        try:
            return _entry(path, os.stat(name, dir_fd=parent, follow_symlinks=False))
        finally:
            os.close(parent)

    def delete(self, path: str) -> None:
        """Delete a file, a link, or an empty directory."""
        parent, name = self.open_parent(path)
        try:
            if self.is_directory(parent, name):
                os.rmdir(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)

    def snapshot(self, limit: int) -> dict[str, tuple[int, int]] | None:
        """Return the size and modification time of every file; `None` if there are more than `limit` entries."""
        found: dict[str, tuple[int, int]] = {}
        with contextlib.suppress(OSError):  # changed in the meantime
            for count, (entry, _) in enumerate(_walk(self._descriptor, self._root, depth=_MAX_DEPTH)):
                if count >= limit:
                    return None
                if not entry["directory"]:
                    found[entry["path"]] = (entry["size"], entry["modified"])
        return found

    def changed_since(self, time: int) -> list[dict[str, Any]]:
        """Return the files whose content or name has changed since a time in nanoseconds, among the first 20,000."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(OSError):  # changed in the meantime
            for entry, status in islice(_walk(self._descriptor, self._root, depth=_MAX_DEPTH), _MAX_ENTRIES):
                if status.st_ctime_ns >= time and not entry["directory"]:
                    found.append(entry)
        return found

    def open_parent(self, path: str, *, create: bool = False) -> tuple[int, str]:
        """Open the parent directory of `path`; return its descriptor, and the name of `path` in it."""
        parts = self._parts(path)
        if not parts:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        parent = self._open_directory(parts[:-1], create=create)
        return parent, _real_name(parts[-1], parent)

    def is_directory(self, parent: int, name: str) -> bool:
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def give_away(self, descriptor: int) -> None:
        """Make the session's user the owner of a new file or directory."""
        if self._owner is not None:
            os.fchown(descriptor, self._owner, self._owner)

    def _parts(self, path: str) -> list[str]:
        if path != self._root and not path.startswith(self._root + "/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        parts = [part for part in path[len(self._root) :].split("/") if part not in {"", "."}]
        if ".." in parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return parts

    def _open_directory(self, parts: list[str], *, create: bool = False) -> int:
        descriptor = os.open(".", _DIRECTORY, dir_fd=self._descriptor)
        for part in parts:
            try:
                part = _real_name(part, descriptor)  # noqa: PLW2901
                made = create and _make_directory(part, descriptor)
                deeper = _open_directory(part, descriptor)
                if made:
                    self.give_away(deeper)
            finally:
                os.close(descriptor)
            descriptor = deeper
        return descriptor


class Transfers:
    """Answers the host's requests about files, which `HostOrder` lists."""

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self._open: dict[int, Upload | Download] = {}
        self._next = 1

    def answer(self, header: dict[str, Any], body: bytes) -> Frame:
        """Return the reply to one request."""
        number: int = header["id"]
        try:
            return self._carry_out(number, header, body)
        except OSError as error:
            return HostEvent.reply(number, errno=error.errno or errno.EIO)

    def _carry_out(self, number: int, header: dict[str, Any], body: bytes) -> Frame:
        match header["op"]:
            case "open":
                if len(self._open) >= _MAX_OPEN:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                file, self._next = self._next, self._next + 1
                if header["mode"] == "w":
                    self._open[file] = Upload(self._tree, header["path"])
                    return HostEvent.reply(number, file=file)
                download = self._open[file] = Download(self._tree, header["path"])
                return HostEvent.reply(number, file=file, entry=download.entry)
            case "read":
                data = self._transfer(header, Download).read(min(int(header["size"]), _MAX_READ))
                return HostEvent.reply(number, data)
            case "write":
                self._transfer(header, Upload).write(body)
                return HostEvent.reply(number)
            case "finish":
                return HostEvent.reply(number, entry=self._transfer(header, Upload).finish())
            case "close":
                if (transfer := self._open.pop(header["file"], None)) is not None:
                    transfer.close()
                return HostEvent.reply(number)
            case "list":
                entries = self._tree.entries(header["path"], recursive=bool(header["recursive"]))
                content = json.dumps(entries).encode()
                if len(content) > MAX_LIST:  # long names, or characters that take six bytes in JSON
                    raise OSError(errno.E2BIG, "the list of files is too long", header["path"])
                return HostEvent.reply(number, content)
            case "stat":
                return HostEvent.reply(number, entry=self._tree.entry(header["path"]))
            case "delete":
                self._tree.delete(header["path"])
                return HostEvent.reply(number)
            case _:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def _transfer(self, header: dict[str, Any], kind: type[T]) -> T:
        transfer = self._open.get(header["file"])
        if not isinstance(transfer, kind):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return transfer


def _real_name(name: str, parent: int) -> str:
    """Return the real name of an entry listed as `name`; they differ if the real one is not UTF-8."""
    real = os.fsdecode(_LISTED_BYTE.sub(lambda byte: bytes.fromhex(byte[1].decode()), os.fsencode(name)))
    if real == name or _exists(name, parent) or not _exists(real, parent):
        return name
    return real


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return True


def _make_directory(name: str, parent: int) -> bool:
    """Make a directory unless the name is taken; return whether it was made."""
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def _open_directory(name: str, parent: int) -> int:
    """Open a directory inside `parent`; a link to a directory is refused."""
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    # Linux has already refused a link; gVisor may have followed it.
    opened, named = os.fstat(descriptor), os.stat(name, dir_fd=parent, follow_symlinks=False)
    if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
        os.close(descriptor)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    return descriptor


def _walk(directory: int, path: str, *, depth: int) -> Iterator[tuple[dict[str, Any], os.stat_result]]:
    """Yield the entries of a directory, then those of its subdirectories, down to a maximum depth."""
    below: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(_PARTIAL):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # deleted in the meantime, or in a directory that can be listed but not entered
                continue
            yield _entry(f"{path}/{entry.name}", status), status
            if depth > 1 and stat.S_ISDIR(status.st_mode):
                below.append(entry.name)
    for name in below:
        try:
            deeper = _open_directory(name, directory)
        except OSError:
            continue
        try:
            yield from _walk(deeper, f"{path}/{name}", depth=depth - 1)
        finally:
            os.close(deeper)


def _entry(path: str, status: os.stat_result) -> dict[str, Any]:
    return file_entry(
        os.fsencode(path).decode("utf-8", "backslashreplace"),  # a name can contain any bytes
        size=status.st_size,
        modified=status.st_mtime_ns,
        directory=stat.S_ISDIR(status.st_mode),
    )
