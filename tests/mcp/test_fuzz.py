"""Any message soon has an answer that the protocol allows, on both transports, and nothing is left over."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples
from tests.server.served import application, client_of

from greenroom.mcp.protocol import ProtocolError, parse, read
from greenroom.testing import ScriptedBackend

from .wire import BOTH, META, connected, request

METHODS = [
    "initialize", "ping", "server/discover", "subscriptions/listen", "logging/setLevel", "tools/list", "tools/call",
    "resources/list", "resources/read", "resources/templates/list", "notifications/cancelled", "prompts/get", "",
]  # fmt: skip
NAMES = [
    "run_python", "run_shell", "launchShell", "runPythonCodeInRemoteEnvironment", "list_files", "read_file",
    "write_file", "delete_file", "reset_session", "end_session", "list_sessions", "unknown",
]  # fmt: skip
FIELDS = ["code", "command", "session_id", "path", "content", "encoding", "timeout", "environmentId", "pythonCode"]

texts = st.text(max_size=10) | st.sampled_from(["\0", "\ud800", "print(1)", "a.txt", "../..", "base64", "2025-03-26"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.just(10**400)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
metas = st.dictionaries(
    st.sampled_from(
        ["progressToken", *(META + name for name in ("protocolVersion", "clientCapabilities", "logLevel", "x"))]
    ),
    st.sampled_from(["2026-07-28", "2025-11-25", "info"]) | st.just(dict[str, Any]()) | values,
    max_size=4,
)
arguments = st.dictionaries(st.sampled_from(FIELDS), texts | scalars, max_size=4)
params = (
    st.fixed_dictionaries(
        {"name": st.sampled_from(NAMES), "arguments": arguments | values},
        optional={"_meta": metas, "uri": texts, "protocolVersion": texts, "cursor": texts, "requestId": scalars},
    )
    | st.dictionaries(texts, values, max_size=3)
    | values
)
messages = (
    st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "method": st.sampled_from(METHODS)},
        optional={"id": st.integers(0, 3) | texts, "params": params},
    )
    | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), values)
    | values
)
bodies = messages | st.lists(messages, max_size=4)
contents = bodies.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
headers = st.dictionaries(
    st.sampled_from(["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "accept", "content-type"]),
    st.sampled_from(
        ["2026-07-28", "2025-11-25", "2025-03-26", "1", "tools/call", "run_python", "=?base64?eA?=", "*/*",
         "text/event-stream", "application/json", ""]
    ),
    max_size=4,
)  # fmt: skip


def check_answer(answer: Any) -> None:
    """Check the form of an answer, or of a batch of them."""
    for each in cast("list[Any]", answer if isinstance(answer, list) else [answer]):
        assert each["jsonrpc"] == "2.0"
        if "method" in each:
            assert each["method"].startswith("notifications/")
            continue
        assert ("result" in each) != ("error" in each)
        if "error" in each:
            assert isinstance(each["error"]["code"], int)
            assert each["error"]["code"] != -32603, each


@given(contents)
async def test_a_message_is_read_or_refused(content: bytes) -> None:
    code = None
    try:
        read(parse(content))
    except ProtocolError as error:
        code = error.code
    assert code in {None, -32700, -32600, -32602}


@settings(max_examples=examples(300))
@given(contents, headers)
async def test_any_request_over_http_gets_a_response(content: bytes, given_headers: dict[str, str]) -> None:
    backend = ScriptedBackend()
    async with application(backend) as app, client_of(app) as client:
        async with asyncio.timeout(60):
            response = await client.post("/mcp", content=content, headers={**BOTH, **given_headers})
        assert response.status_code < 500
        kind = response.headers.get("content-type", "")
        if kind.startswith("application/json"):
            check_answer(response.json())
        elif kind.startswith("text/event-stream"):
            for line in response.text.splitlines():
                if line.startswith("data: "):
                    check_answer(json.loads(line[6:]))
        else:
            assert response.status_code in {202, 204}
        assert not app.pools.get(None).records.running  # pyright: ignore[reportOptionalMemberAccess]


@settings(max_examples=examples(100))
@given(st.lists(contents, max_size=8))
async def test_any_lines_get_responses_and_the_next_request_works(lines: list[bytes]) -> None:
    async with connected(ScriptedBackend()) as line:
        for content in lines:
            line.write(content.replace(b"\n", b" ") + b"\n")
        line.send(request("ping", "the last one"))
        while True:
            answer = await line.receive()
            check_answer(answer)
            if isinstance(answer, dict) and cast("dict[str, Any]", answer).get("id") == "the last one":
                return
