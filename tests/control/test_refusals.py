"""What the control plane refuses, in the form of Azure's errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from greenroom.arm.resources import DECLARED_TAG, ENGINE_TAG
from greenroom.server.routes.arm import quoted

from .plane import Control, control, path_of, resource
from .test_pools import CI, custom

PROBE = {"type": "Liveness", "httpGet": {"port": 80}}


def code_and_target(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert response.headers["x-ms-error-code"] == error["code"]
    return response.status_code, error["code"], error.get("target")


@pytest.mark.parametrize(
    ("path", "code", "target"),
    [
        (path_of("ci", subscription="mine"), "InvalidSubscriptionId", "subscriptionId"),
        (path_of("ci", group="ends."), "InvalidResourceGroup", "resourceGroupName"),
        (path_of("ci", group="a" * 91), "InvalidResourceGroup", "resourceGroupName"),
        (path_of("ci", group="a%20b"), "InvalidResourceGroup", "resourceGroupName"),
        (path_of("1st"), "InvalidResourceName", "name"),
        (path_of("a_b"), "InvalidResourceName", "name"),
        (path_of("a-"), "InvalidResourceName", "name"),
        (path_of("%2e%2e"), "InvalidResourceName", "name"),
        (path_of("a%2Fb"), "InvalidResourceName", "name"),
        (path_of("a" * 64), "InvalidResourceName", "name"),
        (path_of("n%C3%A4me"), "InvalidResourceName", "name"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_names_keep_the_rules_of_arm(server: Control, method: str, path: str, code: str, target: str) -> None:
    body = resource() if method == "PUT" else None
    assert code_and_target(await server.call(method, path, body)) == (400, code, target)


async def test_missing_resources_and_methods_are_refused(server: Control) -> None:
    other = path_of().replace("sessionPools", "containerApps")
    operation = f"/subscriptions/{'0' * 8}-0000-0000-0000-{'0' * 12}/providers/Microsoft.App/locations/local"
    for method, path, expected in [
        ("PATCH", CI, (404, "ResourceNotFound", None)),
        ("GET", other, (404, "InvalidResourceType", None)),
        ("GET", f"{operation}/operationStatuses/1", (404, "OperationNotFound", None)),
        ("POST", CI, (405, "MethodNotAllowed", None)),
        ("PUT", path_of(), (405, "MethodNotAllowed", None)),
        ("POST", f"{CI}/fetchMCPServerCredentials", (404, "ResourceNotFound", None)),
        ("GET", f"{CI}/fetchMCPServerCredentials", (405, "MethodNotAllowed", None)),
        ("POST", f"{CI}/stop", (404, "InvalidResourceType", None)),
    ]:
        assert code_and_target(await server.call(method, path, {} if method == "PATCH" else None)) == expected


@pytest.mark.parametrize(
    ("version", "code"),
    [("2023-05-01", "InvalidApiVersionParameter"), ("", "InvalidApiVersionParameter")],
)
async def test_versions_are_those_of_session_pools(server: Control, version: str, code: str) -> None:
    refused = await server.call("GET", CI, **{"api-version": version})
    assert code_and_target(refused) == (400, code, "api-version")
    assert code_and_target(await server.client.get(CI)) == (400, "MissingApiVersionParameter", "api-version")


@pytest.mark.parametrize(
    ("body", "target", "message"),
    [
        ([], "The template", "must be an object"),
        ({}, "properties", "must have properties"),
        ({**resource(), "locaton": "x"}, "locaton", "Did you mean 'location'?"),
        ({**resource(), "name": "other"}, "name", "must equal that in the path, not 'other'"),
        ({**resource(), "tags": {"a": 1}}, "tags.a", "must be a string"),
        ({**resource(), "tags": {str(n): "" for n in range(51)}}, "tags", "must have at most 50"),
        ({**resource(), "tags": {DECLARED_TAG: "true"}}, f"tags.{DECLARED_TAG}", "must not be set"),
        (resource(secrets=[1]), "properties.secrets[0]", "must be an object"),
        (resource(secrets=[{"name": ["a"]}]), "properties.secrets[0].name", "must be a string"),
        ({**resource(), "tags": {ENGINE_TAG: "https://x"}}, f"tags.{ENGINE_TAG}", "must be a local one"),
        ({**resource(), "tags": {ENGINE_TAG: "rocket:"}}, f"tags.{ENGINE_TAG}", "not 'rocket'"),
        (
            {**resource(), "tags": {ENGINE_TAG: "memory:?template=/etc/passwd"}},
            f"tags.{ENGINE_TAG}",
            "must not have the option template",
        ),
        (
            {**resource(), "tags": {ENGINE_TAG: "memory:?allow_unfiltered=true"}},
            f"tags.{ENGINE_TAG}",
            "must not have the option allow_unfiltered",
        ),
        (
            {**resource(), "tags": {ENGINE_TAG: "memory:?log=/etc/cron.d/x"}},
            f"tags.{ENGINE_TAG}",
            "must not have the option log",
        ),
        (
            {**resource(), "tags": {ENGINE_TAG: "memory:?packages=polars"}},
            f"tags.{ENGINE_TAG}",
            "must not have the option packages: only the server's owner can set it, with --engine.",
        ),
        (
            {**resource(), "tags": {ENGINE_TAG: "memory:?preload=antigravity"}},
            f"tags.{ENGINE_TAG}",
            "must not have the option preload: only the server's owner can set it, with --engine.",
        ),
        (
            {**resource(), "tags": {ENGINE_TAG: "memory:?memory_reserve=0"}},
            f"tags.{ENGINE_TAG}",
            "must not have the option memory_reserve: only the server's owner can set it, with --engine.",
        ),
        ({**resource(), "identity": {"kind": 1}}, "identity.kind", "is unknown"),
        (resource("JavaLTS"), "properties.containerType", "must be one of PythonLTS"),
        (resource(poolManagementType="Manual"), "properties.poolManagementType", "must be Dynamic, not 'Manual'"),
        (
            resource(managedIdentitySettings=[{"identity": "i", "lifecycle": "Main"}]),
            "properties.managedIdentitySettings[0].lifecycle",
            "must be None, not 'Main'",
        ),
        (
            resource(scaleConfiguration={"maxConcurrentSessions": 0}),
            "properties.scaleConfiguration.maxConcurrentSessions",
            "properties.scaleConfiguration.maxConcurrentSessions must be greater than or equal to 1, not 0.",
        ),
        (
            resource(scaleConfiguration={"maxConcurrentSessions": 1, "readySessionInstances": 2}),
            "properties.scaleConfiguration.readySessionInstances",
            "readySessionInstances (2) must not exceed properties.scaleConfiguration.maxConcurrentSessions (1)",
        ),
        (
            resource(scaleConfiguration={"maxConcurrentSessions": {"a": 1}}),
            "properties.scaleConfiguration.maxConcurrentSessions",
            "must be a number",
        ),
        (
            resource(customContainerTemplate={"containers": []}),
            "properties.customContainerTemplate",
            "must be used with",
        ),
        (resource("CustomContainer"), "properties.customContainerTemplate", "must have"),
        (custom(image="no image"), "properties.customContainerTemplate.containers[0].image", "must be the name of an"),
        (
            custom(probes=[{**PROBE, "periodSeconds": -1}]),
            "properties.customContainerTemplate.containers[0].probes",
            "must be greater than 0",
        ),
        (
            custom(resources={"memory": "much"}),
            "properties.customContainerTemplate.containers[0].resources.memory",
            "must be a number of bytes",
        ),
        (
            resource(secrets=[{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]),
            "properties.secrets",
            "must not repeat a name",
        ),
    ],
)
async def test_bodies_are_refused_with_the_property(server: Control, body: Any, target: str, message: str) -> None:
    refused = await server.call("PUT", CI, body)
    assert refused.status_code == 400
    assert message in refused.json()["error"]["message"]
    assert refused.json()["error"]["target"] == target
    assert (await server.call("GET", CI)).status_code == 404


async def test_a_number_that_does_not_fit_the_tag_is_refused(server: Control) -> None:
    body = {
        **resource(scaleConfiguration={"maxConcurrentSessions": 10, "readySessionInstances": 3}),
        "tags": {ENGINE_TAG: "memory:?ready_session_instances=auto&max_ready_session_instances=2"},
    }
    refused = await server.call("PUT", CI, body)
    assert refused.status_code == 400
    message = refused.json()["error"]["message"]
    assert "min_ready_session_instances (3) must not exceed max_ready_session_instances (2)" in message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 5000, b'{"a":' + b"1" * 5000 + b"}"])
async def test_a_body_that_is_not_json(server: Control, content: bytes) -> None:
    refused = await server.client.put(CI, params={"api-version": "2026-07-01"}, content=content)
    assert code_and_target(refused) == (400, "InvalidRequestContent", None)


async def test_the_console_is_an_option_only_of_custom_containers(server: Control) -> None:
    refused = await server.call("PUT", CI, {**resource(), "tags": {ENGINE_TAG: "memory:?console_log=true"}})
    assert refused.status_code == 400
    assert "console_log must be used with the container type CustomContainer" in refused.text
    async with control(engine="memory:?console_log=true") as other:
        await other.done("PUT", CI, resource())


async def test_the_kind_of_a_pool_cannot_be_changed(server: Control) -> None:
    await server.done("PUT", CI, resource())
    for method, body, target in (
        ("PUT", resource("Shell"), "properties.containerType"),
        ("PATCH", {"properties": {"containerType": "Shell"}}, "properties.containerType"),
        ("PATCH", {"properties": {"environmentId": "/e"}}, "properties.environmentId"),
        ("PATCH", {"location": "elsewhere"}, "location"),
    ):
        assert code_and_target(await server.call(method, CI, body)) == (400, "PropertyChangeNotAllowed", target)
    same = {"location": "Local", "properties": {"containerType": "PythonLTS", "environmentId": None}}
    await server.done("PATCH", CI, same)


async def test_values_that_azure_would_refuse_are_warnings_or_errors_of_a_strict_server() -> None:
    body = resource(dynamicPoolConfiguration={"executionType": "Timed", "cooldownPeriodInSeconds": 5})
    target = "properties.dynamicPoolConfiguration.lifecycleConfiguration.cooldownPeriodInSeconds"
    async with control() as server:
        accepted = await server.call("PUT", CI, body)
        assert accepted.headers["warning"] == f'299 greenroom "{target}=5 works here, but Azure accepts 300 to 3,600."'
        assert (await server.end_of(accepted))["status"] == "Succeeded"
    async with control(strict=True) as server:
        refused = await server.call("PUT", CI, body)
        assert code_and_target(refused) == (400, "InvalidParameterValueInSessionPool", target)
        assert "warning" not in (await server.call("PUT", CI, resource())).headers


def test_a_long_warning_ends_with_dots_and_its_quote() -> None:
    assert json.loads(quoted("a" * 500)) == "a" * 500
    assert json.loads(quoted("é" * 501)) == "é" * 500 + "..."
    assert quoted("é" * 501).isascii()
