"""Malicious endpoints, at real sockets of the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Self, TypeAlias

Behaviour: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What an endpoint does with a connection whose request's head has been read."""


@contextlib.contextmanager
def endpoint(
    behave: Behaviour, heads: list[bytes] | None = None, *, certificate: ssl.SSLContext | None = None
) -> Generator[str, None, None]:
    """The URL of an endpoint that behaves like that, in a thread of its own; `heads` collects those of requests."""
    started: threading.Event = threading.Event()
    found: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if heads is not None:
                    heads.append(head)
                    await reader.readexactly(_length(head))
                await behave(reader, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        writer.transport.abort()

    async def serve() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificate)
        found.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        started.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(60)
    port, loop, stop = found[0]
    try:
        yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()


def _length(head: bytes) -> int:
    match = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return int(match[1]) if match else 0


def response(body: bytes, *headers: str, status: int = 200) -> bytes:
    """A whole response."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def always(content: bytes) -> Behaviour:
    """Each request has the same answer."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(content)
        await writer.drain()

    return behave


def endless(start: bytes, piece: bytes, *, pause: float = 0.0) -> Behaviour:
    """After its start, the answer has the same piece again and again, as long as somebody takes it."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(start)
        while True:
            await asyncio.sleep(pause)
            writer.write(piece)
            await writer.drain()

    return behave


def closing(content: bytes) -> Behaviour:
    """The connection ends after this."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(content)
        await writer.drain()
        writer.close()

    return behave


class Resident:
    """The resident memory of this process, watched from the beginning of a block to its end."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._before = self._most = _resident()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        """Bytes by which it grew at most."""
        return self._most - self._before

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
