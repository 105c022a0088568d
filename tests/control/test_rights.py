"""Who can manage pools, and who can only use them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.served import LATEST, current, memory_backend, query

from greenroom.arm.resources import ENGINE_TAG
from greenroom.arm.versions import LATEST as LATEST_OF_ARM
from greenroom.errors import InvalidRequest
from greenroom.server.access.keys import digest
from greenroom.server.app import Application, Management
from greenroom.server.control.choices import Engines
from greenroom.server.control.plane import ControlPlane
from greenroom.server.registry import PoolRegistry
from greenroom.server.run import _guards  # pyright: ignore[reportPrivateUsage]
from greenroom.server.settings import ServerSettings
from greenroom.server.state.file import IN_MEMORY, StateFile
from greenroom.server.state.pools import PoolTable

from .plane import path_of, resource

USER, MANAGER = "a key that is for sessions", "a key that manages pools"
CI = path_of("ci")


@contextlib.asynccontextmanager
async def server(**options: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A server with the guards that its options ask for."""
    settings = ServerSettings.parse(options)
    registry = PoolRegistry()
    registry.add("default", await memory_backend())
    async with _guards(settings) as guards:
        plane = await ControlPlane.open(registry, PoolTable(await StateFile.open(IN_MEMORY)), Engines("memory:"))
        management = Management(plane, guards.management)
        app = Application(registry, settings, guards.sessions, metrics_guard=guards.metrics, management=management)
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                yield client
        finally:
            await plane.close()
            await registry.close()


async def manage(client: httpx.AsyncClient, key: str | None, path: str = CI) -> tuple[int, str | None]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    response = await client.put(path, params={"api-version": "2026-07-01"}, json=resource(), headers=headers)
    return response.status_code, response.json().get("error", {}).get("code")


async def use(client: httpx.AsyncClient, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    response = await client.post("/executions", params=query(LATEST), json=current("1"), headers=headers)
    return response.status_code


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    files = {"api_key_file": tmp_path / "users", "management_key_file": tmp_path / "managers"}
    files["api_key_file"].write_text(f"user sha256:{digest(USER)}\n")
    files["management_key_file"].write_text(f"manager sha256:{digest(MANAGER)}\n")
    return files


async def test_the_reason_for_a_pool_that_is_not_serving_is_only_for_managers(keys: dict[str, Path]) -> None:
    async with server(**keys) as client:
        manager, user = ({"Authorization": f"Bearer {key}"} for key in (MANAGER, USER))
        broken = {**resource(), "tags": {ENGINE_TAG: "broken:"}}
        created = await client.put(CI, params={"api-version": LATEST_OF_ARM}, json=broken, headers=manager)
        async with asyncio.timeout(30):
            url = created.headers["Azure-AsyncOperation"]
            while "InProgress" in (await client.get(url, headers=manager)).text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        url = f"{created.json()['properties']['poolManagementEndpoint']}/mcp?identifier=user-0007"
        for headers, status in (({}, 401), ({"x-ms-apikey": "grm_guessed"}, 401), (user, 503)):
            answer = await client.post(url, json={}, headers=headers)
            assert (answer.status_code, "is broken" in answer.text) == (status, status == 503)


async def test_its_urls_are_those_that_clients_use() -> None:
    async with server(public_url="https://greenroom.example.com/") as client:
        created = await client.put(CI, params={"api-version": LATEST_OF_ARM}, json=resource())
        assert created.headers["Azure-AsyncOperation"].startswith("https://greenroom.example.com/subscriptions/")
        endpoint = created.json()["properties"]["poolManagementEndpoint"]
        assert endpoint.startswith("https://greenroom.example.com/subscriptions/")


async def test_without_credentials_programs_can_manage_and_web_pages_cannot() -> None:
    async with server() as client:
        assert (await manage(client, None))[0] == 201
        assert await use(client, None) == 200
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            page = await client.delete(CI, params={"api-version": "2026-07-01"}, headers=headers)
            assert page.status_code == 403


async def test_a_key_is_for_sessions_or_for_management(keys: dict[str, Path]) -> None:
    async with server(**keys) as client:
        assert (await manage(client, MANAGER))[0] == 201
        assert await use(client, USER) == 200
        assert await manage(client, USER) == (403, "AuthorizationFailed")
        assert await use(client, MANAGER) == 401
        assert await manage(client, "another key altogether") == (401, "Unauthorized")
        assert await manage(client, None) == (401, "Unauthorized")
        changed = await client.get(CI, params={"api-version": "2026-07-01"}, headers=_with(MANAGER))
        assert changed.json()["systemData"]["createdBy"] == "manager"


def _with(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "path",
    [
        CI,
        CI.replace("subscriptions", "%73ubscriptions"),
        CI.replace("providers", "PROVIDERS"),
        CI.replace("Microsoft.App", "Microsoft%2EApp"),
        CI + "/",
        path_of(),
        "/subscriptions/x/providers/Microsoft.Other/things",
    ],
)
async def test_no_spelling_of_a_path_is_managed_with_a_key_for_sessions(keys: dict[str, Path], path: str) -> None:
    async with server(**keys) as client:
        status, _ = await manage(client, USER, path)
        assert status in {400, 403}, "400: a path that is no operation"
        listed = await client.get(path_of(), params={"api-version": "2026-07-01"}, headers=_with(MANAGER))
        assert [pool["name"] for pool in listed.json()["value"]] == ["default"]


async def test_credentials_only_for_sessions_close_the_control_plane(keys: dict[str, Path]) -> None:
    async with server(api_key_file=keys["api_key_file"]) as client:
        for key in (USER, MANAGER, None):
            refused = await client.get(CI, params={"api-version": "2026-07-01"}, headers=_with(key) if key else {})
            assert refused.status_code == 403
            assert "--management-key-file, GREENROOM_MANAGEMENT_KEY" in refused.json()["error"]["message"]
        assert await use(client, USER) == 200


async def test_a_management_key_alone_leaves_sessions_open(keys: dict[str, Path]) -> None:
    async with server(management_key_file=keys["management_key_file"]) as client:
        assert await use(client, None) == 200
        assert (await manage(client, None))[0] == 401
        assert (await manage(client, MANAGER))[0] == 201


async def test_the_key_can_be_in_the_environment(monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]) -> None:
    monkeypatch.setenv("GREENROOM_MANAGEMENT_KEY", MANAGER)
    async with server(api_key_file=keys["api_key_file"]) as client:
        assert (await manage(client, MANAGER))[0] == 201
        assert await use(client, MANAGER) == 401


async def test_a_key_for_metrics_opens_nothing_else(tmp_path: Path, keys: dict[str, Path]) -> None:
    scraper = "a key that reads metrics"
    keys["metrics_key_file"] = tmp_path / "scrapers"
    keys["metrics_key_file"].write_text(f"scraper sha256:{digest(scraper)}\n")
    async with server(**keys) as client:

        async def read(key: str, path: str = "/metrics") -> int:
            return (await client.get(path, headers={"Authorization": f"Bearer {key}"})).status_code

        assert [await read(key) for key in (scraper, USER, MANAGER)] == [200, 200, 401]
        assert await use(client, scraper) == 401
        assert (await manage(client, scraper))[0] == 401
        assert [await read(scraper, path) for path in ("/metrics/", "/mcp", "/session", CI)] == [401] * 4
        assert (await client.post("/mcp", json={}, headers={"x-ms-apikey": scraper})).status_code == 401
    keys["metrics_key_file"].write_text(f"scraper sha256:{digest(MANAGER)}\n")
    with pytest.raises(InvalidRequest, match="not for several of them"):
        async with server(**keys):
            pass


async def test_keys_that_break_a_rule_do_not_start_a_server(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    monkeypatch.setenv("GREENROOM_MANAGEMENT_KEY", USER)
    with pytest.raises(InvalidRequest, match="for sessions, management or metrics"):
        async with server(api_key_file=keys["api_key_file"]):
            pass
    with pytest.raises(InvalidRequest, match=r"must listen on 127\.0\.0\.1"):
        async with server(host="0.0.0.0", management_key_file=keys["management_key_file"]):
            pass
