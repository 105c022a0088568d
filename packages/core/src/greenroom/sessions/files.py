"""Uploads and downloads of a session: contents, files and whole directories."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from greenroom.backend import Backend
from greenroom.errors import FileMissing, FileRefused, GreenroomError, InvalidRequest
from greenroom.local_files import check_target, is_directory, local_path, open_to_read, unreadable
from greenroom.models import DATA_DIR, RemoteFile
from greenroom.progress import Meter, Report, unread
from greenroom.sessions.directories import LocalDirectory, download_directory
from greenroom.sessions.rules import check_file_path, check_path
from greenroom.sessions.transfers import Source, at_most, bytes_chunks, chunks_of, counted, keep, size_left


async def upload(
    backend: Backend, identifier: str, source: Source, path: str | None, report: Report = unread
) -> RemoteFile:
    """Implement `Session.upload`."""
    if isinstance(source, bytes | bytearray | memoryview):
        if path is None:
            raise InvalidRequest("An upload of bytes must have a path, such as session.upload(b'…', 'data.csv').")
        remote, content = check_file_path(path), bytes(source)
        _check_size(backend, remote, len(content))
        meter = Meter(report, "upload", _label(remote), total=len(content))
        return await _send_one(backend, identifier, remote, bytes_chunks(content), meter)
    if isinstance(source, str | os.PathLike):
        local = local_path(source)
        if await asyncio.to_thread(is_directory, local):
            return await _upload_directory(backend, identifier, local, path, report)
        remote = check_file_path(local.name if path is None else path)
        return await _upload_file(backend, identifier, local, remote, Meter(report, "upload", _label(remote)))
    if not callable(getattr(source, "read", None)):
        raise InvalidRequest(
            f"The source must be a local path, bytes or an open binary file, not {type(source).__name__}."
        )
    if path is None:
        name = getattr(source, "name", "")  # the name of an unnamed temporary file is a number
        path = PurePosixPath(name).name if isinstance(name, str) else ""
    remote = check_file_path(path)
    meter = Meter(report, "upload", _label(remote), total=size_left(source))
    return await _send_one(backend, identifier, remote, chunks_of(source.read), meter)


async def download(
    backend: Backend,
    identifier: str,
    path: str,
    to: str | os.PathLike[str] | None,
    limit: int | None,
    *,
    report: Report = unread,
) -> bytes | Path:
    """Implement `Session.download`."""
    remote = check_file_path(path) if to is None else check_path(path)
    meter = Meter(report, "download", _label(remote))
    if to is None:
        return await _download_file(backend, identifier, remote, None, limit, meter=meter)
    target = local_path(to)
    whole = remote == DATA_DIR
    if not whole and await asyncio.to_thread(is_directory, target):
        whole = await _is_directory(backend, identifier, remote)
    if not whole:
        await asyncio.to_thread(check_target, target)
        try:
            return await _download_file(backend, identifier, remote, target, limit, meter=meter)
        except (FileMissing, FileRefused) as error:
            if _is_local(error) or not await _is_directory(backend, identifier, remote):
                raise
    return await download_directory(backend, identifier, remote, target, limit, meter=meter)


async def _upload_file(backend: Backend, identifier: str, local: Path, remote: str, meter: Meter) -> RemoteFile:
    with open_to_read(local) as file:
        meter.expect(os.fstat(file.fileno()).st_size)
        uploaded = await _upload_open(backend, identifier, file, local, remote, meter=meter)
    meter.finish()
    return uploaded


async def _upload_open(
    backend: Backend, identifier: str, file: BinaryIO, local: Path, remote: str, *, meter: Meter
) -> RemoteFile:
    _check_size(backend, remote, os.fstat(file.fileno()).st_size)

    def read(size: int) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            raise unreadable(local, error) from error

    return await _send(backend, identifier, remote, chunks_of(read), meter)


async def _upload_directory(
    backend: Backend, identifier: str, local: Path, path: str | None, report: Report
) -> RemoteFile:
    remote = check_file_path(local.resolve().name) if path is None else check_path(path)
    sent: list[RemoteFile] = []
    with LocalDirectory(local) as directory:
        found = await asyncio.to_thread(directory.files, remote)
        for each in found:
            _check_size(backend, each.remote, each.size)
        meter = Meter(report, "upload", _label(remote), total=sum(each.size for each in found))
        meter.begin()
        for each in found:
            with directory.open(each) as file:
                sent.append(await _upload_open(backend, identifier, file, each.local, each.remote, meter=meter))
    meter.finish()
    return RemoteFile(remote, sum(each.size for each in sent), sent[-1].modified, is_directory=True)


async def _send_one(
    backend: Backend, identifier: str, path: str, chunks: AsyncIterator[bytes], meter: Meter
) -> RemoteFile:
    meter.begin()
    uploaded = await _send(backend, identifier, path, chunks, meter)
    meter.finish()
    return uploaded


async def _send(backend: Backend, identifier: str, path: str, chunks: AsyncIterator[bytes], meter: Meter) -> RemoteFile:
    """Upload one file, and add its bytes to the meter as they are sent."""
    if not meter.is_read:
        return await backend.upload(identifier, path, chunks)
    before, size = meter.done, 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal size
        async for chunk in chunks:
            size += len(chunk)
            yield chunk

    uploaded = await backend.upload(identifier, path, counted(), on_sent=meter.advance)
    meter.reach(before + size)
    return uploaded


def _label(path: str) -> str:
    """The name of a file or a directory in a session, as in `RemoteFile.name`."""
    return path.removeprefix(f"{DATA_DIR}/")


def _check_size(backend: Backend, path: str, size: int) -> None:
    """Refuse a file over the limit before anything is sent; growing files are also counted as they are sent."""
    if size > backend.file_limit:
        raise FileRefused.too_large(path, backend.file_limit, option="file_limit", size=size)


async def _download_file(
    backend: Backend, identifier: str, path: str, to: Path | None, limit: int | None, *, meter: Meter
) -> bytes | Path:
    sized = {"on_size": meter.expect} if meter.is_read else {}
    async with aclosing(backend.download(identifier, path, **sized)) as chunks:
        content = counted(chunks if limit is None else at_most(limit, chunks, path), meter)
        kept = await keep(content, to)
    meter.finish()
    return kept


def _is_local(error: OSError) -> bool:
    """Whether the error is from the local file system, not the session's."""
    return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, GreenroomError)


async def _is_directory(backend: Backend, identifier: str, path: str) -> bool:
    try:
        return (await backend.file(identifier, path)).is_directory
    except GreenroomError:  # the download's own error is more useful
        return False
