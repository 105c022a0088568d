"""Content in transfer to and from a session: in chunks, never blocking the pool's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import stat
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from greenroom.errors import FileRefused, InvalidRequest, in_units
from greenroom.local_files import check_target, local_path, writing
from greenroom.progress import Meter

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
"""The source of an upload: a local path, the content itself, or an open binary file."""

_CHUNK = 1 << 20


async def bytes_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


async def chunks_of(read: Callable[[int], object]) -> AsyncIterator[bytes]:
    while True:
        chunk = await asyncio.to_thread(_read_chunk, read)
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise InvalidRequest(f"The source's read() must return bytes, not {type(chunk).__name__}.")
        if not chunk:
            return
        yield bytes(cast("bytes", chunk))


def _read_chunk(read: Callable[[int], object]) -> object:
    try:
        return read(_CHUNK)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        # A future cannot hold StopIteration, and others, such as SystemExit, would end the pool's event loop.
        raise InvalidRequest(f"The source's read() must not raise {type(error).__name__}.") from error


async def at_most(
    limit: int, chunks: AsyncIterator[bytes], path: str, *, whole: int | None = None
) -> AsyncIterator[bytes]:
    """Yield the chunks of a file; raise `FileRefused` before the one that exceeds a limit of bytes.

    If the limit is the remainder of the limit of a `whole` directory, the error says so.
    """
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > limit:
            if whole is not None:
                raise FileRefused(errno.EFBIG, f"The directory is over the limit of {in_units(whole)}", path)
            raise FileRefused.too_large(path, limit)
        yield chunk


def counted(chunks: AsyncIterator[bytes], meter: Meter) -> AsyncIterator[bytes]:
    """Return the chunks; the meter counts each when the next one is requested."""

    async def counting() -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
            meter.advance(len(chunk))

    return counting() if meter.is_read else chunks


def size_left(file: object) -> int | None:
    """Return how many bytes can be read from an open file, if it reports that without being moved.

    Files of other kinds may decompress: only the usual kinds are asked.
    """
    with contextlib.suppress(OSError, ValueError):  # it does not support positions, or is closed
        if isinstance(file, io.BytesIO):
            return max(file.getbuffer().nbytes - file.tell(), 0)
        if isinstance(file, io.FileIO | io.BufferedReader | io.BufferedRandom):
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                return max(status.st_size - file.tell(), 0)
    return None


async def write_chunks(chunks: AsyncIterator[bytes], path: Path) -> int:
    """Write a new local file; return its size in bytes."""
    size = written = 0
    held: list[bytes] = []  # small chunks are written together
    with path.open("xb") as file:  # only one piece is written at a time
        async for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size - written >= _CHUNK:
                await asyncio.to_thread(file.writelines, held)
                held.clear()
                written = size
        await asyncio.to_thread(file.writelines, held)
    return size


async def keep(chunks: AsyncIterator[bytes], to: str | os.PathLike[str] | None) -> bytes | Path:
    if to is None:
        return b"".join([chunk async for chunk in chunks])
    target = local_path(to)
    check_target(target)
    partial = target.with_name(f".greenroom-{uuid.uuid4().hex}")
    with writing(target):
        try:
            await write_chunks(chunks, partial)
            return partial.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
