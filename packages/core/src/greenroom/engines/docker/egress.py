"""The egress of custom containers: an HTTP proxy in this process, as they have no network of their own.

Each connection is made here, to a checked address: neither this machine nor anything that only it can reach.
A list of allowed domains would be one more check in `_addresses`.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias
from urllib.parse import urlsplit

from greenroom.engines.base import Connection

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_HEAD = 32 * 1024
_HEAD_TIMEOUT = 30.0
_CONNECT_TIMEOUT = 15.0
_PIECE = 1 << 16
_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,8192}) HTTP/1\.[01]")
_MOST_LOOK_UPS = 4
_OF_CLOUDS = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's host
            "100.100.100.200/32",  # Alibaba Cloud's metadata
            "192.0.0.0/24",  # Oracle Cloud's among others; reserved for protocols, never a machine
            "fd00:ec2::/32",  # AWS's
            "fd20:ce::/32",  # Google Cloud's
            "2002::/16",  # IPv4 in IPv6, which a gateway would unpack
            "64:ff9b::/96",
        ),
    )
)
"""Networks of services that a cloud offers to each of its machines, in addition to the link-local ones."""
_OF_PROXIES = (b"proxy-authorization:", b"proxy-connection:", b"connection:", b"keep-alive:")


class _Refused(Exception):
    """The request is refused; the arguments are an HTTP status and the reason."""


class Egress:
    """The proxy of one container.

    Args:
        inner_networks: finds the networks that only the engine's machine can reach, such as Docker's own.
        failures: the exceptions that `inner_networks` raises.
    """

    def __init__(
        self, inner_networks: Callable[[], Awaitable[Sequence[Network]]], failures: tuple[type[Exception], ...]
    ) -> None:
        self._inner_networks = inner_networks
        self._failures = failures
        self._look_ups = ThreadPoolExecutor(_MOST_LOOK_UPS, "greenroom names")

    async def serve(self, connection: Connection) -> None:
        """Serve one connection of a container until it ends. Never raises OSError."""
        try:
            await self._serve(connection)
        except OSError:
            pass  # one of the two ends has closed
        finally:
            await connection.close()

    async def _serve(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT):
                head, rest = await _read_head(connection)
            host, port, first = _target(head)
            reader, writer = await self._connect(host, port)
        except TimeoutError:
            return
        except _Refused as refusal:
            status, reason = refusal.args
            body = f"{reason}\n".encode()
            await connection.write(
                b"HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close"
                b"\r\n\r\n%s" % (status.encode(), len(body), body)
            )
            await connection.end()
            await asyncio.sleep(0)
            return
        if first is None:
            await connection.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            writer.write((first or b"") + rest)
            await _join(connection, reader, writer)
        finally:
            writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reason: object = "it has no address"
        for address in await self._addresses(host, port):
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    return await asyncio.open_connection(str(address), port)
            except TimeoutError:
                reason = "it does not respond"
            except OSError as error:
                reason = error.strerror or error
        raise _Refused("502 Bad Gateway", f"{host} cannot be reached: {reason}")

    async def _addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host that code may connect to."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                # In threads only for this container: names that resolve slowly must not hold up other containers.
                look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
                found = await asyncio.get_running_loop().run_in_executor(self._look_ups, look_up)
        except (OSError, UnicodeError):
            raise _Refused("502 Bad Gateway", f"The name {host} cannot be resolved") from None
        addresses = list(dict.fromkeys(_plain(str(each[4][0])) for each in found))
        if not all(map(is_elsewhere, addresses)):
            raise _Refused("403 Forbidden", f"{host} is this machine or only reachable from it")
        try:
            networks = await self._inner_networks()
        except self._failures:
            raise _Refused("502 Bad Gateway", "The networks of this machine's containers cannot be listed") from None
        if any(address in network for address in addresses for network in networks):
            raise _Refused("403 Forbidden", f"{host} is in a network of this machine's containers")
        return addresses


def _plain(text: str) -> Address:
    """Return an address; for an IPv6 address that stands for an IPv4 address, the latter."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_elsewhere(address: Address) -> bool:
    """Whether an address belongs to another machine, and not to a service that identifies callers by address."""
    address = _plain(str(address))
    if any(address in network for network in _OF_CLOUDS):
        return False
    if (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or address.is_reserved
    ):
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))  # only possible with addresses of this machine
    except OSError as error:  # any other error, such as a lack of descriptors, proves nothing
        return error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return False


async def _read_head(connection: Connection) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > _MOST_HEAD:
            raise _Refused("431 Request Header Fields Too Large", f"The head must be at most {_MOST_HEAD} bytes")
        piece = await connection.read()
        if not piece:
            raise ConnectionResetError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _target(head: bytes) -> tuple[str, int, bytes | None]:
    """Return the host and port of a request to a proxy, and the header to send there; `None` for a tunnel."""
    line, *fields = head.split(b"\r\n")
    match = _LINE.fullmatch(line)
    if match is None:
        raise _Refused("400 Bad Request", "The request must be an HTTP proxy request")
    method, target = match[1], match[2].decode("ascii")
    tunnel = method == b"CONNECT"
    try:
        parts = urlsplit(f"//{target}" if tunnel else target)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = None
    if not host or parts is None or (port is None if tunnel else parts.scheme != "http"):
        raise _Refused("400 Bad Request", "The request must be CONNECT host:port, or have an http URL")
    if tunnel:
        return host, port or 443, None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kept = [field for field in fields if not field.lower().startswith(_OF_PROXIES)]
    lines = [b"%s %s HTTP/1.1" % (method, path.encode()), *kept, b"Connection: close", b"", b""]
    return host, port or 80, b"\r\n".join(lines)


async def _join(connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes in both directions until both have ended or one has failed."""

    async def out() -> None:
        while data := await connection.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def back() -> None:
        while data := await reader.read(_PIECE):
            await connection.write(data)
        await connection.end()

    directions = [asyncio.ensure_future(out()), asyncio.ensure_future(back())]
    try:
        await asyncio.gather(*directions)
    finally:
        for direction in directions:
            direction.cancel()
        await asyncio.wait(directions)
