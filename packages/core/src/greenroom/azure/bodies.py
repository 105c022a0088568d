"""Bodies of requests and responses, chunk by chunk, with limits on memory, decompression and time."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from greenroom.azure.codecs.shared import Malformed
from greenroom.azure.transport import Response

MIN_RATE = 16 * 1024
"""The minimum rate of an endpoint, in bytes per second, once its time limit is used up."""

_REPLAYABLE = 4 << 20  # bytes up to which an upload is kept in memory, to be resent if the pool was full
_PIECE = 64 * 1024
_GZIP = 31  # zlib's window of 15 bits, with gzip's header
_DIGITS = 18  # of a size
_FRAMING = 1 << 20  # bytes that gzip can add to content that it cannot compress


class TooSlow(Exception):
    """The endpoint exceeded a time limit; the message says which."""


class TimeBudget:
    """The remaining time of an endpoint: some seconds, and more for each byte transferred. The client's own time does
    not count.
    """

    def __init__(self, seconds: float) -> None:
        self._most = self._left = seconds

    @property
    def left(self) -> float:
        return self._left

    def spend(self, seconds: float, size: int) -> None:
        """Record that transferring `size` bytes took that time. The budget never exceeds its initial value."""
        self._left = min(self._left - seconds + size / MIN_RATE, self._most)


class IdleLimit(TimeBudget):
    """The time limit of an endpoint for each piece, however many there are."""

    def spend(self, seconds: float, size: int) -> None:
        pass


async def lines(response: Response, seconds: float, *, longest: int, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a response, without their ends.

    Args:
        response: its body has not been read.
        seconds: the maximum time without data from the endpoint.
        longest: the maximum size of a line in bytes.
        limit: the maximum size of all lines in bytes.

    Raises:
        TooSlow: it takes longer.
        Malformed: it exceeds a limit, or ends within a line.
    """
    line = bytearray()
    async with contextlib.aclosing(received(response, IdleLimit(seconds), limit)) as pieces:
        async for piece in pieces:
            first, *others = piece.split(b"\n")
            line += first
            for other in others:
                yield bytes(line)
                line = bytearray(other)
            if len(line) > longest:
                raise Malformed(f"a line of it must be at most {longest} bytes long")
    if line:
        raise Malformed("its body must end with a complete line")


async def received(response: Response, budget: TimeBudget, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the content of a response, decompressed in chunks of at most 64 KiB.

    Args:
        response: its body has not been read.
        budget: the remaining time of the endpoint.
        limit: bytes to read from the network; the caller counts the decompressed ones.

    Raises:
        TooSlow: it takes longer.
        Malformed: its encoding is neither identity nor a single valid gzip, or it exceeds the limit.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in {"", "identity", "gzip", "x-gzip"}:  # several layers of gzip would multiply the size
        raise Malformed(f"its Content-Encoding must be identity or gzip, not {coding!r:.100}")
    async with contextlib.aclosing(_raw(response, budget, limit + _FRAMING)) as raw:
        if coding in {"", "identity"}:
            async for piece in raw:
                yield piece
            return
        async with contextlib.aclosing(_decompressed(raw)) as pieces:
            async for piece in pieces:
                yield piece


async def _raw(response: Response, budget: TimeBudget, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it is on the wire."""
    loop = asyncio.get_running_loop()
    size = 0
    while True:
        began = loop.time()
        timeout = asyncio.timeout(budget.left)
        try:
            async with timeout:
                chunk = await anext(response.chunks, None)
        except TimeoutError:
            if timeout.expired():
                raise TooSlow(f"its body must arrive at {MIN_RATE} bytes per second or more, not more slowly") from None
            raise
        if chunk is None:
            return
        budget.spend(loop.time() - began, len(chunk))
        size += len(chunk)
        if size > limit:
            raise Malformed(f"its body must be at most {limit} bytes")
        yield chunk


async def _decompressed(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    inflater = zlib.decompressobj(_GZIP)
    async for compressed in chunks:
        rest = compressed
        while True:
            try:
                piece = inflater.decompress(rest, _PIECE)
            except zlib.error as error:
                raise Malformed(f"its body must be gzip, to match its Content-Encoding: {error}") from None
            if piece:
                yield piece
            rest = inflater.unconsumed_tail
            if not rest and len(piece) < _PIECE:
                break
        if inflater.unused_data:
            raise Malformed("its body must end with the gzip stream")
    if not inflater.eof:
        raise Malformed("its body must be a complete gzip stream")


async def sent(content: AsyncIterator[bytes], seconds: float, timeout: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
    """Yield the content of a request in small chunks.

    `timeout`, the time limit of sending, is suspended while the content's source is awaited. The endpoint has some
    seconds, and more for each byte; after the last byte it has as many seconds to respond.
    """
    loop = asyncio.get_running_loop()
    budget = TimeBudget(seconds)
    _move(timeout, None)
    async for chunk in content:
        for start in range(0, len(chunk), _PIECE):
            piece = chunk[start : start + _PIECE]
            began = loop.time()
            _move(timeout, began + budget.left + len(piece) / MIN_RATE)
            yield piece
            budget.spend(loop.time() - began, len(piece))
            _move(timeout, None)
    _move(timeout, loop.time() + seconds)


def _move(timeout: asyncio.Timeout, when: float | None) -> None:
    if not timeout.expired():
        timeout.reschedule(when)


async def replayable(
    chunks: AsyncGenerator[bytes, None],
    before: bytes = b"",
    after: bytes = b"",
    *,
    on_sent: Callable[[int], None] | None = None,
) -> bytes | AsyncIterator[bytes]:
    """Return the whole content if it is small, otherwise an iterator, which can be sent only once.

    Args:
        chunks: the content.
        before, after: the bytes around it.
        on_sent: called with the bytes of `chunks` that were taken from the iterator.
    """
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) > _REPLAYABLE:
            return _once(before, bytes(held), chunks, after, on_sent)
    return b"".join((before, held, after))


async def _once(
    before: bytes,
    held: bytes,
    chunks: AsyncIterator[bytes],
    after: bytes,
    on_sent: Callable[[int], None] | None,
) -> AsyncGenerator[bytes, None]:
    if before:
        yield before
    for start in range(0, len(held), _PIECE):
        piece = held[start : start + _PIECE]
        yield piece
        if on_sent is not None:
            on_sent(len(piece))
    del held
    async for chunk in chunks:
        yield chunk
        if on_sent is not None:
            on_sent(len(chunk))
    if after:
        yield after


def expected_size(response: Response) -> int | None:
    """Return the size of a response's content in bytes, if its headers state it."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    return number_in(response, "content-length") if coding in {"", "identity"} else None


def number_in(response: Response, header: str) -> int | None:
    """Return the number in a header; `None` if there is none."""
    value = response.headers.get(header, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) <= _DIGITS else None
