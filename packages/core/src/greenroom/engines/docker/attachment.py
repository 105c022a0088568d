"""The connection attached to a container: standard input in one direction, standard output and error in the other."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Self

from greenroom.engines.docker.client import Daemon, refusal

if TYPE_CHECKING:
    import aiohttp

STDOUT, STDERR = 1, 2

_HEADER = struct.Struct(">BxxxI")
_READ_AHEAD = 1 << 18


class Attachment:
    """The standard streams of a container, attached before it starts so that no output is missed.

    The engine answers the request by switching the HTTP connection to raw bytes. From then on asyncio's streams use
    the connection, for flow control and for a way to close it immediately.
    """

    def __init__(self, response: aiohttp.ClientResponse, transport: asyncio.Transport) -> None:
        self._response = response  # kept, as it would close the connection when garbage-collected
        self._reader = asyncio.StreamReader(limit=_READ_AHEAD)
        protocol = asyncio.StreamReaderProtocol(self._reader)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, asyncio.get_running_loop())

    @classmethod
    async def open(cls, daemon: Daemon, container: str) -> Self:
        """Attach to a container by its name or id.

        Raises:
            any of `client.FAILURES`.
        """
        response = await daemon.request(
            "POST",
            f"containers/{container}/attach",
            params={"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"},
            headers={"Connection": "Upgrade", "Upgrade": "tcp"},
        )
        connection = response.connection
        transport = None if connection is None else connection.transport
        if response.status != 101 or transport is None:
            raise await refusal(response)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return cls(response, transport)

    async def write(self, data: bytes) -> None:
        """Write to standard input; return when more can be written.

        Raises:
            OSError: the connection has ended.
        """
        if not self._writer.is_closing():
            self._writer.write(data)
            await self._writer.drain()
        if self._writer.is_closing():  # possibly closed while waiting, which drain does not report
            raise ConnectionResetError("The connection to the container has ended.")

    async def read(self) -> tuple[int, bytes] | None:
        """Return the next piece of `STDOUT` or `STDERR`; None at the end of the connection."""
        try:
            stream, size = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
            return stream, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            return None

    def close(self) -> None:
        """End the connection immediately. Idempotent."""
        self._writer.transport.abort()
        self._response.close()
