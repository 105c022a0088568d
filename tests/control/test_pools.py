"""The life of pools: created, used, changed, listed and deleted, as Azure Resource Manager has it."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import pytest
from tests.server.served import memory_backend

from greenroom.arm.ids import LOCAL_SUBSCRIPTION
from greenroom.arm.resources import ENGINE_TAG
from greenroom.arm.versions import API_VERSIONS
from greenroom.server.access.keys import ApiKeys, digest
from greenroom.server.control.declared import declared_resource
from greenroom.server.registry import PoolRegistry

from .plane import OTHER, Control, control, path_of, resource

CI = path_of("ci")


async def test_a_pool_is_created_used_changed_and_deleted(server: Control) -> None:
    body = resource(dynamicPoolConfiguration={"lifecycleConfiguration": {"lifecycleType": "Timed"}})
    created = await server.call("PUT", CI, body)
    assert created.status_code == 201
    assert created.json()["properties"]["provisioningState"] == "InProgress"
    assert (await server.end_of(created))["status"] == "Succeeded"
    pool = (await server.call("GET", CI)).json()
    assert (pool["id"], pool["name"], pool["type"]) == (CI, "ci", "Microsoft.App/sessionPools")
    assert pool["properties"].items() >= body["properties"].items()
    assert pool["properties"]["provisioningState"] == "Succeeded"
    endpoint = f"http://localhost/subscriptions/{LOCAL_SUBSCRIPTION}/resourceGroups/greenroom/sessionPools/ci"
    assert pool["properties"]["poolManagementEndpoint"] == endpoint

    assert (await server.run("x = 41", pool)).is_success
    changed = await server.done("PATCH", CI, {"tags": {"team": "a"}, "properties": {"scaleConfiguration": scale(7)}})
    assert changed["tags"] == {"team": "a"}
    assert changed["properties"]["scaleConfiguration"] == {"maxConcurrentSessions": 7, "readySessionInstances": 0}
    assert (await server.run("x + 1", pool)).json()["result"]["executionResult"] == 42, "the session has stayed"
    replaced = await server.done("PUT", CI, resource())
    assert "tags" not in replaced
    assert replaced["systemData"]["createdAt"] == pool["systemData"]["createdAt"]

    deleted = await server.call("DELETE", CI)
    assert (deleted.status_code, deleted.content) == (202, b"")
    assert (await server.end_of(deleted))["status"] == "Succeeded"
    missing = await server.call("GET", CI)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "ResourceNotFound")
    assert (await server.call("DELETE", CI)).status_code == 204
    refused = await server.run("x", pool)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "SessionPoolNotFound"), "not the default one"
    assert (await server.done("PUT", CI, resource()))["properties"]["provisioningState"] == "Succeeded"
    assert (await server.run("x", pool)).json()["status"] == "Failed", "another pool of that name has other sessions"


async def test_the_key_of_a_pools_mcp_server_is_fetched_and_opens_nothing_else(server: Control) -> None:
    pool = await server.done("PUT", CI, resource(mcpServerSettings={"isMcpServerEnabled": True}))
    fetch = f"{CI}/fetchMCPServerCredentials"
    key = (await server.call("POST", fetch)).json()["apiKey"]
    assert (await server.call("POST", fetch)).json() == {"apiKey": key}
    await server.done("PUT", path_of("other"), resource())
    assert (await server.call("POST", path_of("other") + "/fetchMCPServerCredentials")).json()["apiKey"] != key
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    endpoint = f"{pool['properties']['poolManagementEndpoint']}/mcp"
    listed = await server.client.post(endpoint, json=call, headers={"x-ms-apikey": key})
    assert "runPythonCodeInRemoteEnvironment" in {tool["name"] for tool in listed.json()["result"]["tools"]}
    await server.done("PATCH", CI, {"properties": {"mcpServerSettings": {"mcpServerApiKeyDisabled": True}}})
    refused = await server.call("POST", fetch)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "McpServerApiKeyDisabled")


async def test_a_key_that_was_fetched_is_of_no_use_once_keys_are_disabled() -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    fetch = f"{CI}/fetchMCPServerCredentials"
    async with control(guard=ApiKeys({"ann": digest("ann-key-0123456789")})) as server:

        async def disable(disabled: bool) -> None:
            properties = {"mcpServerSettings": {"mcpServerApiKeyDisabled": disabled}}
            await server.done("PATCH", CI, {"properties": properties})

        async def status(key: str) -> int:
            return (await server.client.post(endpoint, json=call, headers={"x-ms-apikey": key})).status_code

        pool = await server.done("PUT", CI, resource())
        endpoint = f"{pool['properties']['poolManagementEndpoint']}/mcp"
        key = (await server.call("POST", fetch)).json()["apiKey"]
        assert await status(key) == 200
        await disable(True)
        assert await status(key) == 401
        await disable(False)
        assert await status(key) == 401
        assert await status((await server.call("POST", fetch)).json()["apiKey"]) == 200


def scale(maximum: int) -> dict[str, int]:
    return {"maxConcurrentSessions": maximum}


async def test_pools_in_other_groups_and_subscriptions_are_different_pools(server: Control) -> None:
    places: list[dict[str, str]] = [{}, {"group": "other"}, {"subscription": OTHER}, {"group": "with.(all)-of_it"}]
    pools = [await server.done("PUT", path_of("ci", **place), resource()) for place in places]
    for number, pool in enumerate(pools):
        assert (await server.run(f"x = {number}", pool)).is_success
    found = [(await server.run("x", pool)).json()["result"]["executionResult"] for pool in pools]
    assert found == [0, 1, 2, 3]
    elsewhere = {"properties": {"poolManagementEndpoint": pools[0]["properties"]["poolManagementEndpoint"] + "2"}}
    assert (await server.run("x", elsewhere)).status_code == 200, "a name that no pool had is the declared one's"


async def test_names_differ_by_more_than_case(server: Control) -> None:
    await server.done("PUT", path_of("Ci"), resource())
    again = await server.call("PUT", path_of("cI").replace("resourceGroups", "resourcegroups"), resource())
    assert again.status_code == 200
    await server.end_of(again)
    assert (await server.call("GET", path_of("CI", group="GREENROOM"))).json()["name"] == "Ci"


@pytest.mark.parametrize("version", API_VERSIONS)
async def test_the_life_cycle_has_the_form_of_the_version(server: Control, version: str) -> None:
    old = {"executionType": "Timed", "cooldownPeriodInSeconds": 400}
    new = {"lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 400}}
    pool = await server.done(
        "PUT", CI, resource(dynamicPoolConfiguration=old if version < "2025" else new), **{"api-version": version}
    )
    assert pool["properties"]["dynamicPoolConfiguration"] == (old if version < "2025" else new)
    for other, form in (("2024-08-02-preview", old), ("2026-07-01", new)):
        seen = (await server.call("GET", CI, **{"api-version": other})).json()
        assert seen["properties"]["dynamicPoolConfiguration"] == form


async def test_lists_have_pages_and_the_declared_pools(server: Control) -> None:
    names = [f"pool-{number:03}" for number in range(100)]
    accepted = await asyncio.gather(*(server.call("PUT", path_of(name), resource()) for name in names))
    assert {each.status_code for each in accepted} == {201}
    assert {(await server.end_of(each))["status"] for each in accepted} == {"Succeeded"}
    await server.done("PUT", path_of("elsewhere", group="other"), resource())
    pages = [await server.call("GET", path_of())]
    while (link := pages[-1].json().get("nextLink")) is not None:
        assert link.startswith("http://localhost/")
        pages.append(await server.client.get(link))
    found = [pool for page in pages for pool in page.json()["value"]]
    assert [len(page.json()["value"]) for page in pages] == [100, 1]
    assert [pool["name"] for pool in found] == ["default", *names]
    assert found[0]["tags"] == {"greenroom:declared": "true", ENGINE_TAG: "memory:"}
    everywhere = f"/subscriptions/{LOCAL_SUBSCRIPTION}/providers/Microsoft.App/sessionPools"
    whole = (await server.call("GET", everywhere)).json()
    second = (await server.client.get(whole["nextLink"])).json()
    assert [pool["name"] for pool in second["value"]] == ["pool-099", "elsewhere"]
    assert (await server.call("GET", path_of(subscription=OTHER))).json() == {"value": []}


@pytest.mark.parametrize(("method", "body"), [("PUT", resource()), ("PATCH", {}), ("DELETE", None)])
async def test_a_declared_pool_can_only_be_changed_where_it_is_declared(
    server: Control, method: str, body: Any
) -> None:
    refused = await server.call(method, path_of("Default"), body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "SessionPoolIsDeclared")
    assert "must be changed where it is declared" in refused.json()["error"]["message"]


async def test_a_second_change_waits_for_the_end_of_the_first(server: Control) -> None:
    first = await server.call("PUT", CI, resource())
    for method, body in (("PUT", resource()), ("PATCH", {})):
        second = await server.call(method, CI, body)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "OperationNotAllowed")
    assert (await server.end_of(first))["status"] == "Succeeded"
    answers = await asyncio.gather(*(server.call("PATCH", CI, {"tags": {"n": str(n)}}) for n in range(10)))
    (taken,) = [answer for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} == {202, 409}
    await server.end_of(taken)
    assert (await server.call("GET", CI)).json()["tags"] == taken.json()["tags"]


async def test_a_change_whose_client_disconnected_is_not_started_twice(server: Control) -> None:
    released = threading.Event()
    blocked = asyncio.create_task(server.file.read(lambda _: released.wait(60)))  # the next write waits for it
    first = asyncio.create_task(server.call("PUT", CI, resource()))
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.wait([first])
    second = await server.call("PUT", CI, resource())
    released.set()
    await blocked
    async with asyncio.timeout(30):
        while (await server.call("GET", CI)).status_code == 404:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (second.status_code, second.json()["error"]["code"]) == (409, "OperationNotAllowed")
    assert (await server.settled(CI))["properties"]["provisioningState"] == "Succeeded", "the first one was accepted"


async def test_a_pool_that_is_being_created_can_be_deleted(server: Control) -> None:
    created = await server.call("PUT", CI, resource())
    await server.done("DELETE", CI)
    assert (await server.end_of(created))["status"] in {"Succeeded", "Canceled"}
    assert (await server.call("GET", CI)).status_code == 404


async def test_deleting_a_pool_ends_its_executions(server: Control) -> None:
    pool = await server.done("PUT", CI, resource())
    running = asyncio.create_task(server.run("import time; time.sleep(60)", pool))
    await asyncio.sleep(0.2)
    await server.done("DELETE", CI)
    async with asyncio.timeout(60):
        ended = await running
    assert ended.status_code == 410
    assert "its pool was closed" in ended.json()["error"]["message"]


@pytest.mark.parametrize("engine", ["broken:", "lame:?pids=99"])
async def test_an_update_that_fails_leaves_the_pool_as_it_was(server: Control, engine: str) -> None:
    ready = {"maxConcurrentSessions": 3, "readySessionInstances": 1}
    before = await server.done("PUT", CI, resource(scaleConfiguration=ready))
    assert (await server.run("x = 1", before)).is_success
    refused = await server.end_of(await server.call("PATCH", CI, {"tags": {ENGINE_TAG: engine}}))
    assert refused["status"] == "Failed"
    assert refused["error"]["code"] == "EngineUnavailable"
    assert re.search("is broken|with 99 processes does not start", refused["error"]["message"])
    after = (await server.call("GET", CI)).json()
    assert "tags" not in after
    assert after["properties"] == before["properties"]
    for identifier, code in (("session", "x"), ("another", "1")):
        result = (await server.run(code, after, identifier)).json()
        assert result["result"]["executionResult"] == 1


async def test_the_tag_of_the_engine_lets_the_ready_sandboxes_follow_demand_from_azures_number_on(
    server: Control,
) -> None:
    ready = {"maxConcurrentSessions": 10, "readySessionInstances": 1}
    options = "ready_session_instances=auto&ready_wait_target=0&max_ready_session_instances=5"
    body = {**resource(scaleConfiguration=ready), "tags": {ENGINE_TAG: f"memory:?{options}"}}
    pool = await server.done("PUT", CI, body)
    assert pool["properties"]["scaleConfiguration"] == ready, "a number, as in Azure"
    status = f"{pool['properties']['poolManagementEndpoint']}/greenroom/1/status"
    found = (await server.client.get(status)).json()
    assert (found["ready_target"], found["ready_reason"]) == (1, "floor")
    await asyncio.gather(*(server.run("1", pool, f"session-{number}") for number in range(5)))
    found = (await server.client.get(status)).json()
    assert 1 < found["ready_target"] <= 5
    await server.done("PATCH", CI, {"tags": {ENGINE_TAG: "memory:"}})
    found = (await server.client.get(status)).json()
    assert (found["ready_target"], found["ready_reason"]) == (1, "fixed")


async def test_a_declared_pool_that_follows_demand_shows_its_minimum_of_ready_sandboxes() -> None:
    pools = PoolRegistry()
    try:
        backend = await memory_backend(ready_session_instances="auto", min_ready_session_instances=0)
        shown = declared_resource(pools.add("default", backend))
    finally:
        await pools.close()
    assert shown.properties["scaleConfiguration"] == {"maxConcurrentSessions": 100, "readySessionInstances": 0}
    assert shown.engine == "memory:?ready_session_instances=auto"


async def test_an_update_is_made_although_the_engine_before_does_not_close(server: Control) -> None:
    before = await server.done("PUT", CI, {**resource(), "tags": {ENGINE_TAG: "stuck:"}})
    after = await server.done("PATCH", CI, {"tags": {ENGINE_TAG: "memory:"}})
    assert (before["tags"], after["tags"]) == ({ENGINE_TAG: "stuck:"}, {ENGINE_TAG: "memory:"})
    assert (await server.run("1", after)).is_success


@pytest.mark.parametrize("engine", ["broken:", "lame:?pids=99"])
async def test_a_pool_that_cannot_be_created_states_the_reason(server: Control, engine: str) -> None:
    ready = {"maxConcurrentSessions": 3, "readySessionInstances": 1}
    body = {**resource(scaleConfiguration=ready), "tags": {ENGINE_TAG: engine}}
    ended = await server.end_of(await server.call("PUT", CI, body))
    assert ended["status"] == "Failed"
    pool = (await server.call("GET", CI)).json()
    assert pool["properties"]["provisioningState"] == "Failed"
    assert pool["properties"]["provisioningError"] == ended["error"]
    refused = await server.run("1", pool)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "SessionPoolNotReady")
    assert ended["error"]["message"] in refused.json()["error"]["message"]
    mended = await server.done("PUT", CI, resource())
    assert mended["properties"]["provisioningState"] == "Succeeded"
    assert "provisioningError" not in mended["properties"]
    assert (await server.run("1", mended)).is_success


async def test_a_pool_without_an_engine_gets_the_best_one_that_works() -> None:
    async with control(engine=None) as server:
        assert (await server.run("1", await server.done("PUT", CI, resource()))).is_success


async def test_a_custom_container_needs_an_engine_that_supports_it(server: Control) -> None:
    ended = await server.end_of(await server.call("PUT", CI, custom()))
    assert ended["error"]["message"] == "The engine memory cannot run custom containers, such as 'example/image:1'."


def custom(**changes: Any) -> dict[str, Any]:
    template = {"containers": [{"image": "example/image:1", "name": "c", **changes}], "ingress": {"targetPort": 80}}
    return resource("CustomContainer", customContainerTemplate=template)
