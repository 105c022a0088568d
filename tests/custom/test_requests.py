"""`session.request` and its variants, with a container of a user's own image."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import greenroom
from greenroom import InvalidRequest, RequestFailed, ServiceFailed, Session, SessionPool
from greenroom.testing import memory_pool


@pytest.fixture(scope="module")
def session(pool: SessionPool) -> Iterator[Session]:
    """For tests that do not change its state."""
    with pool.session("shared-session") as session:
        yield session


def echoed(response: greenroom.Response) -> dict[str, Any]:
    return response.raise_for_status().json()


def test_sessions_have_a_state_each_until_they_are_deleted(pool: SessionPool) -> None:
    one, other = pool.session("state-0001"), pool.session("state-0002")
    assert one.info() is None
    assert one.request("POST", "/state", json={"x": 41}).json() == {"x": 41}
    assert other.request("GET", "/state").json() == {}
    assert one.request("GET", "/state").json() == {"x": 41}
    info = one.info()
    assert info is not None
    assert info.identifier == "state-0001"
    assert info.expires is not None
    assert {"state-0001", "state-0002"} <= {each.identifier for each in pool.sessions()}
    one.delete()
    assert one.info() is None
    assert one.request("GET", "/state").json() == {}
    one.delete()
    other.delete()


def test_a_request_arrives_as_it_was_made(session: Session) -> None:
    reply = echoed(
        session.request(
            "patch", "/echo/a%2Fb/ä b?x=1", params={"y": ["2", "3"]}, headers={"X-Mixed-CASE": "v"}, data=b"\0\xff"
        )
    )
    assert reply["method"] == "PATCH"
    assert reply["target"] == "/echo/a%2Fb/%C3%A4%20b?x=1&y=2&y=3"
    assert ["X-Mixed-CASE", "v"] in reply["headers"]
    assert reply["sha256"] == hashlib.sha256(b"\0\xff").hexdigest()


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ({"json": {"a": [1, None]}}, "application/json", '{"a": [1, null]}'),
        ({"data": {"a": "1 2", "b": ["3", "4"]}}, "application/x-www-form-urlencoded", "a=1+2&b=3&b=4"),
        ({"content": "ä"}, "text/plain; charset=utf-8", "ä"),
        ({"content": b"x"}, None, "x"),
        ({"content": iter([b"one ", b"", b"two"])}, None, "one two"),
        ({}, None, ""),
    ],
)
def test_request_bodies_arrive(session: Session, body: dict[str, Any], kind: str | None, text: str) -> None:
    reply = echoed(session.request("POST", "/echo", **body))
    assert reply["text"] == text
    assert dict(reply["headers"]).get("Content-Type") == kind


async def test_the_asynchronous_methods_work(pool: SessionPool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    session = pool.session("async-0001")
    response = await session.arequest("POST", "/echo", content=pieces())
    assert response.ok
    assert response.json()["text"] == "012"
    async with session.stream_request("GET", "/events") as events:
        assert events.headers["content-type"] == "text/event-stream"
        seen: list[str] = []
        async for line in events.aiter_lines():
            seen.append(line)
            if len(seen) == 5:
                break
    assert seen == ["data: 0", "", "data: 1", "", "data: 2"]
    async with session.stream_request("GET", "/") as response:
        assert (await response.aread()).text == "hello"
    await session.adelete()


async def test_requests_over_the_limit_of_the_relay_wait_for_a_place(pool: SessionPool) -> None:
    async with asyncio.timeout(120):
        session = pool.session()
        responses = await asyncio.gather(*(session.arequest("GET", "/") for _ in range(200)))
        assert {response.status for response in responses} == {200}
        await session.adelete()


def test_a_response_can_be_read_as_it_comes(session: Session) -> None:
    with session.stream_request("GET", "/events") as events:
        lines = events.iter_lines()
        assert [next(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]
        assert session.request("GET", "/").text == "hello"  # at the same time
    with session.stream_request("GET", f"/large/{20 << 20}") as response:
        assert sum(map(len, response.iter_bytes())) == 20 << 20
    with session.stream_request("GET", "/status/500") as response, pytest.raises(RequestFailed):
        response.raise_for_status()


def test_large_bodies_pass_both_ways(session: Session) -> None:
    content = bytes(range(256)) * (32 << 10)
    assert echoed(session.request("POST", "/echo", content=content))["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(session.request("GET", f"/large/{8 << 20}").content) == 8 << 20


def test_a_status_is_a_response_and_an_exception_on_demand(session: Session) -> None:
    response = session.request("GET", "/status/418")
    assert (response.status, response.text, response.ok) == (418, "as you asked", False)
    with pytest.raises(RequestFailed, match="status 418") as raised:
        response.raise_for_status()
    assert raised.value.response is response
    assert session.request("HEAD", "/").content == b""
    with pytest.raises(ServiceFailed, match="must be JSON, not 'hello'"):
        session.request("GET", "/").json()


def test_headers_are_found_by_any_case_and_kept_apart(session: Session) -> None:
    headers = session.request("GET", "/cookies").headers
    assert headers["x-mixed-case"] == headers["X-MIXED-CASE"] == "kept"
    assert headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (b"X-Mixed-CASE", b"kept") in headers.raw


@pytest.mark.parametrize(
    ("path", "timeout", "message"),
    [
        ("/garbage", None, r"not valid HTTP/1\.1"),
        ("/short", None, "closed the connection before its response was complete"),
        ("/slow", 0.5, r"did not respond within 0\.5 seconds to GET /slow"),
    ],
)
def test_an_invalid_response_of_a_container_is_an_error(
    session: Session, path: str, timeout: float | None, message: str
) -> None:
    with pytest.raises(ServiceFailed, match=message):
        session.request("GET", path, timeout=timeout)
    assert session.request("GET", "/").text == "hello"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("GET", "state"), {}, "The path must begin with a slash, not 'state'"),
        (("GET", b"/"), {}, "The path must be str, not bytes"),
        (("CONNECT", "/"), {}, "other than CONNECT"),
        (("GET /x HTTP/1.1\r\nA: b", "/"), {}, "The method must be"),
        (("GET", "/"), {"headers": {"A": "b\r\nC: d"}}, "a one-line value; 'A' does not"),
        (("GET", "/"), {"headers": {"Content-Length": "5"}, "content": b"123456"}, "must be valid HTTP/1.1"),
        (("POST", "/"), {"json": 1, "content": b""}, "one of content, data and json, not content and json"),
        (("POST", "/"), {"json": {1, 2}}, "The argument json must be JSON"),
        (("POST", "/"), {"content": 5}, "must be bytes, str or an iterable of bytes, not int"),
        (("GET", "/"), {"timeout": -1}, "The timeout must be a positive number of seconds, not -1"),
    ],
)
def test_arguments_that_break_a_rule(
    session: Session, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        session.request(*arguments, **options)


def test_no_other_verb_works_and_each_names_request(session: Session) -> None:
    for call in (
        lambda: session.execute("1"),
        lambda: next(session.stream("1")),
        lambda: session.submit("1").result(),
        lambda: session.upload(b"", "a"),
        lambda: session.download("a"),
        session.files,
        lambda: session.file("a"),
        lambda: session.delete_file("a"),
    ):
        with pytest.raises(InvalidRequest, match=r"must be used with request\(\), not with \w+\(\)"):
            call()


def test_a_session_of_code_names_the_methods_to_use_instead() -> None:
    with (
        memory_pool(ready_session_instances=0) as pool,
        pytest.raises(InvalidRequest, match=r"PythonLTS must be used with execute\(\).*not with request\(\)"),
    ):
        pool.session().request("GET", "/")
