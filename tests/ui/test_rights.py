"""Who reads and does what on a whole server: its keys, the paths that look like others, and containers at its root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.control.memory_engine_plugin import PLUGIN
from tests.control.plane import path_of, resource
from tests.core.plugins import only_engines
from tests.custom.scripted import ScriptedContainer, ScriptedContainers, scripted_pool
from tests.server.served import LATEST, current, memory_backend, query

from greenroom.arm.resources import ENGINE_TAG
from greenroom.arm.versions import LATEST as LATEST_OF_ARM
from greenroom.backend import Backend
from greenroom.engines.base import EngineOptions, EnginePlugin
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType
from greenroom.server.access.keys import digest
from greenroom.server.app import Application, Management
from greenroom.server.control.choices import Engines
from greenroom.server.control.plane import ControlPlane
from greenroom.server.registry import PoolRegistry
from greenroom.server.run import _guards, _pages  # pyright: ignore[reportPrivateUsage]
from greenroom.server.settings import ServerSettings
from greenroom.server.state.file import IN_MEMORY, StateFile
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.server.state.pools import PoolTable
from greenroom.testing.memory_engine import MemoryEngine

from .watched import BROWSER, FORM

KEYS = {name: f"a long key that is for {name}" for name in ("sessions", "management", "metrics")}
OF_ALL = ("/greenroom/1/logs", "/greenroom/1/usage-report", "/greenroom/1/pools")


class Broken(MemoryEngine):
    """Cannot be used."""

    name = "broken"

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        raise EngineUnavailable("Its <cable> is not plugged in.")


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EnginePlugin(EngineOptions, lambda _: Broken())
    only_engines(monkeypatch, memory=PLUGIN, broken=broken)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    files = {
        option: tmp_path / name
        for name, option in (
            ("sessions", "api_key_file"),
            ("management", "management_key_file"),
            ("metrics", "metrics_key_file"),
        )
    }
    for file in files.values():
        file.write_text(f"{file.name} sha256:{digest(KEYS[file.name])}\n")
    return files


@contextlib.asynccontextmanager
async def whole(
    backends: Mapping[str, Backend] | None = None, /, **options: Any
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of a server with all its parts, put together as `greenroom serve` does."""
    settings = ServerSettings.parse(options)
    logs = LogStore(IN_MEMORY, LogLimits())
    registry = PoolRegistry()
    for name, backend in (backends or {"default": await memory_backend()}).items():
        registry.add(name, backend)
    plane = await ControlPlane.open(registry, PoolTable(await StateFile.open(IN_MEMORY)), Engines("memory:"))
    try:
        async with _guards(settings) as guards, _pages(settings, registry, guards, logs, plane) as ui:
            app = Application(
                registry,
                settings,
                guards.sessions,
                metrics_guard=guards.metrics,
                management=Management(plane, guards.management),
                ui=ui,
                log_store=logs,
            )
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                yield client
    finally:
        await plane.close()
        await registry.close()
        await logs.close()


def bearer(name: str | None) -> dict[str, str]:
    return {} if name is None else {"authorization": f"Bearer {KEYS[name]}"}


async def run(client: httpx.AsyncClient, prefix: str = "", key: str | None = "sessions") -> int:
    url = f"{prefix}/executions"
    return (
        await client.post(url, params=query(LATEST, "neighbour-1"), json=current("1"), headers=bearer(key))
    ).status_code


async def create(client: httpx.AsyncClient, name: str, body: Mapping[str, Any], key: str | None) -> None:
    created = await client.put(path_of(name), params={"api-version": LATEST_OF_ARM}, json=body, headers=bearer(key))
    assert created.status_code == 201, created.text
    async with asyncio.timeout(30):
        url = created.headers["Azure-AsyncOperation"]
        while "InProgress" in (await client.get(url, headers=bearer(key))).text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def disguises(path: str) -> list[str]:
    """Ways to write a path that are it, or could be taken for it."""
    *_, last = path.split("/")
    encoded = f"%{ord(last[0]):02x}{last[1:]}"
    return [
        path,
        f"{path}/",
        f"{path}//",
        f"/{path}",
        path.replace(last, encoded),
        path.replace("/greenroom", "/%67reenroom"),
        path.replace("/1/", "/1%2F"),
        path.replace("/1/", "//1/"),
        path.upper(),
        f"{path}%0A",
        f"{path}%00",
        f"{path};x",
        f"{path}?identifier=neighbour-1",
        f"/identifier/neighbour-1{path}",
        f"/subscriptions/s/resourceGroups/g/sessionPools/p{path}",
    ]


@pytest.mark.parametrize("path", OF_ALL)
async def test_pages_about_all_users_are_only_for_managers(path: str, keys: dict[str, Any]) -> None:
    async with whole(**keys) as client:
        assert await run(client) == 200
        for disguise in disguises(path):
            for key in (None, "sessions", "metrics"):
                for method in ("GET", "HEAD", "POST", "OPTIONS"):
                    answer = await client.request(method, disguise, headers=bearer(key))
                    assert answer.status_code in {400, 401, 403, 404, 405}, (method, disguise, key)
                    assert "neighbour" not in answer.text.replace(disguise, "")
        assert (await client.get(path, headers=bearer("management"))).status_code == 200
        assert (await client.head(path, headers=bearer("management"))).status_code == 200


async def test_a_key_for_metrics_reads_them_and_nothing_else(keys: dict[str, Any]) -> None:
    async with whole(**keys) as client:
        assert await run(client) == 200
        headers = bearer("metrics")
        for path in ("/metrics", "/%6detrics"):
            assert "greenroom_pool_limit" in (await client.get(path, headers=headers)).text
            assert (await client.get(path, headers=bearer("management"))).status_code == 401
            assert (await client.get(path)).status_code == 401
        for method, path in (
            ("HEAD", "/metrics"),
            ("POST", "/metrics"),
            ("GET", "/metrics/"),
            ("GET", "//metrics"),
            ("GET", "/listSessions"),
            ("GET", "/greenroom"),
            ("GET", "/greenroom/1/sessions"),
            ("GET", "/greenroom/1/pool-usage"),
            ("GET", "/files?identifier=neighbour-1"),
            ("POST", "/executions?identifier=neighbour-1"),
            ("POST", "/mcp"),
            ("GET", path_of()),
        ):
            assert (await client.request(method, path, headers=headers)).status_code == 401, (method, path)
        signed_in = await client.post("/ui/sign-in", data={"key": KEYS["metrics"]}, headers=FORM)
        assert (signed_in.status_code, "set-cookie" in signed_in.headers) == (401, False)


async def test_a_key_for_sessions_sees_no_ended_session_and_no_log_of_others(keys: dict[str, Any]) -> None:
    async with whole(**keys) as client:
        assert await run(client) == 200
        assert (
            await client.delete("/session", params=query(LATEST, "neighbour-1"), headers=bearer("sessions"))
        ).status_code == 204
        seen: dict[str, str] = {}
        for key in ("sessions", "management"):
            await client.post("/ui/sign-in", data={"key": KEYS[key]}, headers=FORM)
            pages = [await client.get(page, headers=BROWSER) for page in ("/ui/usage?by=session&window=all", "/ui/log")]
            seen[key] = "".join(page.text for page in pages)
            assert [page.status_code for page in pages] == ([200, 403] if key == "sessions" else [200, 200])
        assert "neighbour-1" not in seen["sessions"]
        assert 'id="ended"' not in seen["sessions"]
        assert 'id="ended"' in seen["management"]


@pytest.mark.parametrize("name", ["logs", "pools", "usage-report"])
async def test_the_name_of_a_pool_changes_no_right(name: str, keys: dict[str, Any]) -> None:
    async with whole(**keys) as client:
        await create(client, name, resource(), "management")
        pool = path_of(name).replace("/providers/Microsoft.App", "")
        assert await run(client, pool) == 200
        status = await client.get(f"{pool}/greenroom/1/status", headers=bearer("sessions"))
        assert (status.status_code, status.json()["idle"]) == (200, 1)
        for path in (f"/greenroom/1/{name}", f"{pool}/greenroom/1/{name}"):
            answer = await client.get(path, headers=bearer("sessions"))
            assert answer.status_code in {400, 403}
        assert (await client.get(f"/greenroom/1/{name}", headers=bearer("management"))).status_code == 200


async def test_pools_that_do_not_serve_are_shown_until_they_are_gone() -> None:
    async with whole() as client:
        await create(client, "works", resource(), None)
        await create(client, "breaks", {**resource(), "tags": {ENGINE_TAG: "broken:"}}, None)
        page = (await client.get("/ui", headers=BROWSER)).text
        assert "Its &lt;cable&gt; is not plugged in." in page
        failed = page[page.index("breaks") :]
        assert "Failed" in failed[: failed.index("cable")]
        assert "pool=works" in page
        assert "pool=breaks" not in page, "there is nothing to see of it"
        assert (await client.get("/ui/pool?pool=breaks", headers=BROWSER)).status_code == 404
        gone = await client.delete(path_of("breaks"), params={"api-version": LATEST_OF_ARM})
        async with asyncio.timeout(30):
            while "InProgress" in (await client.get(gone.headers["Azure-AsyncOperation"])).text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "cable" not in (await client.get("/ui", headers=BROWSER)).text


# A pool of custom containers at the root of the server has its origin


async def echo(_: ScriptedContainer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the head of the request, and try to sign somebody in."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: greenroom-ui-0=of-the-container; Path=/ui\r\nSet-Cookie: own=1\r\n"
        b"Service-Worker-Allowed: /\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head)
    )
    await writer.drain()


@contextlib.asynccontextmanager
async def at_the_root(**options: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    pool = await scripted_pool(ScriptedContainers(echo))
    async with whole({"default": pool}, **options) as client:
        yield client


async def test_a_container_at_the_root_hides_no_management_path(keys: dict[str, Any]) -> None:
    async with at_the_root(**keys) as client:
        forwarded = await client.get("/anything?identifier=user-0001", headers=bearer("sessions"))
        assert forwarded.text.startswith("GET /anything?")
        for path in OF_ALL:
            for method in ("GET", "HEAD", "POST"):
                answer = await client.request(method, f"{path}?identifier=user-0001", headers=bearer("sessions"))
                assert answer.status_code == 403, (method, path)
        for path in ("/metrics", "/ui", "/ui/sessions/stop"):
            url = f"{path}?identifier=user-0001"
            assert (await client.get(url, headers=bearer("metrics"))).status_code == 401
            assert (await client.get(url, headers=BROWSER)).status_code == 401
            assert (await client.get(url, headers=bearer("sessions"))).text.startswith(f"GET {path}?")


async def test_a_container_neither_gets_nor_sets_a_sign_in(keys: dict[str, Any]) -> None:
    async with at_the_root(**keys) as client:
        signed_in = await client.post("/ui/sign-in", data={"key": KEYS["management"]}, headers=FORM)
        cookie = signed_in.headers["set-cookie"].partition(";")[0]
        client.cookies.clear()
        for sent, got in (
            (cookie, None),
            (f"{cookie}; own=1", "own=1"),
            (f"a=b;  {cookie}; c=d;e", "a=b; c=d;e"),
            ("a=b;;c", "a=b;;c"),
        ):
            answer = await client.get("/ui/x?identifier=user-0001", headers={**bearer("sessions"), "cookie": sent})
            lines = [line for line in answer.text.splitlines() if line.lower().startswith("cookie:")]
            assert [line.partition(":")[2].strip() for line in lines] == ([] if got is None else [got])
            assert answer.headers.get_list("set-cookie") == ["own=1"]
            assert "service-worker-allowed" not in answer.headers
            client.cookies.clear()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/sw.js", 403), ("/ui/sw.js", 403), ("/ui/a/sw.js", 403), ("/app/sw.js", 200), ("/uix/s", 200)],
)
async def test_a_service_worker_of_a_container_does_not_reach_the_pages(path: str, status: int) -> None:
    async with at_the_root() as client:
        answer = await client.get(f"{path}?identifier=user-0001", headers={"service-worker": "script"})
        assert answer.status_code == status
