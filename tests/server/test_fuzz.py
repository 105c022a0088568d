"""Every request soon gets a response that is not a failure of the server, and nothing is left over."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.models import Execution, Output
from greenroom.testing import ScriptedBackend

from .served import CURRENT, LEGACY, POOL, application, current, inline, memory_backend

VERSIONS = [*LEGACY, *CURRENT, "", "2023-01-01", "latest"]
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "QUERY"]
SEGMENTS = [
    "subscriptions", "s", "resourceGroups", "g", "sessionPools", "p", "identifier", "session", "code", "execute",
    "executions", "files", "upload", "content", "data.csv", "listSessions", "metadata", ".management", "stopSession",
    "healthz", "..", ".", "", "%2e%2e", "%2F", "%00", "%ff", "ä",
]  # fmt: skip
OPERATIONS = [
    "/code/execute", "/execute", "/executions", "/executions/x", "/files/upload", "/files", "/files/content/data.csv",
    "/files/data.csv/content", "/files/data.csv", "/session", "/listSessions", "/metadata", "/.management/stopSession",
]  # fmt: skip
FIELDS = [
    "properties", "code", "codeInputType", "executionType", "timeoutInSeconds", "shellCommand", "identifier",
    "outputStreamsMaxLength", "useEmptyKernel", "returnJupyterFormatExecutionResult", "stdin",
]  # fmt: skip

texts = st.text(max_size=20) | st.sampled_from(
    ["\0", "\ud800", "'", "print(1)", "inlinebase64", "Asynchronous", "é" * 200]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just(10**400)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=5),
    max_leaves=10,
)


def body_of(code: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({**current(code), **fields}).encode()


def legacy_body_of(code: str) -> bytes:
    return json.dumps(inline(code)).encode()


def upload_of(content: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + content + b"\r\n--b--"


bodies = (
    json_values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=100)
    | st.builds(body_of, texts, st.dictionaries(st.sampled_from(FIELDS), scalars, max_size=3))
    | st.builds(legacy_body_of, texts)
    | st.builds(upload_of, st.binary(max_size=50))
)
paths = (
    st.sampled_from(OPERATIONS)
    | st.sampled_from(OPERATIONS).map(lambda path: POOL + path)
    | st.lists(st.sampled_from(SEGMENTS) | texts, max_size=8).map(lambda parts: "/" + "/".join(parts))
)
queries = st.lists(
    st.tuples(
        st.sampled_from(["api-version", "identifier", "path", "skip", "recursive"]) | texts,
        st.sampled_from([*VERSIONS, "session", "another", "true", "a/b", "../..", "-1", "9" * 50]) | texts,
    ),
    max_size=5,
)
usual_query = st.sampled_from(VERSIONS).map(lambda version: [("api-version", version), ("identifier", "session")])
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [b"content-type", b"content-length", b"authorization", b"operation-id", b"origin", b"host", b"x"]
        ),
        st.sampled_from(
            [b"multipart/form-data; boundary=b", b"application/json", b"localhost", b"", b"-1", b"99999999999"]
        )
        | st.binary(max_size=20),
    ),
    max_size=3,
)


def scope_of(method: str, path: str, query: list[tuple[str, str]], given_headers: list[tuple[bytes, bytes]]) -> Any:
    names = {name for name, _ in given_headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": "&".join(f"{name}={value}" for name, value in query).encode("utf-8", "surrogatepass"),
        "headers": given_headers if b"host" in names else [(b"host", b"localhost"), *given_headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "root_path": "",
    }


async def send(app: Any, scope: Any, body: bytes) -> int:
    """The status of the answer, whose form is checked as far as every answer has one."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Future()

    async def collect(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(60):
        await app(scope, receive, collect)
    status = sent[0]["status"]
    found = dict(sent[0]["headers"])
    if status >= 400:
        error = json.loads(b"".join(message["body"] for message in sent[1:]))
        assert found[b"x-ms-error-code"].decode() == error.get("error", error)["code"]
    return status


def backend_with_an_inventory() -> ScriptedBackend:
    backend = ScriptedBackend()
    answer = Output({"application/vnd.greenroom.answer+json": {"packages": {}}})
    backend.answer = Execution("1", "succeeded", outputs=(answer,))
    return backend


@settings(max_examples=examples(400))
@given(st.sampled_from(METHODS), paths, usual_query | queries, headers, bodies)
async def test_any_request_gets_a_response(
    method: str, path: str, query: list[tuple[str, str]], given_headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    async with application(backend_with_an_inventory()) as app:
        assert await send(app, scope_of(method, path, query, given_headers), body) < 500


# This code runs in this process, so it is not made up.
known_bodies = st.sampled_from(
    [
        b"",
        b"{",
        json.dumps(inline("print(1)")).encode(),
        json.dumps(current("x = 1")).encode(),
        json.dumps(current("import time; time.sleep(5)", timeoutInSeconds=0.1)).encode(),
        json.dumps(current("import time; time.sleep(0.1)", executionType="Asynchronous")).encode(),
        json.dumps({"shellCommand": "true"}).encode(),
        upload_of(b"x"),
    ]
)


@settings(max_examples=examples(20))
@given(
    st.lists(st.tuples(st.sampled_from(METHODS), paths, usual_query, headers, known_bodies), min_size=5, max_size=15)
)
async def test_no_session_is_left_after_concurrent_requests(requests: list[Any]) -> None:
    backend = await memory_backend(max_concurrent_sessions=5, acquire_timeout=0.1, timeout=1)
    async with application(backend) as app:
        statuses = await asyncio.gather(*(send(app, scope_of(*request[:4]), request[4]) for request in requests))
        assert max(statuses) < 500
        await app.drain(5)
        assert {session.identifier for session in await backend.sessions()} <= {"session"}
        await backend.delete("session")
        status = await backend.status()
        assert (status.executing, status.idle, status.waiting) == (0, 0, 0)
