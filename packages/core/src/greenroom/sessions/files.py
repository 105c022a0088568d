"""Uploads and downloads of a session: contents, files and whole directories."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from greenroom.backend import Backend
from greenroom.errors import FileMissing, FileRefused, GreenroomError, InvalidRequest
from greenroom.local_files import check_target, is_directory, local_path, open_to_read, unreadable
from greenroom.models import DATA_DIR, RemoteFile
from greenroom.sessions.directories import LocalDirectory, download_directory
from greenroom.sessions.rules import check_file_path, check_path
from greenroom.sessions.transfers import Source, at_most, bytes_chunks, chunks_of, keep


async def upload(backend: Backend, identifier: str, source: Source, path: str | None) -> RemoteFile:
    """Carry out `Session.upload`."""
    if isinstance(source, bytes | bytearray | memoryview):
        if path is None:
            raise InvalidRequest("An upload of bytes must have a path, such as session.upload(b'…', 'data.csv').")
        remote, content = check_file_path(path), bytes(source)
        _check_size(backend, remote, len(content))
        return await backend.upload(identifier, remote, bytes_chunks(content))
    if isinstance(source, str | os.PathLike):
        local = local_path(source)
        if await asyncio.to_thread(is_directory, local):
            return await _upload_directory(backend, identifier, local, path)
        remote = check_file_path(local.name if path is None else path)
        return await _upload_file(backend, identifier, local, remote)
    if not callable(getattr(source, "read", None)):
        raise InvalidRequest(
            f"The source must be a local path, bytes or an open binary file, not {type(source).__name__}."
        )
    if path is None:
        name = getattr(source, "name", "")  # the name of a temporary file is a number
        path = PurePosixPath(name).name if isinstance(name, str) else ""
    return await backend.upload(identifier, check_file_path(path), chunks_of(source.read))


async def download(
    backend: Backend, identifier: str, path: str, to: str | os.PathLike[str] | None, limit: int | None
) -> bytes | Path:
    """Carry out `Session.download`."""
    if to is None:
        return await _download_file(backend, identifier, check_file_path(path), None, limit)
    remote, target = check_path(path), local_path(to)
    whole = remote == DATA_DIR
    if not whole and await asyncio.to_thread(is_directory, target):
        whole = await _is_directory(backend, identifier, remote)
    if not whole:
        await asyncio.to_thread(check_target, target)
        try:
            return await _download_file(backend, identifier, remote, target, limit)
        except (FileMissing, FileRefused) as error:
            if _is_local(error) or not await _is_directory(backend, identifier, remote):
                raise
    return await download_directory(backend, identifier, remote, target, limit)


async def _upload_file(backend: Backend, identifier: str, local: Path, remote: str) -> RemoteFile:
    with open_to_read(local) as file:
        return await _upload_open(backend, identifier, file, local, remote)


async def _upload_open(backend: Backend, identifier: str, file: BinaryIO, local: Path, remote: str) -> RemoteFile:
    _check_size(backend, remote, os.fstat(file.fileno()).st_size)

    def read(size: int) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            raise unreadable(local, error) from error

    return await backend.upload(identifier, remote, chunks_of(read))


async def _upload_directory(backend: Backend, identifier: str, local: Path, path: str | None) -> RemoteFile:
    remote = check_file_path(local.resolve().name) if path is None else check_path(path)
    sent: list[RemoteFile] = []
    with LocalDirectory(local) as directory:
        found = await asyncio.to_thread(directory.files, remote)
        for each in found:
            _check_size(backend, each.remote, each.size)
        for each in found:
            with directory.open(each) as file:
                sent.append(await _upload_open(backend, identifier, file, each.local, each.remote))
    return RemoteFile(remote, sum(each.size for each in sent), sent[-1].modified, is_directory=True)


def _check_size(backend: Backend, path: str, size: int) -> None:
    """Refuse a file over the limit before anything is sent; one that still grows is counted as it is sent."""
    if size > backend.file_limit:
        raise FileRefused.too_large(path, backend.file_limit, option="file_limit", size=size)


async def _download_file(
    backend: Backend, identifier: str, path: str, to: Path | None, limit: int | None
) -> bytes | Path:
    async with aclosing(backend.download(identifier, path)) as chunks:
        return await keep(chunks if limit is None else at_most(limit, chunks, path), to)


def _is_local(error: OSError) -> bool:
    """Whether the local file system has refused, not the session's."""
    return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, GreenroomError)


async def _is_directory(backend: Backend, identifier: str, path: str) -> bool:
    try:
        return (await backend.file(identifier, path)).is_directory
    except GreenroomError:  # that of the download is the better one
        return False
