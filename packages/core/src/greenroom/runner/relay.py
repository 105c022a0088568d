"""Connections into and out of a custom container, multiplexed over two byte streams.

Run as a program, it is process 1 of a container without a network, whose namespaces the custom container shares: it
connects to ports on their loopback for the host, and forwards connections to the port of the proxy, if there is one.
It ends when its standard input does, and the kernel ends every process in its namespace with it. `Link` implements the
protocol, which is the same on both sides:

    frame    kind (1 byte), channel (4 bytes), size (4 bytes), body
    OPEN     opens a channel; the body is the port, empty for a connection to the proxy
    OPENED   the channel is connected
    FAILED   the channel could not be connected; the body is the reason
    DATA     bytes, at most as many as the receiver has given credit for
    CREDIT   4 bytes: how many more bytes the receiver accepts
    END      the sender has no more bytes
    RESET    the channel is closed in both directions

Channels opened by the host have odd numbers, those opened by the container even ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any

OPEN, OPENED, FAILED, DATA, CREDIT, END, RESET = range(7)

HEADER = struct.Struct(">BII")
_NUMBER = struct.Struct(">I")
PORT = struct.Struct(">H")
MOST_BYTES = 1 << 16
"""The maximum size of a body in bytes."""
WINDOW = 1 << 18
"""The maximum number of bytes in transit per channel and direction."""
MOST_OPEN = 64
"""The maximum number of open channels per side; further ones wait."""
_MOST_WAITING = 128  # connections from the container

_PR_SET_DUMPABLE = 4


class Violation(Exception):
    """The other side violated the protocol."""


class Channel:
    """One connection. One task reads it, and one task writes it."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()
        self._received = bytearray()
        self._ended = False
        self._credit = WINDOW
        self._given = asyncio.Event()
        self._error: OSError | None = None

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end.

        Raises:
            OSError: the connection was reset, or the link has ended.
        """
        while not self._received:
            if self._ended:
                return b""
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._received)
        self._received.clear()
        if not self._ended and self._error is None:
            with contextlib.suppress(OSError):  # the next call reports it
                await self._link.send(CREDIT, self._number, _NUMBER.pack(len(data)))
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; return once the other side has had room for them.

        Raises:
            OSError: the connection was reset, or the link has ended.
        """
        view = memoryview(data)
        while view:
            while not self._credit and self._error is None:
                self._given.clear()
                await self._given.wait()
            if self._error is not None:
                raise self._error
            size = min(len(view), self._credit, MOST_BYTES)
            self._credit -= size
            await self._link.send(DATA, self._number, bytes(view[:size]))
            view = view[size:]

    async def end(self) -> None:
        """Send the end of the stream; reading can continue."""
        if self._error is None:
            await self._link.send(END, self._number)

    async def close(self) -> None:
        """Close the connection. Idempotent, never raises OSError."""
        if self._link.forget(self._number):
            self.fail(ConnectionResetError("The connection was closed."))
            with contextlib.suppress(OSError):
                await self._link.send(RESET, self._number)

    async def opened(self) -> None:
        """Wait until the other side has connected.

        Raises:
            OSError: the other side could not connect.
        """
        await self._opened

    async def accept(self) -> None:
        """Report that this side has connected."""
        await self._link.send(OPENED, self._number)

    async def refuse(self, reason: str) -> None:
        """Report that this side cannot connect."""
        if self._link.forget(self._number):
            await self._link.send(FAILED, self._number, reason.encode("utf-8", "replace")[:1000])

    # For use by the link

    def take(self, kind: int, body: bytes) -> None:
        if kind == DATA:
            if self._ended or len(self._received) + len(body) > WINDOW:
                raise Violation("more bytes than were requested")
            self._received += body
            self._changed.set()
        elif kind == CREDIT:
            self._credit += _NUMBER.unpack(body)[0]
            if self._credit > WINDOW:
                raise Violation("more credit than the window allows")
            self._given.set()
        elif kind == END:
            self._ended = True
            self._changed.set()
        elif kind == OPENED:
            if not self._opened.done():
                self._opened.set_result(None)
        else:
            self._link.forget(self._number)
            reason = body.decode("utf-8", "replace") if kind == FAILED else "the connection was reset"
            self.fail(ConnectionRefusedError(reason) if kind == FAILED else ConnectionResetError(reason))

    def fail(self, error: OSError) -> None:
        self._error = self._error or error
        if not self._opened.done():
            self._opened.set_exception(self._error)
            self._opened.exception()  # possibly, nothing waits for it
        self._changed.set()
        self._given.set()


class Link:
    """The two streams, with the channels in them.

    Args:
        write: sends bytes in order; waits while the stream is full.
        on_open: called with each channel that the other side opens, and the body of its `OPEN`.
        first: the number of this side's first channel, 1 or 2.
    """

    def __init__(
        self, write: Callable[[bytes], Awaitable[None]], on_open: Callable[[Channel, bytes], None], first: int
    ) -> None:
        self._write = write
        self._on_open = on_open
        self._next = first
        self._parity = first % 2
        self._channels: dict[int, Channel] = {}
        self._buffer = bytearray()
        self._lock = asyncio.Lock()
        self._places = asyncio.Event()
        self._error: OSError | None = None

    async def open(self, body: bytes) -> Channel:
        """Open a channel as soon as the limit allows it; `Channel.opened` waits for its connection.

        Raises:
            OSError: the link has ended.
        """
        while self._error is None and self._count(self._parity) >= MOST_OPEN:
            self._places.clear()
            await self._places.wait()
        if self._error is not None:
            raise self._error
        number, self._next = self._next, self._next + 2
        channel = self._channels[number] = Channel(self, number)
        await self.send(OPEN, number, body)
        return channel

    async def send(self, kind: int, number: int, body: bytes = b"") -> None:
        async with self._lock:
            if self._error is not None:
                raise self._error
            await self._write(HEADER.pack(kind, number, len(body)) + body)

    def feed(self, data: bytes) -> None:
        """Process bytes from the other side.

        Raises:
            Violation: they violate the protocol.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            kind, number, size = HEADER.unpack_from(buffer, start)
            if kind > RESET or size > (MOST_BYTES if kind == DATA else 1000) or (kind == CREDIT and size != 4):
                raise Violation(f"a frame of kind {kind} and {size} bytes")
            end = start + HEADER.size + size
            if end > len(buffer):
                break
            self._take(kind, number, bytes(buffer[start + HEADER.size : end]))
            start = end
        del buffer[:start]

    def forget(self, number: int) -> bool:
        """Return whether there was such a channel."""
        self._places.set()
        return self._channels.pop(number, None) is not None

    def close(self, reason: str) -> None:
        """Fail all channels. Idempotent."""
        self._error = self._error or ConnectionResetError(reason)
        for channel in list(self._channels.values()):
            channel.fail(self._error)
        self._channels.clear()
        self._places.set()

    def _count(self, parity: int) -> int:
        return sum(number % 2 == parity for number in self._channels)

    def _take(self, kind: int, number: int, body: bytes) -> None:
        if kind != OPEN:
            channel = self._channels.get(number)
            if channel is not None:  # not for one that this side has just closed
                channel.take(kind, body)
            return
        theirs = self._count(1 - self._parity)
        if number % 2 == self._parity or number in self._channels or theirs >= MOST_OPEN:
            raise Violation(f"a channel {number} with {theirs} others open")
        channel = self._channels[number] = Channel(self, number)
        self._on_open(channel, body)


# The program


async def _relay(proxy_port: int | None) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    tasks: set[asyncio.Task[None]] = set()
    accepting = 0

    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    def spawn(coroutine: Any) -> None:
        task = loop.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def connect(channel: Channel, port: int) -> None:
        try:
            streams = await _connect(port)
        except OSError as error:
            await channel.refuse(os.strerror(error.errno) if error.errno else str(error))
            return
        await channel.accept()
        await _join(channel, *streams)

    async def accepted(from_code: asyncio.StreamReader, to_code: asyncio.StreamWriter) -> None:
        nonlocal accepting
        if accepting >= MOST_OPEN + _MOST_WAITING:  # each takes memory, even while it waits
            to_code.transport.abort()
            return
        accepting += 1
        try:
            await _join(await link.open(b""), from_code, to_code)
        finally:
            accepting -= 1

    link = Link(write, lambda channel, body: spawn(connect(channel, PORT.unpack(body)[0])), first=2)
    if proxy_port is not None:
        await asyncio.start_server(accepted, "127.0.0.1", proxy_port)
    await write(b"ready\n")
    while data := await reader.read(MOST_BYTES):
        link.feed(data)


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection("::1", port)
        raise


async def _join(channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes in both directions until both have ended or one has failed."""

    async def out() -> None:
        while data := await reader.read(MOST_BYTES):
            await channel.write(data)
        await channel.end()

    async def into() -> None:
        while data := await channel.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    directions = [asyncio.ensure_future(out()), asyncio.ensure_future(into())]
    try:
        await asyncio.gather(*directions)
    except OSError:
        writer.transport.abort()
    finally:
        for direction in directions:
            direction.cancel()
        writer.close()
        await channel.close()


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps orphans of the container
    with contextlib.suppress(OSError):
        asyncio.run(_relay(json.loads(sys.argv[1])["proxy_port"]))
    os._exit(0)


if __name__ == "__main__":
    main()
