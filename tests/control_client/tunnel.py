"""A proxy that leads the hosts of Azure to servers of this machine, so that a program can be run as it is used."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field


@dataclass
class Tunnel:
    """A running proxy."""

    url: str = ""
    hosts: list[str] = field(default_factory=list[str])
    """The hosts that were asked for, in order."""


@contextlib.contextmanager
def tunnel_to(ports: Mapping[str, int]) -> Generator[Tunnel, None, None]:
    """Connect each of these hosts to a port of this machine, and no other host."""
    tunnel = Tunnel()
    started = threading.Event()
    found: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    connections: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(lead(reader, writer))
        connections.add(task)
        await asyncio.wait([task])
        connections.discard(task)

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = [writer]
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            host = head.split()[1].decode().partition(":")[0]
            tunnel.hosts.append(host)
            if host not in ports:
                writer.write(b"HTTP/1.1 502 Unknown\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            else:
                other_reader, other = await asyncio.open_connection("127.0.0.1", ports[host])
                opened.append(other)
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                await asyncio.gather(pipe(reader, other), pipe(other_reader, writer))
        for each in opened:
            each.transport.abort()

    async def serve() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        tunnel.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found.append((asyncio.get_running_loop(), stop))
        started.set()
        await stop.wait()
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)
        await asyncio.sleep(0.05)  # the ends of aborted connections are told with the next turns of the loop

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(60)
    loop, stop = found[0]
    try:
        yield tunnel
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()
