"""The tools for a session's files. Each raises the errors of `Session`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from greenroom.adapters.descriptions import code_tool_of
from greenroom.adapters.downloads import Download
from greenroom.adapters.results import ToolAnswer
from greenroom.errors import FileMissing, FileRefused, InvalidRequest, in_units
from greenroom.models import DATA_DIR, ContainerType, RemoteFile
from greenroom.sessions import Session
from greenroom.text import check_budget, shorten
from greenroom.untrusted import brief, printable, visible

READ_LIMIT = 1 << 20
"""The maximum size of a file that a model reads, in bytes."""

DOWNLOAD_LIMIT = 20 << 20
"""The maximum size of a file that a model sends to the user, in bytes: it stays in memory with the conversation."""


def list_files(session: Session, directory: str = DATA_DIR, *, budget: int) -> ToolAnswer[list[RemoteFile]]:
    """List the files in and below a directory, in a text of at most `budget` characters."""
    return listed(session.files(directory, recursive=True), budget)


async def alist_files(session: Session, directory: str = DATA_DIR, *, budget: int) -> ToolAnswer[list[RemoteFile]]:
    """As `list_files`."""
    return listed(await session.afiles(directory, recursive=True), budget)


def read_file(session: Session, path: str, *, budget: int, limit: int = READ_LIMIT) -> ToolAnswer[RemoteFile]:
    """Return a text file's content, cut to `budget` characters.

    Raises:
        FileRefused: it has more than `limit` bytes, or is not text.
    """
    file = within(limit, session.file(path), session.container_type)
    return as_text(file, session.download(path, limit=limit), budget, session.container_type)


async def aread_file(session: Session, path: str, *, budget: int, limit: int = READ_LIMIT) -> ToolAnswer[RemoteFile]:
    """As `read_file`."""
    file = within(limit, await session.afile(path), session.container_type)
    return as_text(file, await session.adownload(path, limit=limit), budget, session.container_type)


def download_file(session: Session, path: str, *, limit: int = DOWNLOAD_LIMIT) -> ToolAnswer[Download]:
    """Return a file's content for the application, with a note for the model.

    Raises:
        FileRefused: it has more than `limit` bytes.
    """
    file = within(limit, session.file(path), session.container_type)
    return _sent(file, session.download(path, limit=limit))


async def adownload_file(session: Session, path: str, *, limit: int = DOWNLOAD_LIMIT) -> ToolAnswer[Download]:
    """As `download_file`."""
    file = within(limit, await session.afile(path), session.container_type)
    return _sent(file, await session.adownload(path, limit=limit))


def upload_file(session: Session, name: str, *, uploads: Path | None, budget: int) -> ToolAnswer[RemoteFile]:
    """Copy a file of the application's directory `uploads`, if there is one, into the session.

    Raises:
        FileMissing: the directory does not directly hold a regular file of that name; the message lists those that
            it holds.
    """
    return _uploaded(session.upload(_provided(uploads, name, budget), name))


async def aupload_file(session: Session, name: str, *, uploads: Path | None, budget: int) -> ToolAnswer[RemoteFile]:
    """As `upload_file`."""
    return _uploaded(await session.aupload(await asyncio.to_thread(_provided, uploads, name, budget), name))


def check_uploads(directory: str | os.PathLike[str] | None) -> Path | None:
    """Return the directory that models may upload from, if the application names one.

    Raises:
        InvalidRequest: it is not an existing directory.
    """
    if directory is None:
        return None
    # As a Path, an empty name would be the working directory, and an overlong name would raise.
    if not os.path.isdir(os.fspath(directory)):  # noqa: PTH112
        raise InvalidRequest(f"uploads= must be an existing directory, not {os.fspath(directory)!r}.")
    return Path(directory)


def _fit(text: str, budget: int) -> str:
    return shorten(text, check_budget(budget))


def listed(found: Iterable[RemoteFile], budget: int) -> ToolAnswer[list[RemoteFile]]:
    """Return the answer of `list_files`."""
    files = [file for file in found if not file.is_directory]
    return ToolAnswer(_fit("\n".join(map(_line, files)), budget) or "There are no files.", files)


def within(limit: int, file: RemoteFile, container_type: ContainerType) -> RemoteFile:
    """Return a file that has at most `limit` bytes.

    Raises:
        FileRefused: it has more.
    """
    # A file can grow after this check, so the download enforces the limit too.
    if file.size > limit:
        limited = f"{_line(file)} is over the limit of {in_units(limit)}"
        raise FileRefused(f"{limited}. Read the part that you need with {code_tool_of(container_type).means}.")
    return file


def as_text(file: RemoteFile, content: bytes, budget: int, container_type: ContainerType) -> ToolAnswer[RemoteFile]:
    """Return the answer of `read_file`.

    Raises:
        FileRefused: the content is not text.
    """
    try:
        text = visible(content.decode().replace("\r\n", "\n"))  # some databases refuse a conversation with NUL in it
        return ToolAnswer(_fit(text, budget) or "The file is empty.", file)
    except UnicodeDecodeError:
        raise FileRefused(
            f"{_line(file)} is not a UTF-8 text file. Read it with {code_tool_of(container_type).means}."
        ) from None


def _sent(file: RemoteFile, data: bytes) -> ToolAnswer[Download]:
    return ToolAnswer(f"{printable(file.path)} ({len(data)} bytes) was sent to the user.", Download(file, data))


def _provided(uploads: Path | None, name: str, budget: int) -> Path:
    # The model's name is looked up and never becomes a path, so it cannot lead out of the directory.
    files: dict[str, Path] = {}
    with contextlib.suppress(OSError):  # the directory was removed, or cannot be read
        found: Iterable[Path] = () if uploads is None else uploads.iterdir()
        files = {path.name: path for path in found if path.is_file() and not path.is_symlink()}
    if not isinstance(name, str) or name not in files:  # pyright: ignore[reportUnnecessaryIsInstance]
        names = ", ".join(map(printable, sorted(files))) or "none"
        raise FileMissing(_fit(f"The user did not provide a file {brief(name)}. Provided: {names}.", budget))
    return files[name]


def _uploaded(file: RemoteFile) -> ToolAnswer[RemoteFile]:
    return ToolAnswer(f"The file is at {_line(file)}.", file)


def _line(file: RemoteFile) -> str:
    return f"{printable(file.path)} ({file.size} bytes)"
