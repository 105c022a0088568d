"""Spans: their names and parents, through client and server, and that nothing of a user's content is in them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from tests.server.served import LATEST, current, listening, memory_backend, query, served

import greenroom
from greenroom.backend import HttpRequest
from greenroom.errors import FileMissing, PoolFull
from greenroom.local.container_pool import traced
from greenroom.testing import memory_pool
from greenroom.testing.spans import RecordedSpans, caller, recorded_spans, texts_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def inner_and_outer(spans: RecordedSpans, name: str) -> list[Any]:
    """The two spans of a name, the one further below first: the server's, and the client's."""
    return sorted(spans.named(name), key=lambda span: len(spans.ancestors(span)), reverse=True)


def attributes(span: Any) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_the_spans_of_a_blocking_call_are_below_the_callers() -> None:
    with memory_pool() as pool, recorded_spans() as spans:
        with caller():
            session = pool.session("the-session")
            session.execute("1")
            session.shell("true")
            session.upload(b"12345", "a.txt")
            session.download("a.txt")
        assert spans.ancestors(spans.one("allocate session")) == ["execute code", "caller"]
        for name in ("execute code", "execute command", "upload file", "download file"):
            assert spans.ancestors(spans.one(name)) == ["caller"]
            assert attributes(spans.one(name))["greenroom.session.id"] == "the-session"
            assert spans.one(name).kind is SpanKind.INTERNAL
        assert attributes(spans.one("upload file"))["greenroom.transfer.size"] == 5
        assert attributes(spans.one("download file"))["greenroom.transfer.size"] == 5
        assert attributes(spans.one("execute code"))["greenroom.execution.status"] == "succeeded"


async def test_the_spans_of_concurrent_callers_are_not_mixed() -> None:
    with memory_pool(max_concurrent_sessions=20) as pool, recorded_spans() as spans:

        async def call(number: int) -> None:
            with caller(f"caller-{number}"):
                await pool.session(f"session-{number}").aexecute("1")

        await asyncio.gather(*map(call, range(10)))
        for span in spans.named("execute code"):
            number = attributes(span)["greenroom.session.id"].partition("-")[2]
            assert spans.ancestors(span) == [f"caller-{number}"]


def test_streams_and_background_executions_are_below_the_caller() -> None:
    with memory_pool() as pool, recorded_spans() as spans:
        session = pool.session()
        with caller():
            list(session.stream("print(1)"))
            handle = session.submit("2")
        handle.result()
        assert [spans.ancestors(span) for span in spans.named("execute code")] == [["caller"]] * 2


def test_failures_have_a_class_and_no_text() -> None:
    with memory_pool(max_concurrent_sessions=1, acquire_timeout=0) as pool, recorded_spans() as spans:
        session = pool.session()
        session.execute("raise ValueError('secret')")
        with pytest.raises(FileMissing):
            session.download("secret.txt")
        with pytest.raises(PoolFull):
            pool.session().execute("1")
        failed = [(span.name, attributes(span)["error.type"]) for span in spans.ours if not span.status.is_ok]
        assert failed == [
            ("execute code", "ValueError"),
            ("download file", "FileMissing"),
            ("allocate session", "PoolFull"),
            ("execute code", "PoolFull"),
        ]
        assert all(span.status.description is None and not span.events for span in spans.ours)
        assert "secret" not in texts_of(spans.ours)


def test_content_is_in_spans_only_if_that_is_asked_for() -> None:
    with memory_pool(trace_content=True) as pool, recorded_spans() as spans:
        pool.session().execute("print('some output')" + "#" * 20_000)
        found = attributes(spans.one("execute code"))
        assert found["greenroom.execution.code"].startswith("print(")
        assert len(found["greenroom.execution.code"]) == 8_000
        assert "some output" in found["greenroom.execution.output"]


# Client and server


@pytest.mark.parametrize("version", ["greenroom/1", LATEST])
async def test_a_trace_spans_client_and_server(version: str) -> None:
    async with listening() as server:
        with recorded_spans() as spans:
            async with greenroom.aconnect(server.url, api_version=version) as pool:
                session = pool.session("the-session")
                with caller():
                    await session.aexecute("1")
                    await session.aupload(b"secret", "secret.txt")
                    assert await session.adownload("secret.txt") == b"secret"
            route = "POST /greenroom/1/executions" if version == "greenroom/1" else "POST /executions"
            inner, outer = sorted(
                spans.named("execute code"), key=lambda span: len(spans.ancestors(span)), reverse=True
            )
            assert spans.ancestors(inner) == [route, "execute code", "caller"]
            assert spans.ancestors(outer) == ["caller"]
            assert (inner.kind, outer.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
            assert attributes(outer)["server.address"] == "127.0.0.1"
            request = spans.one(route)
            assert request.kind is SpanKind.SERVER
            assert attributes(request)["http.route"] == route.partition(" ")[2]
            assert attributes(request)["http.response.status_code"] == 200
            for name in ("upload file", "download file"):
                inner, outer = inner_and_outer(spans, name)
                assert spans.ancestors(inner)[1:] == [name, "caller"]
                assert spans.ancestors(outer) == ["caller"]
            assert "secret" not in texts_of(spans.ours)


@pytest.mark.parametrize(
    ("headers", "belongs"),
    [
        ({"traceparent": PARENT}, True),
        ({"traceparent": PARENT, "tracestate": "a=" + "x" * 10_000}, True),
        ({"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}, False),
        ({"traceparent": "\x01nonsense"}, False),
        ({"traceparent": PARENT[:-1]}, False),
        ({}, False),
    ],
)
async def test_a_request_belongs_to_the_trace_that_it_names(headers: dict[str, str], belongs: bool) -> None:
    async with served() as client:
        with recorded_spans() as spans:
            response = await client.post("/executions", params=query(LATEST), json=current("1"), headers=headers)
            assert response.status_code == 200
            context = spans.one("POST /executions").context
            assert context is not None
            assert (context.trace_id == int(TRACE, 16)) is belongs


async def test_hostile_requests_stay_text_and_name_no_span() -> None:
    agent = "<script>\x1b[31m\n" + "x" * 5000
    async with served() as client:
        with recorded_spans() as spans:
            await client.request("BREW", "/files/secret.txt", headers={b"User-Agent": agent.encode()})
            await client.get("/files/secret.txt/content", params=query(LATEST))
            await client.get("/nothing/secret.txt")
            assert [span.name for span in spans.all if span.kind is SpanKind.SERVER] == [
                "_OTHER",
                "GET /files/{name}/content",
                "GET",
            ]
            found = attributes(spans.one("_OTHER"))["user_agent.original"]
            assert found.startswith("<script>")
            assert len(found) == 300
            assert "\x1b" not in found
            texts = texts_of(spans.ours)
            assert "secret" not in texts
            assert "BREW" not in texts
            assert all(
                span.status.status_code is StatusCode.UNSET for span in spans.all if span.kind is SpanKind.SERVER
            )


async def test_an_asynchronous_execution_is_below_its_request() -> None:
    async with served(await memory_backend()) as client:
        with recorded_spans() as spans:
            body = {**current("1"), "executionType": "Asynchronous"}
            response = await client.post("/executions", params=query(LATEST), json=body)
            assert response.status_code == 202, json.dumps(response.json())
            async with asyncio.timeout(30):
                while not spans.named("execute code"):  # noqa: ASYNC110  it runs after its request
                    await asyncio.sleep(0.01)
            assert spans.ancestors(spans.one("execute code")) == ["POST /executions"]


def test_a_custom_container_receives_the_span_as_from_a_proxy() -> None:
    given = HttpRequest("GET", "/", ((b"Traceparent", PARENT.encode()), (b"accept", b"*/*")))
    assert traced(given) == given
    with recorded_spans(), caller():
        headers = traced(given).headers
        (told,) = (value.decode() for name, value in headers if name.lower() == b"traceparent")
        context = trace.get_current_span().get_span_context()
        assert told.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
        assert (b"accept", b"*/*") in headers


def test_the_call_of_a_tool_is_below_its_execution_and_what_the_tool_does_is_below_the_call() -> None:
    def work() -> int:
        with trace.get_tracer("application").start_as_current_span("query"):
            return 1

    async def fail() -> int:
        raise ValueError("secret")

    with memory_pool() as pool, recorded_spans() as spans:
        session = pool.session("the-session")
        with caller():
            session.execute("work()\ntry: fail()\nexcept ToolError: pass", tools=[work, fail])
        first, second = sorted(spans.named("call tool"), key=lambda span: span.start_time or 0)
        assert spans.ancestors(first) == ["execute code", "caller"]
        assert spans.ancestors(spans.one("query")) == ["call tool", "execute code", "caller"]
        assert attributes(first) == {"greenroom.tool.name": "work", "greenroom.tool.call": 1}
        assert attributes(second)["error.type"] == "ToolError"
        assert "secret" not in texts_of([second])
        assert not spans.named("execute_tool work")


async def test_the_call_of_a_tool_has_one_span_over_http() -> None:
    def work() -> int:
        return 1

    with recorded_spans() as spans:
        async with listening(await memory_backend()) as server:
            pool = await greenroom.aconnect(server.url)
            with caller():
                await pool.session("the-session").aexecute("work()", tools=[work])
            await pool.aclose()
        assert spans.ancestors(spans.one("call tool")) == ["execute code", "caller"]
