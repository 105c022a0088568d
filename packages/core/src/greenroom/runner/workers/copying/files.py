"""The session's files as entries of a stream: directories, files with their modes and times, and links."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from ...files import DATA_DIR

_CHUNK = 1 << 20
_ENTRY = 256
"""Bytes that an entry takes in addition to its path, rounded up."""
_KINDS = {
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}

LeftOut = Callable[[str, str], None]
"""Called with a name, and the reason why it is left out."""


def _ignore(_name: str, _reason: str) -> None:
    pass


def size_of_files(root: str = DATA_DIR) -> int:
    """Return approximately how many bytes all files take."""
    return sum(
        _ENTRY + len(path) + (status.st_size if stat.S_ISREG(status.st_mode) else 0)
        for path, status in _walk(root, _ignore)
    )


def write_files(write: Callable[[Any], None], left_out: LeftOut, most: int, root: str = DATA_DIR) -> None:
    """Write one entry per file, in an order in which they can be created; a file's content follows its entry in pieces.

    Args:
        write: writes an entry or a piece.
        left_out: called for each file that is left out.
        most: the maximum total bytes of all contents: files may have grown since they were counted.
        root: the directory of the files.
    """
    first: dict[tuple[int, int], str] = {}
    for path, status in _walk(root, left_out):
        name = os.path.relpath(path, root)
        entry: dict[str, Any] = {"name": name, "mode": stat.S_IMODE(status.st_mode), "modified": status.st_mtime_ns}
        kind = stat.S_IFMT(status.st_mode)
        try:
            if kind == stat.S_IFDIR:
                write(entry | {"kind": "directory"})
            elif kind == stat.S_IFLNK:
                write(entry | {"kind": "link", "target": os.readlink(path)})
            elif kind == stat.S_IFIFO:
                write(entry | {"kind": "pipe"})
            elif kind != stat.S_IFREG:
                left_out(path, _KINDS.get(kind, "it is not a regular file"))
            elif (before := first.get((status.st_dev, status.st_ino))) is not None:
                write(entry | {"kind": "same", "target": before})
            else:
                with open(path, "rb", buffering=0, opener=_open) as file:
                    size = os.fstat(file.fileno()).st_size  # anything appended from now on is not copied
                    if size > most:
                        left_out(path, "it is larger than first measured")
                        continue
                    most -= size
                    write(entry | {"kind": "file"})
                    while data := file.read(min(size, _CHUNK)):
                        size -= len(data)
                        write(data)
                    write(b"")
                if status.st_nlink > 1:
                    first[status.st_dev, status.st_ino] = name
        except FileNotFoundError:
            continue  # deleted in the meantime
        except OSError as error:
            left_out(path, _reason(error))
    write(None)


def read_files(read: Callable[[], Any], root: str = DATA_DIR) -> None:
    """Create the files of a stream; existing files are replaced."""
    times: list[dict[str, Any]] = []
    while (entry := read()) is not None:
        path = os.path.join(root, entry["name"])
        match entry["kind"]:
            case "directory":
                os.makedirs(path, exist_ok=True)
                os.chmod(path, entry["mode"] | 0o700)
                times.append(entry | {"path": path})
                continue
            case "link":
                _remove(path)
                os.symlink(entry["target"], path)
            case "pipe":
                _remove(path)
                os.mkfifo(path)
                os.chmod(path, entry["mode"])
            case "same":
                _remove(path)
                os.link(os.path.join(root, entry["target"]), path)
            case _:
                _remove(path)
                with open(path, "xb", buffering=0) as file:
                    while data := read():
                        view = memoryview(data)
                        while view:
                            view = view[file.write(view) :]
                    os.fchmod(file.fileno(), entry["mode"])
        os.utime(path, ns=(entry["modified"], entry["modified"]), follow_symlinks=False)
    for entry in reversed(times):  # creating the contents of a directory changes its time
        os.chmod(entry["path"], entry["mode"])
        os.utime(entry["path"], ns=(entry["modified"], entry["modified"]))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _walk(root: str, left_out: LeftOut) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every path below a directory, with its status; a directory that cannot be read is left out."""
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue  # deleted in the meantime
        except OSError as error:
            left_out(directory, _reason(error))
            continue
        for name in names:
            path = os.path.join(directory, name)
            try:
                status = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                left_out(path, _reason(error))
                continue
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
