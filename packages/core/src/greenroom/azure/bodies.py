"""The bodies of requests and responses, piece by piece: nothing is kept, unpacked or waited for without a limit."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from greenroom.azure.codecs.shared import Malformed
from greenroom.azure.transport import Response

MIN_RATE = 16 * 1024
"""Bytes per second that an endpoint must send or accept once its time is used up."""

_PIECE = 64 * 1024
_GZIP = 31  # zlib's window of 15 bits, with gzip's header
_FRAMING = 1 << 20  # what gzip may add to content that it cannot make smaller


class TooSlow(Exception):
    """The endpoint took longer than it may; the message says with what."""


class Pace:
    """The time that an endpoint has: some seconds, and more for each byte that comes through.

    Time that our own side takes does not count.
    """

    def __init__(self, seconds: float) -> None:
        self._most = self._left = seconds

    @property
    def left(self) -> float:
        return self._left

    def spend(self, seconds: float, size: int) -> None:
        """Note that `size` bytes came through in that time. What is saved up is never more than at the beginning."""
        self._left = min(self._left - seconds + size / MIN_RATE, self._most)


async def received(response: Response, seconds: float, limit: int) -> AsyncGenerator[bytes, None]:
    """The content of a response, unpacked, in pieces of at most 64 KiB where it was packed.

    Args:
        response: its body has not been read.
        seconds: that the endpoint may leave us waiting, beside the time that its bytes have at `MIN_RATE`.
        limit: bytes that are read from the network; the caller counts what comes out.

    Raises:
        TooSlow: it takes longer.
        Malformed: it is packed in another way than one gzip, or not as it says, or over the limit.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in {"", "identity", "gzip", "x-gzip"}:  # several would multiply
        raise Malformed(f"its Content-Encoding must be identity or gzip, not {coding!r:.100}")
    async with contextlib.aclosing(_raw(response, Pace(seconds), limit + _FRAMING)) as raw:
        if coding in {"", "identity"}:
            async for piece in raw:
                yield piece
            return
        async with contextlib.aclosing(_unpacked(raw)) as pieces:
            async for piece in pieces:
                yield piece


async def _raw(response: Response, pace: Pace, limit: int) -> AsyncGenerator[bytes, None]:
    """The body as it is on the wire."""
    loop = asyncio.get_running_loop()
    size = 0
    while True:
        began = loop.time()
        timeout = asyncio.timeout(pace.left)
        try:
            async with timeout:
                chunk = await anext(response.chunks, None)
        except TimeoutError:
            if timeout.expired():
                raise TooSlow("its body must not arrive so slowly") from None
            raise
        if chunk is None:
            return
        pace.spend(loop.time() - began, len(chunk))
        size += len(chunk)
        if size > limit:
            raise Malformed(f"its body must have at most {limit} bytes")
        yield chunk


async def _unpacked(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    inflater = zlib.decompressobj(_GZIP)
    async for packed in chunks:
        rest = packed
        while True:
            try:
                piece = inflater.decompress(rest, _PIECE)
            except zlib.error as error:
                raise Malformed(f"its body must be gzip, as its Content-Encoding says: {error}") from None
            if piece:
                yield piece
            rest = inflater.unconsumed_tail
            if not rest and len(piece) < _PIECE:
                break
        if inflater.unused_data:
            raise Malformed("its body must end where its gzip does")
    if not inflater.eof:
        raise Malformed("its body must not end within its gzip")


async def sent(content: AsyncIterator[bytes], seconds: float, timeout: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
    """The content of a request, in pieces.

    `timeout`, within which the request is sent, stands still while the content's source is waited for. The endpoint
    has some seconds, and more for each byte; and after the last one the same seconds for its response.
    """
    loop = asyncio.get_running_loop()
    pace = Pace(seconds)
    _move(timeout, None)
    async for chunk in content:
        for start in range(0, len(chunk), _PIECE):
            piece = chunk[start : start + _PIECE]
            began = loop.time()
            _move(timeout, began + pace.left + len(piece) / MIN_RATE)
            yield piece
            pace.spend(loop.time() - began, len(piece))
            _move(timeout, None)
    _move(timeout, loop.time() + seconds)


def _move(timeout: asyncio.Timeout, when: float | None) -> None:
    if not timeout.expired():
        timeout.reschedule(when)
