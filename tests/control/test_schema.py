"""Whatever a client sends: no error of the server's own, and no property that is lost on its way round."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.arm.ids import PoolId
from greenroom.arm.resources import Facts, Resource, decode_resource, encode_resource, patched
from greenroom.arm.versions import API_VERSIONS

from .plane import OTHER, control, path_of
from .test_pools import CI

POOL = PoolId(OTHER, "group", "ci")

texts = st.text(st.characters(codec="utf-8"), max_size=8)
names = st.text("abcdefghij-", min_size=1, max_size=8)


def some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def probe(kind: str) -> st.SearchStrategy[Any]:
    port = {"port": st.integers(1, 65535)}
    header = st.fixed_dictionaries({"name": names, "value": names})
    times = {
        "initialDelaySeconds": st.integers(0, 60),
        "periodSeconds": st.integers(1, 240),
        "timeoutSeconds": st.integers(1, 240),
        "failureThreshold": st.integers(1, 10),
        "terminationGracePeriodSeconds": st.integers(0, 3600),
    }
    http = some({**port, "path": st.just("/x"), "scheme": st.just("HTTP"), "httpHeaders": st.lists(header, max_size=2)})
    target = st.one_of(st.fixed_dictionaries({"httpGet": http}), st.fixed_dictionaries({"tcpSocket": some(port)}))
    return st.builds(lambda *parts: {"type": kind} | parts[0] | parts[1], target, some(times))


secrets: st.SearchStrategy[Any] = st.dictionaries(names, texts, max_size=3).map(
    lambda found: [{"name": name, "value": value} for name, value in found.items()]
)
containers: st.SearchStrategy[Any] = st.builds(
    lambda container, probes: [{"image": "example/image:1", **container, **({"probes": probes} if probes else {})}],
    some(
        {
            "name": texts,
            "command": st.lists(texts, max_size=2),
            "args": st.lists(texts, max_size=2),
            "env": st.lists(st.fixed_dictionaries({"name": names, "value": texts}), max_size=2),
            "resources": some({"cpu": st.sampled_from([0.25, 1, 2.0]), "memory": st.sampled_from(["0.5Gi", "1Gi"])}),
        }
    ),
    st.lists(st.sampled_from(["Startup", "Liveness"]), unique=True, max_size=2).flatmap(
        lambda kinds: st.tuples(*map(probe, kinds)).map(list)
    ),
)
template: st.SearchStrategy[Any] = st.builds(
    lambda containers, ingress: {"containers": containers, **ingress},
    containers,
    some({"ingress": some({"targetPort": st.integers(1, 65535)})}),
)
lifecycle: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries({"lifecycleType": st.just("Timed"), "cooldownPeriodInSeconds": st.integers(300, 3600)}),
    some({"lifecycleType": st.just("OnContainerExit"), "maxAlivePeriodInSeconds": st.integers(1, 9999)}),
)
common: st.SearchStrategy[Any] = some(
    {
        "environmentId": texts,
        "poolManagementType": st.just("Dynamic"),
        "scaleConfiguration": st.integers(1, 600).flatmap(
            lambda most: some(
                {"maxConcurrentSessions": st.just(most), "readySessionInstances": st.integers(0, min(most, 2))}
            )
        ),
        "secrets": secrets,
        "dynamicPoolConfiguration": some({"lifecycleConfiguration": lifecycle}),
        "sessionNetworkConfiguration": some({"status": st.sampled_from(["EgressEnabled", "EgressDisabled"])}),
        "managedIdentitySettings": st.lists(some({"identity": texts}).map(lambda i: {**i, "lifecycle": "None"})),
        "mcpServerSettings": some({"isMcpServerEnabled": st.booleans(), "mcpServerApiKeyDisabled": st.booleans()}),
    }
)
properties: st.SearchStrategy[Any] = st.one_of(
    st.builds(lambda kind, rest: {"containerType": kind, **rest}, st.sampled_from(["PythonLTS", "Shell"]), common),
    st.builds(
        lambda template, rest: {"containerType": "CustomContainer", "customContainerTemplate": template, **rest},
        template,
        common,
    ),
)
identity: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"type": st.sampled_from(["None", "SystemAssigned", "UserAssigned"])},
    optional={"userAssignedIdentities": st.dictionaries(names, st.just({}), max_size=2)},
)
resources: st.SearchStrategy[Any] = st.builds(
    lambda properties, rest: {"properties": properties, **rest},
    properties,
    some({"location": names, "tags": st.dictionaries(names, texts, max_size=3), "identity": identity}),
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def spoilt(draw: st.DrawFn) -> Any:
    """A resource in which one value, anywhere, is another one."""
    resource: Any = draw(resources)
    node: Any = resource
    while True:
        fields = isinstance(node, dict)
        key: Any = draw(st.sampled_from([*node, "new"] if fields else list(range(len(node)))))
        inner: Any = None if key == "new" and key not in node else node[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        node = inner
    node[key] = draw(anything)
    return resource


def written(resource: Resource, version: str = API_VERSIONS[-1]) -> dict[str, Any]:
    return encode_resource(POOL, resource, Facts("Succeeded", "https://x"), version)


def without_values(resource: dict[str, Any]) -> dict[str, Any]:
    """A resource as it comes back."""
    found = {**resource["properties"]}
    if "secrets" in found:
        found["secrets"] = [{"name": secret["name"]} for secret in found["secrets"]]
    return {**resource, "properties": found}


@settings(max_examples=examples(200))
@given(resources)
def test_the_codec_loses_nothing(resource: dict[str, Any]) -> None:
    kept = decode_resource(resource, POOL)
    assert Resource.from_json(kept.to_json()) == kept
    back, given_ = written(kept), without_values(resource)
    assert back["properties"].items() >= given_["properties"].items()
    assert all(back[name] == value for name, value in given_.items() if name != "properties" and value)
    for version in API_VERSIONS:
        assert decode_resource(written(kept, version), POOL, kept) == kept, "a resource that was read can be written"
    assert patched(kept, {}) == kept
    changes = {name: value for name, value in written(kept)["properties"].items() if name in resource["properties"]}
    assert patched(kept, {"properties": changes}) == kept


@settings(max_examples=examples(60))
@given(st.lists(st.tuples(st.sampled_from(["PUT", "PATCH"]), resources | spoilt() | anything), min_size=1, max_size=4))
def test_no_request_is_an_error_of_the_server(requests: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        async with control() as server:
            for method, body in requests:
                content = json.dumps(body).encode()
                response = await server.client.request(
                    method, CI, params={"api-version": API_VERSIONS[-1]}, content=content
                )
                assert response.status_code < 500, response.text
                if response.is_success:
                    ended = await server.end_of(response)
                    code = ended.get("error", {}).get("code")
                    assert code != "InternalServerError", ended
                    seen = (await server.call("GET", CI)).json()
                    if method == "PUT":
                        asked = {**response.json()["properties"], "provisioningState": ended["status"]}
                        assert seen["properties"].items() >= asked.items()
                else:
                    assert response.json()["error"]["message"]
                assert (await server.call("GET", path_of())).status_code == 200

    asyncio.run(run())
