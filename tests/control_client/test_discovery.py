"""`connect()` with the id of a pool: its server is asked for the endpoint, and for what runs there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import pytest
from azure.core.credentials import AccessToken

import greenroom
from greenroom import ContainerType, InvalidRequest, ServiceFailed
from greenroom.azure import credentials
from greenroom.azure.discovery import discovered
from greenroom.connecting import is_local
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

from .arm import GROUP, Arm, refused, serving_arm, to

ID = f"{GROUP}/ci"


@pytest.fixture(scope="module")
def sessions() -> Generator[str, None, None]:
    """The endpoint of a pool that runs code."""
    with ExitStack() as stack:
        with skipping_without("bubblewrap:"):
            url = stack.enter_context(serving("bubblewrap:", ready_session_instances=0, preload=()))
        yield url


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Generator[Arm, None, None]:
    for name in ("SERVER", "API_KEY", "MANAGEMENT_KEY", "POOL"):
        monkeypatch.delenv(f"GREENROOM_{name}", raising=False)
    with serving_arm() as server:
        yield server


def ready(arm: Arm, endpoint: str, **properties: Any) -> None:
    arm.endpoint = endpoint
    pool = arm.add("ci", containerType="PythonLTS", **properties)
    pool["properties"]["provisioningState"] = "Succeeded"


@pytest.mark.parametrize("way", ["url", "option", "environment", "other case"])
def test_a_pool_is_found_by_its_id(arm: Arm, sessions: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(arm, sessions)
    options: dict[str, Any] = {}
    url = ID
    if way == "url":
        url = f"{arm.url}{ID}"
    elif way == "option":
        monkeypatch.setenv("GREENROOM_SERVER", "http://127.0.0.1:9")
        options["server"] = arm.url
    else:
        monkeypatch.setenv("GREENROOM_SERVER", arm.url)
        url = ID.lower() if way == "other case" else ID
    with greenroom.connect(url, **options) as pool:
        assert pool.session("from-the-id").execute("6 * 7").result == "42"
        assert pool.session("from-the-id").execute("6 * 7").session_restarted is None
    assert len(arm.seen) == 1


async def test_finding_a_pool_does_not_block_the_event_loop(arm: Arm) -> None:
    ready(arm, "http://127.0.0.1:9")
    asked, may_answer = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(_: object) -> None:
        loop.call_soon_threadsafe(asked.set)
        assert may_answer.wait(60)  # which the loop sets, so it runs

    arm.answers.append(wait)
    opening = asyncio.create_task(_open(f"{arm.url}{ID}"))
    await asked.wait()
    may_answer.set()
    await opening


async def _open(url: str) -> None:
    async with greenroom.aconnect(url) as pool:
        assert pool.container_type is ContainerType.PYTHON_LTS


@pytest.mark.parametrize("kind", ContainerType)
def test_the_type_of_a_pool_is_what_its_resource_says(arm: Arm, kind: ContainerType) -> None:
    ready(arm, "http://127.0.0.1:9")
    arm.pools["rg", "ci"]["properties"]["containerType"] = str(kind)
    with greenroom.connect(f"{arm.url}{ID}", container_type="Shell") as pool:
        assert pool.container_type is kind


def test_a_type_that_is_not_known_here_leaves_the_option(arm: Arm) -> None:
    ready(arm, "http://127.0.0.1:9")
    arm.pools["rg", "ci"]["properties"]["containerType"] = "CsharpLTS"
    with greenroom.connect(f"{arm.url}{ID}?container_type=Shell") as pool:
        assert pool.container_type is ContainerType.SHELL


@pytest.mark.parametrize("state", ["InProgress", "Failed", "Canceled", "Deleting"])
def test_a_pool_that_is_not_ready_is_an_error(arm: Arm, state: str) -> None:
    ready(arm, "http://127.0.0.1:9")
    pool = arm.pools["rg", "ci"]
    pool["properties"]["provisioningState"] = state
    arm.answers.append(lambda _: (200, {}, pool))
    with pytest.raises(ServiceFailed, match=f"must be 'Succeeded', not '{state}'"):
        greenroom.connect(f"{arm.url}{ID}", acquire_timeout=0.3 if state == "InProgress" else 30)


def test_a_pool_that_is_being_opened_is_waited_for(arm: Arm) -> None:
    ready(arm, "http://127.0.0.1:9")
    states = ["InProgress", "Updating", "Succeeded"]

    def answer(_: object) -> tuple[int, dict[str, str], Any]:
        arm.pools["rg", "ci"]["properties"]["provisioningState"] = states.pop(0)
        return 200, {}, arm.pools["rg", "ci"]

    arm.answers.append(answer)
    with greenroom.connect(f"{arm.url}{ID}"):
        assert not states


def test_a_missing_pool_is_an_error_that_lists_the_existing_ones(arm: Arm) -> None:
    arm.add("cii")
    with pytest.raises(InvalidRequest, match=r"no pool 'ci' .* Did you mean 'cii'\?"):
        greenroom.connect(f"{arm.url}{ID}")


@pytest.mark.parametrize("key", ["management_key", "api_key"])
def test_a_server_gets_its_key(arm: Arm, key: str) -> None:
    ready(arm, "http://127.0.0.1:9")
    arm.token = "a-key"
    greenroom.connect(f"{arm.url}{ID}", **{key: "a-key"}).close()  # pyright: ignore[reportArgumentType]


def test_a_session_key_is_enough_for_a_greenroom_server(arm: Arm) -> None:
    arm.answers.append(to("GET", refused(403, "AuthorizationFailed", "These credentials are for sessions."), path=ID))
    options: dict[str, Any] = {"api_key": "the-key", "api_version": "2025-10-02-preview"}
    with greenroom.connect(f"{arm.url}{ID}", **options) as pool, pytest.raises(ServiceFailed):
        pool.session("abcd").execute("1")
    assert arm.calls == [f"GET {ID}", f"POST {ID.replace('/providers/Microsoft.App', '')}/executions"]
    arm.answers.append(to("GET", refused(403, "AuthorizationFailed", "Nobody may."), path=ID))
    with pytest.raises(greenroom.AccessDenied, match="Nobody may"):
        greenroom.connect(f"{arm.url}{ID}")


def test_the_management_key_does_not_reach_the_sessions(arm: Arm) -> None:
    with serving_arm() as sessions:
        ready(arm, sessions.url)
        arm.token = "the-management-key"
        with (
            greenroom.connect(
                f"{arm.url}{ID}",
                management_key="the-management-key",
                api_key="the-key",
                api_version="2025-10-02-preview",
            ) as pool,
            pytest.raises(ServiceFailed),
        ):
            pool.session("abcd").execute("1")
    assert {seen.token for seen in sessions.seen} == {"the-key"}


def test_a_credential_provides_a_token_for_each_of_the_two_services(arm: Arm) -> None:
    scopes: list[str] = []

    class Credential:
        def get_token(self, *wanted: str, **_: object) -> AccessToken:
            scopes.extend(wanted)
            return AccessToken(wanted[0], int(time.time()) + 3600)

    with serving_arm() as sessions:
        ready(arm, sessions.url)
        with (
            greenroom.connect(f"{arm.url}{ID}", credential=Credential(), api_version="2025-10-02-preview") as pool,
            pytest.raises(ServiceFailed),
        ):
            pool.session("abcd").execute("1")
    assert scopes == ["https://management.azure.com/.default", "https://dynamicsessions.io/.default"]
    assert {seen.token for seen in arm.seen} == {scopes[0]}
    assert {seen.token for seen in sessions.seen} == {scopes[1]}


ENDPOINTS = [
    ("http://127.0.0.1:1", "http://127.0.0.1:2", True),
    ("http://127.0.0.1:1", "http://localhost:2", True),
    ("https://box.example:1", "https://box.example:2/x", True),
    ("http://127.0.0.1:1", "https://evil.example", False),
    ("https://box.example:1", "https://box.example.evil.example", False),
    ("https://box.example:1", "https://box.example@evil.example", False),
    ("https://box.example:1", "https://eastasia.dynamicsessions.io/x", False),
    ("https://box.example:1", "http://127.0.0.1", False),
    ("https://management.azure.com", "https://eastasia.dynamicsessions.io/x", True),
    ("https://management.azure.com", "https://p.e.eastasia.azurecontainerapps.io", True),
    ("https://management.azure.com", "http://eastasia.dynamicsessions.io/x", False),
    ("https://management.azure.com", "https://management.azure.com/x", False),
    ("https://management.azure.com", "http://127.0.0.1", False),
    ("http://127.0.0.1:1", "", False),
    ("http://127.0.0.1:1", "http://[x", False),
    ("http://127.0.0.1:1", "file:///etc/passwd", False),
]


@pytest.mark.parametrize(("server", "endpoint", "good"), ENDPOINTS)
def test_sessions_get_credentials_only_on_hosts_of_their_server(server: str, endpoint: str, good: bool) -> None:
    resource = {"properties": {"provisioningState": "Succeeded", "poolManagementEndpoint": endpoint}}
    if good:
        assert discovered(resource, server, "ci").endpoint == endpoint
    else:
        with pytest.raises(ServiceFailed, match="The endpoint of the pool 'ci' must be on"):
            discovered(resource, server, "ci")


@pytest.mark.parametrize("resource", [{}, {"properties": 7}, {"properties": {"poolManagementEndpoint": 7}}])
def test_a_resource_without_an_endpoint_is_an_error(resource: dict[str, Any]) -> None:
    with pytest.raises(ServiceFailed):
        discovered(resource, "http://127.0.0.1", "ci")


def test_keys_from_the_environment_are_not_sent_to_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(_: str | None) -> None:
        raise RuntimeError("the default credential was asked for")

    for name in ("API_KEY", "MANAGEMENT_KEY"):
        monkeypatch.setenv(f"GREENROOM_{name}", "a-key-of-this-machine")
    monkeypatch.delenv("GREENROOM_SERVER", raising=False)
    monkeypatch.setattr("greenroom.azure.management.default_credential", default)
    with pytest.raises(greenroom.AccessDenied, match="the default credential was asked for"):
        greenroom.connect(ID)


def test_a_key_from_the_environment_is_not_sent_to_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(_: str | None) -> None:
        raise RuntimeError("the default credential was asked for")

    monkeypatch.setenv("GREENROOM_API_KEY", "a-key-of-this-machine")
    monkeypatch.setattr(credentials, "default_credential", default)
    url = "https://eastasia.dynamicsessions.io/subscriptions/s/resourceGroups/g/sessionPools/p"
    with greenroom.connect(url) as pool, pytest.raises(greenroom.AccessDenied, match="default credential was asked"):
        pool.session("abcd").execute("1")


@pytest.mark.parametrize(
    "url",
    ["/subscriptions/s/resourceGroups/g/sessionPools/ci", "/subscriptions/s", f"{GROUP}", f"{ID}/x", f"{GROUP}/.."],
)
def test_half_an_id_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="must"):
        greenroom.connect(url)


def test_a_server_needs_an_id_and_an_id_one_server() -> None:
    for url in ("http://127.0.0.1:9", f"http://127.0.0.1:9{ID}"):
        with pytest.raises(InvalidRequest, match="server must be used with a pool id"):
            greenroom.connect(url, server="http://127.0.0.1:8")


def test_a_pool_with_an_id_is_not_local() -> None:
    assert not is_local(ID)
    assert not is_local(f"http://127.0.0.1:9{ID}")
