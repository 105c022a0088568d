"""A server over a pool of this process: called directly, or through real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import httpx

from greenroom.backend import Backend
from greenroom.local import PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.server.access.keys import Guard
from greenroom.server.app import Application
from greenroom.server.registry import PoolRegistry
from greenroom.server.run import Server
from greenroom.server.settings import ServerSettings
from greenroom.server.transport.tls import Certificate
from greenroom.telemetry import Observer, ignore
from greenroom.testing.memory_engine import MemoryEngine

LEGACY = ("2024-02-02-preview", "2024-08-02-preview")
CURRENT = ("2024-10-02-preview", "2025-02-02-preview", "2025-10-02-preview")
LATEST = CURRENT[-1]
POOL = "/subscriptions/s/resourceGroups/g/sessionPools/p"


async def memory_backend(engine: MemoryEngine | None = None, **options: Any) -> LocalPool:
    """A pool in memory, with no sandbox but those of its sessions."""
    settings = PoolSettings.parse({"preload": (), "ready_session_instances": 0, **options})
    return await LocalPool.open(engine or MemoryEngine(), settings)


@contextlib.asynccontextmanager
async def application(
    backend: Backend | Mapping[str, Backend] | None = None,
    *,
    guard: Guard | None = None,
    observer: Observer = ignore,
    metrics_guard: Guard | None = None,
    **options: Any,
) -> AsyncGenerator[Application, None]:
    """The application over one backend or several named ones, by default over a pool in memory."""
    backend = await memory_backend() if backend is None else backend
    pools = PoolRegistry()
    for name, each in (backend if isinstance(backend, Mapping) else {"p": backend}).items():
        pools.add(name, each)
    try:
        yield Application(pools, ServerSettings.parse(options), guard, observer, metrics_guard=metrics_guard)
    finally:
        await pools.close()


def client_of(app: Application, **options: Any) -> httpx.AsyncClient:
    """A client that calls an application without a socket."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", **options)


@contextlib.asynccontextmanager
async def served(
    backend: Backend | Mapping[str, Backend] | None = None, **options: Any
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of an application; the options are those of the server's settings, and `guard`."""
    async with application(backend, **options) as app, client_of(app) as client:
        yield client


@contextlib.asynccontextmanager
async def listening(
    backend: Backend | None = None, certificate: Certificate | None = None, **options: Any
) -> AsyncGenerator[Server, None]:
    """A server at a port of its own; it is stopped at the end."""
    of_server = {name: value for name, value in options.items() if name not in {"guard", "metrics_guard", "observer"}}
    settings = ServerSettings.parse({"port": 0, "shutdown_grace": 0.2, **of_server})
    async with application(backend, **options) as app:
        server, started = Server(app, settings, certificate), asyncio.Event()
        server.on_start = started.set
        task = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(60):
                await started.wait()
            yield server
        finally:
            server.should_exit = True
            async with asyncio.timeout(60):
                await task


def query(version: str, identifier: str = "session", **more: str) -> dict[str, str]:
    return {"api-version": version, "identifier": identifier, **more}


def inline(code: str, **fields: Any) -> dict[str, Any]:
    """The body of the legacy contract."""
    return {"properties": {"codeInputType": "inline", "executionType": "synchronous", "code": code, **fields}}


def current(code: str, **fields: Any) -> dict[str, Any]:
    """The body of the current contract."""
    return {"codeInputType": "Inline", "executionType": "Synchronous", "code": code, **fields}


def code_of(response: httpx.Response) -> str:
    """The code of an error, which is in the header, too."""
    body = response.json()
    code = body.get("error", body)["code"]
    assert response.headers["x-ms-error-code"] == code
    return code


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  it is about what happens elsewhere
            await asyncio.sleep(0.01)
