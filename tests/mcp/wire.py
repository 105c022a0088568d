"""Messages of both kinds, and the two transports over a pool of this process."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import httpx

from greenroom.backend import Backend
from greenroom.mcp.endpoint import Endpoint
from greenroom.mcp.stdio import Stdio

STATELESS = "2026-07-28"
WITH_HANDSHAKE = ["2025-03-26", "2025-06-18", "2025-11-25"]
META = "io.modelcontextprotocol/"


def request(method: str, id: Any = 1, **params: Any) -> dict[str, Any]:  # noqa: A002
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def stateless(method: str, id: Any = 1, meta: Any = (), **params: Any) -> dict[str, Any]:  # noqa: A002
    """A request of the version in which each stands alone."""
    fields: dict[str, Any] = {f"{META}protocolVersion": STATELESS, f"{META}clientCapabilities": {}, **dict(meta)}
    return request(method, id, _meta=fields, **params)


def headers_of(message: dict[str, Any]) -> dict[str, str]:
    """What a client of that version sends beside it."""
    params = message["params"]
    version = params["_meta"][f"{META}protocolVersion"]
    headers = {"mcp-protocol-version": version, "mcp-method": message["method"]}
    if (name := params.get("name", params.get("uri"))) is not None:
        headers["mcp-name"] = name
    return headers


def call(name: str, id: Any = 1, meta: Any = (), **arguments: Any) -> dict[str, Any]:  # noqa: A002
    return stateless("tools/call", id, meta, name=name, arguments=arguments)


BOTH = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


async def post(client: httpx.AsyncClient, message: Any, path: str = "/mcp", **headers: str) -> httpx.Response:
    """Send a message as its client would; `headers` have `_` for `-`."""
    sent = dict(BOTH)
    if isinstance(message, dict):
        fields = cast("dict[str, Any]", message)
        if f"{META}protocolVersion" in fields.get("params", {}).get("_meta", {}):
            sent |= headers_of(fields)
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, content=json.dumps(message), headers=sent)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The messages of a response, be it JSON or events."""
    if response.headers["content-type"].startswith("application/json"):
        return [response.json()]
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


class Line:
    """The client's end of standard streams."""

    def __init__(self, to_server: int, reader: asyncio.StreamReader) -> None:
        self._to_server = to_server
        self._reader = reader

    def write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._to_server, content) :]

    def send(self, *messages: Any) -> None:
        for message in messages:
            self.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Any:
        async with asyncio.timeout(60):
            return json.loads(await self._reader.readline())

    async def ask(self, message: Any) -> Any:
        """Send a request, and return its answer; nothing else may come before it."""
        self.send(message)
        answer = await self.receive()
        assert answer["id"] == message["id"]
        return answer

    def close(self) -> None:
        if self._to_server >= 0:
            os.close(self._to_server)
            self._to_server = -1


@asynccontextmanager
async def connected(backend: Backend) -> AsyncGenerator[Line]:
    """A client of a server on standard streams, which has ended at the end."""
    reads_from, to_server = os.pipe()
    from_server, writes_to = os.pipe()
    reader = asyncio.StreamReader(limit=1 << 26)
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(from_server, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    serving = asyncio.create_task(Stdio(Endpoint(backend), reads_from, writes_to).serve())
    line = Line(to_server, reader)
    try:
        yield line
    finally:
        line.close()
        async with asyncio.timeout(60):
            await serving
        transport.close()
        with suppress(OSError):
            os.close(writes_to)
        os.close(reads_from)
