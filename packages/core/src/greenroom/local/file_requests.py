"""The files of a session, as requests to its runner, whose replies can all be hostile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine
from typing import Any

from greenroom.errors import FileRefused, GreenroomError, SandboxLost
from greenroom.local.decoding import decode_file, decode_files, off_loop, parse_json
from greenroom.models import RemoteFile
from greenroom.runner.protocol import MAX_LIST, Frame, FrameError, HostOrder

_CHUNK = 256 * 1024
_AHEAD = 2
"""Chunks of one file in transit at the same time: while one is written, the next one arrives."""


class FileRequests(ABC):
    """The part of a channel that file requests need."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    @abstractmethod
    async def _request(self, path: str, order: Frame, *, most: int = 0) -> Frame:
        """Send an order and return the runner's reply, with a body of at most `most` bytes."""

    @abstractmethod
    def _fail(self, reason: str) -> SandboxLost:
        """Mark the sandbox as lost, for this reason; return the error that callers get."""

    @abstractmethod
    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[Any]:
        """Run a coroutine that is cancelled when the channel ends."""

    async def upload(
        self, path: str, chunks: AsyncIterator[bytes], limit: int, on_sent: Callable[[int], None] | None = None
    ) -> RemoteFile:
        header, _ = await self._request(path, HostOrder.open(next(self._numbers), path, "w"))
        file = self._handle(header)
        size = 0
        writing: deque[asyncio.Task[int]] = deque()

        async def written() -> None:
            sent = await writing[0]
            writing.popleft()
            if on_sent is not None:
                on_sent(sent)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise FileRefused.too_large(path, limit, option="file_limit")
                for start in range(0, len(chunk), _CHUNK):
                    if len(writing) == _AHEAD:
                        await written()
                    writing.append(asyncio.create_task(self._write(path, file, chunk[start : start + _CHUNK])))
            while writing:
                await written()
            header, _ = await self._request(path, HostOrder.finish(next(self._numbers), file))
        finally:
            self._in_background(self._forget(file))
            await _cancelled(writing)
        return self._entry(header)

    async def _write(self, path: str, file: int, piece: bytes) -> int:
        await self._request(path, HostOrder.write(next(self._numbers), file, piece))
        return len(piece)

    async def download(
        self, path: str, limit: int, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        header, _ = await self._request(path, HostOrder.open(next(self._numbers), path, "r"))
        file = self._handle(header)
        size = 0
        reading: deque[asyncio.Task[Frame]] = deque()
        try:
            expected = self._entry(header).size
            if expected > limit:
                raise FileRefused.too_large(path, limit, option="file_limit")
            if on_size is not None:
                on_size(expected)
            ahead = 0  # bytes requested so far
            while True:
                while not reading or (len(reading) < _AHEAD and ahead < expected):
                    order = HostOrder.read(next(self._numbers), file, _CHUNK)
                    reading.append(asyncio.create_task(self._request(path, order, most=_CHUNK)))
                    ahead += _CHUNK
                _, data = await reading[0]
                reading.popleft()
                if not data:
                    break
                size += len(data)
                if size > limit:  # the file grows while it is read
                    raise FileRefused.too_large(path, limit, option="file_limit")
                yield data
        finally:
            self._in_background(self._forget(file))
            await _cancelled(reading)

    async def files(self, path: str, *, recursive: bool) -> list[RemoteFile]:
        order = HostOrder.list(next(self._numbers), path, recursive=recursive)
        _, body = await self._request(path, order, most=MAX_LIST)
        try:
            return await off_loop(body, lambda: decode_files(parse_json(body, MAX_LIST)))
        except FrameError as error:
            raise self._fail("it sent an invalid list of files") from error

    async def file(self, path: str) -> RemoteFile:
        header, _ = await self._request(path, HostOrder.stat(next(self._numbers), path))
        return self._entry(header)

    async def delete_file(self, path: str) -> None:
        await self._request(path, HostOrder.delete(next(self._numbers), path))

    def _entry(self, header: dict[str, Any]) -> RemoteFile:
        try:
            return decode_file(header.get("entry"))
        except FrameError as error:
            raise self._fail(str(error)) from error

    def _handle(self, header: dict[str, Any]) -> int:
        file = header.get("file")
        if not isinstance(file, int):
            raise self._fail("it opened a file without a number")
        return file

    async def _forget(self, file: int) -> None:
        with contextlib.suppress(GreenroomError):
            await self._request("", HostOrder.close(next(self._numbers), file))


async def _cancelled(requests: Collection[asyncio.Task[Any]]) -> None:
    """Stop waiting for requests: a transfer has failed or was cancelled."""
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
