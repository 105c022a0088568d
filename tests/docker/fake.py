"""A scripted Docker engine: HTTP on a Unix socket, with an answer for each call."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from greenroom.engines.docker.image import RUNNER_LABEL, runner_digest

Answer = tuple[int, Any]
"""A status and what becomes JSON; bytes are sent as they are."""
Handler = Callable[[], Answer | Awaitable[Answer]]

ABILITIES: dict[str, Any] = {
    "OSType": "linux",
    "MemoryLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "Runtimes": {"runc": {}, "runsc": {}},
    "Architecture": "x86_64",
    "SecurityOptions": ["name=seccomp,profile=builtin"],
}
IMAGE = {"Config": {"Labels": {RUNNER_LABEL: runner_digest()}}}


class FakeDocker:
    """Answers as a healthy engine does, except the calls in `answers`.

    Attributes:
        answers: by call, such as `GET /info`; the part of a path that names something is left out.
        calls: the calls so far, in their order.
        attached: the open ends of attached connections.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._tasks: set[asyncio.Task[None]] = set()
        self.calls: list[str] = []
        self.attached: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.answers: dict[str, Handler] = {
            "GET /version": lambda: (200, {"ApiVersion": "1.41"}),
            "GET /info": lambda: (200, ABILITIES),
            "GET /images/json": lambda: (200, IMAGE),
            "GET /containers/json": lambda: (200, []),
            "GET /events": lambda: (200, {"Action": "die", "Actor": {"Attributes": {"exitCode": "0"}}}),
            "POST /containers/create": lambda: (201, {"Id": "0123"}),
            "POST /containers/start": lambda: (204, None),
            "DELETE /containers": lambda: (204, None),
        }

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

    @classmethod
    @asynccontextmanager
    async def serving(cls, path: Path) -> AsyncGenerator[Self]:
        docker = cls(path)
        server = await asyncio.start_unix_server(docker._accept, path, limit=1 << 24, backlog=512)
        try:
            yield docker
        finally:
            server.close()
            await docker._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, writer in self.attached:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path = head.decode().split(" ")[:2]
                if (size := re.search(rb"content-length: (\d+)", head, re.IGNORECASE)) is not None:
                    await reader.readexactly(int(size[1]))
                elif b"transfer-encoding: chunked" in head.lower():
                    await reader.readuntil(b"\r\n0\r\n\r\n")
                call = f"{method} {_without_names(path)}"
                self.calls.append(call)
                if call == "POST /containers/attach":
                    writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
                    self.attached.append((reader, writer))
                    return
                answer = self.answers[call]()
                status, content = await answer if isinstance(answer, Awaitable) else answer
                if not isinstance(content, bytes):
                    content = b"" if content is None else json.dumps(content).encode() + b"\n"
                kind = b"Content-Type: application/json\r\n" if content else b""
                writer.write(b"HTTP/1.1 %d -\r\n%sContent-Length: %d\r\n\r\n%s" % (status, kind, len(content), content))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        except BaseException:
            writer.close()
            raise


def _without_names(path: str) -> str:
    """`/v1.41/containers/greenroom-0123/start?…` → `/containers/start`."""
    parts = re.sub(r"^/v\d+\.\d+", "", path.partition("?")[0]).split("/")
    if len(parts) > 2 and not (parts[1] == "containers" and parts[2] in {"create", "json"}):
        del parts[2]
    return "/".join(parts)
