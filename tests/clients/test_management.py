"""The released management client of Azure Container Apps, unmodified: lives of pools in which code runs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.mgmt.appcontainers import ContainerAppsAPIClient
from azure.mgmt.appcontainers.aio import ContainerAppsAPIClient as AsyncClient
from azure.mgmt.appcontainers.models import (
    ContainerType,
    CustomContainerTemplate,
    DynamicPoolConfiguration,
    LifecycleConfiguration,
    ScaleConfiguration,
    SessionContainer,
    SessionContainerResources,
    SessionIngress,
    SessionPool,
    SessionPoolProperties,
    SessionPoolSecret,
    SessionPoolUpdatableProperties,
    SessionPoolUpdatablePropertiesProperties,
)
from serving import GREENROOM

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "greenroom"
IMAGE = "greenroom-test-custom:latest"


@dataclass(frozen=True)
class Credential:
    """As azure-identity's, with the key in a token's place."""

    key: str = field(repr=False)

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == ("https://management.azure.com/.default",)
        return AccessToken(self.key, int(time.time()) + 3600)


@dataclass(frozen=True)
class AsyncCredential:
    """The same for the asynchronous client."""

    key: str = field(repr=False)

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return Credential(self.key).get_token(*scopes)

    async def get_token_info(self, *scopes: str, **_: Any) -> AccessTokenInfo:
        token = Credential(self.key).get_token(*scopes)
        return AccessTokenInfo(token.token, token.expires_on)

    async def close(self) -> None:
        """Has nothing to close."""


@dataclass(frozen=True)
class Server:
    """A running `greenroom serve` with its control plane."""

    url: str
    user: str = field(repr=False)
    manager: str = field(repr=False)
    authority: Path | None

    @property
    def calls(self) -> dict[str, Any]:
        """The options that each call needs: over TLS none."""
        return {} if self.authority else {"enforce_https": False}

    @property
    def options(self) -> dict[str, Any]:
        trust = {"connection_verify": str(self.authority)} if self.authority else {}
        return {"base_url": self.url, **trust}

    def run(self, pool: SessionPool, code: str, **fields: Any) -> Any:
        """What a session of a pool gives for code."""
        assert pool.properties is not None
        endpoint = pool.properties.pool_management_endpoint
        body = {"codeInputType": "Inline", "executionType": "Synchronous", "code": code, **fields}
        return self.call(f"{endpoint}/executions?api-version=2025-10-02-preview&identifier=session-1", body)

    def call(self, url: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self.user}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        context = ssl.create_default_context(cafile=self.authority) if self.authority else None
        request = urllib.request.Request(url, data=data, headers=headers)
        with urllib.request.urlopen(request, context=context, timeout=60) as response:
            return json.loads(response.read())


@contextmanager
def managing(directory: Path, *, tls: bool) -> Generator[Server]:
    user, manager = secrets.token_urlsafe(), secrets.token_urlsafe()
    options = ["--tls-self-signed", "--tls-directory", str(directory / "tls")] if tls else []
    process = subprocess.Popen(
        [GREENROOM, "serve", "--port", "0", *options],
        env={
            **{name: value for name, value in os.environ.items() if name != "GREENROOM_POOL"},
            "XDG_DATA_HOME": str(directory / "data"),
            "GREENROOM_API_KEY": user,
            "GREENROOM_MANAGEMENT_KEY": manager,
            "GREENROOM_PRELOAD": "",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    if not line.startswith("Serving"):
        reason = line + process.communicate()[1]
        if os.environ.get("GREENROOM_REQUIRE_ENGINES"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield Server(line.split()[-1], user, manager, directory / "tls/ca.pem" if tls else None)
    finally:
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert "Traceback" not in errors, errors


@pytest.fixture(scope="module", params=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with managing(tmp_path_factory.mktemp("server"), tls=request.param == "https") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[ContainerAppsAPIClient]:
    with ContainerAppsAPIClient(Credential(server.manager), SUBSCRIPTION, **server.options) as client:
        yield client


def pool_of(kind: str, **properties: Any) -> SessionPool:
    return SessionPool(
        location="local",
        properties=SessionPoolProperties(
            container_type=kind,
            scale_configuration=ScaleConfiguration(max_concurrent_sessions=3, ready_session_instances=1),
            dynamic_pool_configuration=DynamicPoolConfiguration(
                lifecycle_configuration=LifecycleConfiguration(lifecycle_type="Timed", cooldown_period_in_seconds=300)
            ),
            **properties,
        ),
    )


CODE = {
    "PythonLTS": ({"code": "6 * 7"}, "executionResult", 42),
    "NodeLTS": ({"code": "[1, 2, 3].map(x => x * x)"}, "executionResult", "[ 1, 4, 9 ]"),
    "Shell": ({"code": "", "shellCommand": "echo $((6 * 7))"}, "stdout", "42\n"),
}


@pytest.mark.parametrize("kind", CODE)
def test_the_life_of_a_pool(server: Server, client: ContainerAppsAPIClient, kind: str) -> None:
    pools, name = client.container_apps_session_pools, f"life-{kind.lower()}"
    created = pools.begin_create_or_update(GROUP, name, pool_of(kind), **server.calls).result()
    assert created.properties is not None
    assert created.properties.provisioning_state == "Succeeded"
    assert created.properties.container_type == kind
    assert created.properties.dynamic_pool_configuration == pool_of(kind).properties.dynamic_pool_configuration  # type: ignore[union-attr]
    assert pools.get(GROUP, name, **server.calls) == created
    for listed in (pools.list_by_resource_group(GROUP, **server.calls), pools.list_by_subscription(**server.calls)):
        assert {"default", name} <= {pool.name for pool in listed}

    changes = SessionPoolUpdatableProperties(
        tags={"team": "a"},
        properties=SessionPoolUpdatablePropertiesProperties(
            scale_configuration=ScaleConfiguration(max_concurrent_sessions=5, ready_session_instances=0),
            secrets=[SessionPoolSecret(name="key", value="hidden")],
        ),
    )
    changed = pools.begin_update(GROUP, name, changes, **server.calls).result()
    assert changed.tags == {"team": "a"}
    assert changed.properties is not None
    assert changed.properties.scale_configuration == changes.properties.scale_configuration  # type: ignore[union-attr]
    assert [(each.name, each.value) for each in changed.properties.secrets or ()] == [("key", None)]

    fields, output, expected = CODE[kind]
    assert server.run(changed, **fields)["result"][output] == expected
    pools.begin_delete(GROUP, name, **server.calls).result()
    with pytest.raises(ResourceNotFoundError) as missing:
        pools.get(GROUP, name, **server.calls)
    assert missing.value.error is not None
    assert missing.value.error.code == "ResourceNotFound"
    pools.begin_delete(GROUP, name, **server.calls).result()


def test_the_life_of_a_custom_pool(server: Server, client: ContainerAppsAPIClient) -> None:
    inspected = shutil.which("docker") and subprocess.run(
        ["docker", "image", "inspect", IMAGE], capture_output=True, check=False
    )
    if not inspected or inspected.returncode:
        pytest.skip(f"Docker has no image {IMAGE}; the tests of custom containers make it")
    pools = client.container_apps_session_pools
    container = SessionContainer(image=IMAGE, name="c", resources=SessionContainerResources(cpu=0.25, memory="0.5Gi"))
    template = CustomContainerTemplate(containers=[container], ingress=SessionIngress(target_port=8080))
    given = pool_of(ContainerType.CUSTOM_CONTAINER, custom_container_template=template)
    created = pools.begin_create_or_update(GROUP, "custom", given, **server.calls).result()
    assert created.properties is not None
    assert created.properties.custom_container_template == template
    echo = f"{created.properties.pool_management_endpoint}/echo?identifier=session-1"
    assert server.call(echo, {"a": 1})

    missing = CustomContainerTemplate(
        containers=[SessionContainer(image="localhost:1/no/such:image")], ingress=SessionIngress(target_port=80)
    )
    changes = SessionPoolUpdatableProperties(
        properties=SessionPoolUpdatablePropertiesProperties(custom_container_template=missing)
    )
    with pytest.raises(HttpResponseError, match="localhost:1/no/such:image"):
        pools.begin_update(GROUP, "custom", changes, **server.calls).result()
    kept = pools.get(GROUP, "custom", **server.calls)
    assert kept.properties is not None
    assert kept.properties.custom_container_template == template
    assert kept.properties.provisioning_state == "Succeeded"
    assert server.call(echo, {"a": 1})
    pools.begin_delete(GROUP, "custom", **server.calls).result()


async def test_the_life_of_a_pool_with_the_asynchronous_client(server: Server) -> None:
    async with AsyncClient(AsyncCredential(server.manager), SUBSCRIPTION, **server.options) as client:  # type: ignore[arg-type]
        pools = client.container_apps_session_pools
        created = await (
            await pools.begin_create_or_update(GROUP, "aio", pool_of("PythonLTS"), **server.calls)
        ).result()
        assert server.run(created, "6 * 7")["result"]["executionResult"] == 42
        assert "aio" in [pool.name async for pool in pools.list_by_subscription(**server.calls)]
        changed = await (await pools.begin_update(GROUP, "aio", {"tags": {"a": "b"}}, **server.calls)).result()
        assert changed.tags == {"a": "b"}
        await (await pools.begin_delete(GROUP, "aio", **server.calls)).result()
        with pytest.raises(ResourceNotFoundError):
            await pools.get(GROUP, "aio", **server.calls)


def test_errors_arrive_as_errors(server: Server, client: ContainerAppsAPIClient) -> None:
    pools = client.container_apps_session_pools
    with pytest.raises(ResourceExistsError) as declared:
        pools.begin_create_or_update(GROUP, "default", pool_of("PythonLTS"), **server.calls)
    assert declared.value.error is not None
    assert declared.value.error.code == "SessionPoolIsDeclared"
    with pytest.raises(HttpResponseError) as refused:
        pools.begin_create_or_update(GROUP, "a_b", pool_of("PythonLTS"), **server.calls)
    assert refused.value.error is not None
    assert (refused.value.status_code, refused.value.error.code) == (400, "InvalidResourceName")
    template = CustomContainerTemplate(
        containers=[SessionContainer(image="localhost:1/no/such:image")], ingress=SessionIngress(target_port=80)
    )
    given = pool_of(ContainerType.CUSTOM_CONTAINER, custom_container_template=template)
    with pytest.raises(HttpResponseError) as failed:
        pools.begin_create_or_update(GROUP, "no-image", given, **server.calls).result()
    assert "localhost:1/no/such:image" in str(failed.value) or "Docker" in str(failed.value)
    assert pools.get(GROUP, "no-image", **server.calls).properties.provisioning_state == "Failed"  # type: ignore[union-attr]
    pools.begin_delete(GROUP, "no-image", **server.calls).result()
    with ContainerAppsAPIClient(Credential(server.user), SUBSCRIPTION, **server.options) as user:
        with pytest.raises(HttpResponseError) as forbidden:
            user.container_apps_session_pools.get(GROUP, "default", **server.calls)
        assert forbidden.value.status_code == 403
