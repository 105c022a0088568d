"""A control plane over engines in memory, called without a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.server.served import LATEST, client_of, current, memory_backend, query

from greenroom.arm.ids import LOCAL_GROUP, LOCAL_SUBSCRIPTION
from greenroom.arm.versions import LATEST as NEWEST
from greenroom.server.access.keys import Guard
from greenroom.server.app import Application, Management
from greenroom.server.control.choices import Engines
from greenroom.server.control.plane import ControlPlane
from greenroom.server.registry import PoolRegistry
from greenroom.server.settings import ServerSettings
from greenroom.server.state.file import IN_MEMORY, StateFile
from greenroom.server.state.pools import PoolTable
from greenroom.telemetry import ObserverOf, nobody

OTHER = "11111111-2222-3333-4444-555555555555"


def resource(container_type: str = "PythonLTS", **properties: Any) -> dict[str, Any]:
    """The body of a PUT; by default of a pool that keeps nothing ready."""
    scale = {"maxConcurrentSessions": 10, "readySessionInstances": 0}
    return {
        "location": "local",
        "properties": {"containerType": container_type, "scaleConfiguration": scale, **properties},
    }


def path_of(name: str = "", *, group: str = LOCAL_GROUP, subscription: str = LOCAL_SUBSCRIPTION) -> str:
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.App/sessionPools" + (
        f"/{name}" if name else ""
    )


@dataclass(frozen=True)
class Control:
    """A client of a control plane, and what is behind it."""

    client: httpx.AsyncClient
    plane: ControlPlane
    file: StateFile

    async def call(self, method: str, path: str, body: object = None, **parameters: str) -> httpx.Response:
        content: dict[str, Any] = {} if body is None else {"json": body}
        return await self.client.request(method, path, params={"api-version": NEWEST, **parameters}, **content)

    async def end_of(self, response: httpx.Response) -> dict[str, Any]:
        """The status of an accepted operation, once it has ended."""
        assert response.status_code in {200, 201, 202}, response.text
        url = response.headers["Azure-AsyncOperation"]
        async with asyncio.timeout(60):
            while True:
                polled = await self.client.get(url)
                assert polled.status_code == 200, polled.text
                if polled.json()["status"] != "InProgress":
                    return polled.json()
                assert polled.headers["retry-after"] == "1"
                await asyncio.sleep(0.01)

    async def done(self, method: str, path: str, body: object = None, **parameters: str) -> dict[str, Any]:
        """Carry a change out, successfully, and return the resource; an empty one after a deletion."""
        ended = await self.end_of(await self.call(method, path, body, **parameters))
        assert ended["status"] == "Succeeded", ended
        return {} if method == "DELETE" else (await self.call("GET", path, **parameters)).json()

    async def run(self, code: str, pool: Mapping[str, Any], identifier: str = "session") -> httpx.Response:
        """Execute code in a pool, found by its resource."""
        url = f"{pool['properties']['poolManagementEndpoint']}/executions"
        return await self.client.post(url, params=query(LATEST, identifier), json=current(code))

    async def settled(self, path: str) -> dict[str, Any]:
        """A pool once nothing is under way."""
        async with asyncio.timeout(60):
            while True:
                found = (await self.call("GET", path)).json()
                if found["properties"]["provisioningState"] not in {"InProgress", "Deleting"}:
                    return found
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def control(
    state: Path = IN_MEMORY,
    *,
    engine: str | None = "memory:",
    strict: bool = False,
    guard: Guard | None = None,
    management: Guard | None = None,
    observers: ObserverOf = nobody,
) -> AsyncGenerator[Control, None]:
    """A server with one declared pool, `default`."""
    registry = PoolRegistry(observers)
    registry.add("default", await memory_backend(), {"url": "memory:"})
    file = await StateFile.open(state)
    try:
        try:
            plane = await ControlPlane.open(registry, PoolTable(file), Engines(engine), strict=strict)
        except BaseException:
            await file.close()
            raise
        settings = ServerSettings.parse({"strict": strict})
        app = Application(registry, settings, guard, management=Management(plane, management))
        try:
            async with client_of(app) as client:
                yield Control(client, plane, file)
        finally:
            await plane.close()
    finally:
        await registry.close()
