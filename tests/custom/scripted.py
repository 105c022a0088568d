"""An engine whose containers are servers in this process, for tests of pools and of the server without Docker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from greenroom.config.containers import CustomContainer
from greenroom.engines.base import Connection, Engine, PortSandbox, Sandbox, SandboxSpec
from greenroom.local import PoolSettings
from greenroom.local.container_pool import ContainerPool
from greenroom.models import ContainerType
from greenroom.telemetry import Observer, ignore

Program = Callable[["ScriptedContainer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedContainer(PortSandbox):
    """A container whose connections are served by a function."""

    def __init__(self, number: int, program: Program) -> None:
        self.id = f"container-{number}"
        self.number = number
        self.requests = 0
        self.refuses = False
        self.killed = False
        self.print: Callable[[str, bytes], None] = lambda _stream, _data: None
        self._program = program
        self._ended = asyncio.Event()
        self._servers: list[asyncio.Server] = []

    async def connect(self, port: int) -> Connection:
        if self.refuses or self._ended.is_set():
            raise ConnectionRefusedError("Connection refused")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.close()  # it was for this connection
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._program(self, reader, writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        return _Stream(*await asyncio.open_connection(*server.sockets[0].getsockname()[:2]))

    async def ended(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        self._ended.set()

    def output(self) -> str:
        return f"the last line of {self.number}"

    def listen(self, on_output: Callable[[str, bytes], None]) -> None:
        self.print = on_output

    async def diagnosis(self) -> str:
        return "it exited with code 3"

    async def kill(self) -> None:
        self.killed = True
        self._ended.set()
        for server in self._servers:
            server.close()


class _Stream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(65536)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.transport.abort()


class ScriptedContainers(Engine):
    """Starts such containers; `prepare` is called with each."""

    name = "scripted"
    container_types = frozenset({ContainerType.CUSTOM_CONTAINER})

    def __init__(self, program: Program, prepare: Callable[[ScriptedContainer], None] = lambda _: None) -> None:
        self.started: list[ScriptedContainer] = []
        self._program = program
        self._prepare = prepare

    async def check(self, container_type: ContainerType = ContainerType.CUSTOM_CONTAINER) -> None:
        pass

    async def check_container(self, container: CustomContainer) -> None:
        pass

    async def start(self, spec: SandboxSpec) -> Sandbox:
        raise NotImplementedError

    async def start_container(self, spec: SandboxSpec) -> ScriptedContainer:
        container = ScriptedContainer(len(self.started) + 1, self._program)
        self.started.append(container)
        self._prepare(container)
        return container

    async def sweep(self) -> int:
        return 0

    async def close(self) -> None:
        pass


async def scripted_pool(engine: ScriptedContainers, observer: Observer = ignore, **options: Any) -> ContainerPool:
    container = CustomContainer.model_validate({"image": "scripted", **options.pop("container", {})})
    settings = PoolSettings.parse({"ready_session_instances": 0, "container": container, **options})
    return await ContainerPool.open(engine, settings, observer)


async def answer(container: ScriptedContainer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request with the number of the container, the number of the request, and the head as it arrived."""
    head = await reader.readuntil(b"\r\n\r\n")
    container.requests += 1
    body = f"{container.number} {container.requests}\n".encode() + head
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
