"""The versions on one URL, and messages that are not valid: the protocol's own errors, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.server.served import served

from greenroom.testing import ScriptedBackend

from .wire import BOTH, META, STATELESS, WITH_HANDSHAKE, call, events_of, headers_of, post, request, stateless


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with served(ScriptedBackend(), max_body=64 * 1024) as client:
        yield client


def code_of(response: httpx.Response) -> int:
    return response.json()["error"]["code"]


@pytest.mark.parametrize("version", WITH_HANDSHAKE)
async def test_a_version_with_a_handshake_is_kept(client: httpx.AsyncClient, version: str) -> None:
    begun = await post(client, request("initialize", protocolVersion=version, capabilities={}))
    result = begun.json()["result"]
    assert result["protocolVersion"] == version
    assert result["serverInfo"]["name"] == "greenroom"
    peer = {"mcp_session_id": begun.headers["mcp-session-id"], "mcp_protocol_version": version}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await post(client, ready, **peer)).status_code == 202
    assert (await post(client, request("ping"), **peer)).json()["result"] == {}
    assert (await post(client, request("logging/setLevel", level="error"), **peer)).json()["result"] == {}
    assert code_of(await post(client, request("logging/setLevel", level="loud"), **peer)) == -32602
    tools = (await post(client, request("tools/list"), **peer)).json()["result"]
    assert tools.keys() == {"tools"}
    unknown = await post(client, request("server/discover"), **peer)
    assert (unknown.status_code, code_of(unknown)) == (200, -32601)
    missing = await post(client, request("resources/read", uri="greenroom://sessions/x/files/y"), **peer)
    assert code_of(missing) == -32002


@pytest.mark.parametrize(
    ("named", "answered"),
    [(None, "2025-03-26"), ("2024-11-05", "2025-11-25"), (STATELESS, "2025-11-25"), (5, "2025-11-25")],
)
async def test_a_handshake_negotiates_a_version_that_has_one(
    client: httpx.AsyncClient, named: Any, answered: str
) -> None:
    params = {} if named is None else {"protocolVersion": named}
    assert (await post(client, request("initialize", **params))).json()["result"]["protocolVersion"] == answered


async def test_a_stateless_request_carries_everything(client: httpx.AsyncClient) -> None:
    discovered = (await post(client, stateless("server/discover"))).json()["result"]
    assert discovered["supportedVersions"] == [STATELESS, *reversed(WITH_HANDSHAKE)]
    assert discovered["resultType"] == "complete"
    assert discovered["_meta"][f"{META}serverInfo"]["name"] == "greenroom"
    assert discovered["ttlMs"] >= 0
    for method in ("initialize", "ping", "logging/setLevel", "prompts/list"):
        response = await post(client, stateless(method))
        assert (response.status_code, code_of(response)) == (404, -32601)
    note, answer = events_of(await post(client, stateless("subscriptions/listen", "s", notifications={})))
    assert note["method"] == "notifications/subscriptions/acknowledged"
    assert answer["result"]["_meta"][f"{META}subscriptionId"] == "s"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"mcp-protocol-version": None}, -32020),
        ({"mcp-protocol-version": "2025-11-25"}, -32020),
        ({"mcp-method": None}, -32020),
        ({"mcp-method": "tools/list"}, -32020),
        ({"mcp-name": None}, -32020),
        ({"mcp-name": "run_shell"}, -32020),
        ({"mcp-name": "=?base64?!?="}, -32020),
    ],
)
async def test_headers_that_differ_from_the_body_are_refused(
    client: httpx.AsyncClient, changed: dict[str, str | None], code: int
) -> None:
    message = call("run_python", code="1")
    headers = {name: value for name, value in {**BOTH, **headers_of(message), **changed}.items() if value is not None}
    response = await client.post("/mcp", content=json.dumps(message), headers=headers)
    assert (response.status_code, code_of(response)) == (400, code)
    assert response.json()["id"] == 1


async def test_a_header_can_be_encoded(client: httpx.AsyncClient) -> None:
    name = f"=?base64?{base64.b64encode(b'run_python').decode()}?="
    assert (await post(client, call("run_python", code="1"), mcp_name=name)).json()["result"]["isError"] is False


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({f"{META}protocolVersion": "1900-01-01"}, -32022),
        ({f"{META}protocolVersion": "2025-11-25"}, -32022),
        ({f"{META}clientCapabilities": None}, -32602),
        ({f"{META}logLevel": "loud"}, -32602),
    ],
)
async def test_a_stateless_request_that_lacks_something_is_refused(
    client: httpx.AsyncClient, meta: dict[str, Any], code: int
) -> None:
    response = await post(client, stateless("tools/list", meta=meta))
    assert (response.status_code, code_of(response)) == (400, code)
    if code == -32022:
        assert STATELESS in response.json()["error"]["data"]["supported"]


async def test_an_unknown_version_in_the_header_is_refused(client: httpx.AsyncClient) -> None:
    assert code_of(await post(client, request("tools/list"), mcp_protocol_version="1900-01-01")) == -32022
    assert code_of(await post(client, request("tools/list"), mcp_protocol_version=STATELESS)) == -32602


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"NaN", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":Infinity}}', -32700),
        (b"[" * 1000 + b"]" * 1000, -32600),
        (b"[" + b"{}," * 12_000 + b"{}]", -32600),
        (b"1", -32600),
        (b"null", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":1}}', -32602),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
    ],
)
async def test_a_message_that_is_not_valid_has_the_protocols_error(
    client: httpx.AsyncClient, content: bytes, code: int
) -> None:
    response = await client.post("/mcp", content=content, headers=BOTH)
    assert (response.status_code, code_of(response)) == (400, code)


async def test_unknown_names_have_the_protocols_errors(client: httpx.AsyncClient) -> None:
    assert code_of(await post(client, call("unknown"))) == -32602
    assert code_of(await post(client, stateless("tools/call", name="run_python", arguments=[]))) == -32602
    assert code_of(await post(client, stateless("tools/list", cursor="x"))) == -32602
    for uri in ("", "file:///etc/passwd", "greenroom://sessions//files/a", "greenroom://sessions/x/files/../../etc"):
        assert code_of(await post(client, stateless("resources/read", uri=uri))) == -32602


async def test_invalid_http_requests_are_refused(client: httpx.AsyncClient) -> None:
    message = json.dumps(request("ping"))
    assert (await client.get("/mcp", headers={"accept": "text/event-stream"})).status_code == 405
    text = await client.post("/mcp", content=message, headers={"content-type": "text/plain"})
    assert (text.status_code, code_of(text)) == (415, -32600)
    assert (await client.post("/mcp", content=message, headers={"accept": "text/html"})).status_code == 406
    large = await client.post("/mcp", content=b" " * 70_000, headers=BOTH)
    assert (large.status_code, code_of(large)) == (413, -32600)


async def test_batches_belong_to_their_version(client: httpx.AsyncClient) -> None:
    batch = [
        request("ping", "a"),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        request("initialize", "b"),
        {"jsonrpc": "2.0"},
        request("tools/call", "c", name="run_python", arguments={"code": "1"}),
    ]
    answers = (await post(client, batch)).json()
    by_id = {answer.get("id"): answer for answer in answers}
    assert by_id.keys() == {"a", "b", "c", None}
    assert by_id["a"]["result"] == {}
    assert by_id["b"]["error"]["code"] == -32600
    assert by_id["c"]["result"]["isError"] is False
    assert (await post(client, [{"jsonrpc": "2.0", "method": "notifications/initialized"}])).status_code == 202
    for version in WITH_HANDSHAKE[1:]:
        assert code_of(await post(client, batch, mcp_protocol_version=version)) == -32600
    assert code_of(await post(client, [request("ping", number) for number in range(101)])) == -32600
