"""A pool in Azure behind `greenroom.connect`: its requests, and its results and errors for each response."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import greenroom
from greenroom import (
    AccessDenied,
    EngineUnavailable,
    Execution,
    FileMissing,
    FileRefused,
    InvalidRequest,
    PoolClosed,
    PoolFull,
    SandboxLost,
    ServiceFailed,
    Session,
    StreamText,
)
from greenroom.azure import httpx_transport
from greenroom.azure.transport import Broken, Unreachable

from .scripted import (
    ENDPOINT,
    TOKEN,
    Answer,
    Azure,
    Request,
    answered,
    backend_of,
    executed,
    full,
    pool_of,
    refused,
    running,
)

LOST = Broken("connection reset")
UNREACHABLE = Unreachable("no route to host")


# The endpoint


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/sessionPools/p", "sent unencrypted"),
        ("https://eastasia.dynamicsessions.io", "must end with /subscriptions/"),
        ("https://user:secret@example.com/sessionPools/p", "user information"),
        ("https:///sessionPools/p", "must have a valid host"),
        ("https://example.com/#fragment", "and no fragment"),
        ("https://example.com:port/", "Port"),
        ("https://exa\x7fmple.com/", "must have a valid host"),
        ("https://xn--.example/", "must have a valid host"),
        (f"{ENDPOINT}?api_version=2020-01-01", "The option api_version must be one of .*, not '2020-01-01'"),
        (f"{ENDPOINT}?memroy=1Gi", "Unknown option 'memroy'"),
        (f"{ENDPOINT}?memory=1Gi&cpu=2", "These options must be set where the pool is created, .*: cpu, memory"),
    ],
)
def test_an_invalid_endpoint_is_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        greenroom.connect(url, api_key=TOKEN)


def test_options_come_with_the_url_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_TIMEOUT", "33")
    azure = Azure(executed())

    def instead(*_: object, **__: object) -> Azure:
        return azure

    monkeypatch.setattr("greenroom.azure.client.HttpxTransport", instead)
    url = f"{ENDPOINT}/?api_version=2025-02-02-preview"
    with greenroom.connect(url, api_key=TOKEN) as pool:
        pool.session("abcd").execute("1")
    (request,) = azure.requests
    assert request.params["api-version"] == "2025-02-02-preview"
    assert azure.bodies[0]["timeoutInSeconds"] == 33


# What is sent


def test_a_request_has_the_version_the_identifier_and_the_token() -> None:
    azure = Azure(executed(stdout="hi\n"))
    with pool_of(azure) as pool:
        assert pool.session("user-1").execute("print('hi')").stdout == "hi\n"
    (request,) = azure.requests
    assert request.url == f"{ENDPOINT}/executions?api-version=2025-10-02-preview&identifier=user-1"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["user-agent"].startswith("greenroom")
    assert request.headers["x-ms-client-request-id"]
    assert azure.bodies == [
        {
            "codeInputType": "Inline",
            "executionType": "Synchronous",
            "code": "print('hi')",
            "timeoutInSeconds": 60,
            "outputStreamsMaxLength": 1 << 20,
            "returnJupyterFormatExecutionResult": True,
        }
    ]


def test_no_identifier_or_name_injects_a_parameter() -> None:
    azure = Azure(Answer(200, b"x"))
    with pool_of(azure) as pool:
        pool.session("a&identifier=other#?").download("sub dir/a&b#?%2F.txt")
    (request,) = azure.requests
    assert request.params == {
        "api-version": "2025-10-02-preview",
        "identifier": "a&identifier=other#?",
        "path": "sub dir",
    }
    assert request.path == "files/a%26b%23%3F%252F.txt/content"


@pytest.mark.parametrize("path", ["a\udcff.txt", "d\udcff/a.txt"])
def test_a_name_that_is_not_utf_8_is_refused(path: str) -> None:
    azure = Azure()
    with pool_of(azure) as pool:
        session = pool.session("abcd")
        for call in (session.file, session.download, session.delete_file):
            with pytest.raises(InvalidRequest, match="UTF-8"):
                call(path)
        with pytest.raises(InvalidRequest, match="UTF-8"):
            session.upload(b"", path)
    assert azure.requests == []


def test_the_read_timeout_is_that_of_the_execution_and_a_margin() -> None:
    azure = Azure(executed())
    with pool_of(azure) as pool:
        pool.session().execute("1", timeout=100)
    assert azure.requests[0].sent.read_timeout >= 100 + 30
    assert azure.requests[0].sent.connect_timeout <= 30


def test_the_legacy_contract_is_one_option_away() -> None:
    answer = {"properties": {"status": "Success", "stdout": "", "stderr": "", "result": 2}}
    azure = Azure(answered(answer))
    with pool_of(azure, api_version="2024-02-02-preview") as pool:
        assert pool.session("abcd").execute("1 + 1").result == "2"
    assert azure.calls == ["POST code/execute"]
    assert azure.bodies[0]["properties"]["codeInputType"] == "inline"


# Again, where nothing was dispatched


@pytest.mark.parametrize(
    "first",
    [
        UNREACHABLE,
        Unreachable("slow"),
        full("0"),
        full(),
        full(status=500),
        refused(503),
        refused(503, **{"Retry-After": "0"}),
    ],
    ids=["connect error", "connect timeout", "429 at once", "429", "full with 500", "503", "503 at once"],
)
def test_a_call_that_was_not_dispatched_is_retried(first: Any) -> None:
    azure = Azure(first, executed(result="2"))
    with pool_of(azure) as pool:
        assert pool.session("abcd").execute("1 + 1").result == "2"
    assert len(azure.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        LOST,
        Broken("slow"),
        Broken("closed"),
        refused(500),
        refused(502),
        refused(503, **{"x-ms-session-guid": "1"}),
        refused(429, **{"Operation-Location": "/executions/1"}),
    ],
    ids=["reset", "no answer", "closed", "500", "502", "503 of a session", "429 of a session"],
)
def test_a_call_that_may_have_been_dispatched_is_made_once(answer: Any) -> None:
    azure = Azure(answer, executed())
    with pool_of(azure) as pool, pytest.raises((ServiceFailed, PoolFull)):
        pool.session("abcd").execute("1")
    assert len(azure.requests) == 1


def test_a_broken_connection_leaves_unknown_whether_the_code_ran() -> None:
    with (
        pool_of(Azure(LOST)) as pool,
        pytest.raises(ServiceFailed, match="unknown whether the request was carried out"),
    ):
        pool.session("abcd").execute("1")


def test_an_unreachable_endpoint_has_run_nothing() -> None:
    azure = Azure(UNREACHABLE)
    with pool_of(azure) as pool, pytest.raises(ServiceFailed, match=r"no route to host\. Nothing was run"):
        pool.session("abcd").execute("1")
    assert len(azure.requests) == 3


def test_an_interrupted_read_is_retried() -> None:
    azure = Azure(LOST, answered({"value": []}))
    with pool_of(azure) as pool:
        assert pool.session("abcd").files() == []


def test_a_call_to_a_full_pool_is_retried_for_the_acquire_timeout() -> None:
    began = time.monotonic()
    azure = Azure(full())
    with pool_of(azure, acquire_timeout=5) as pool, pytest.raises(PoolFull, match="5 of 5 sessions") as caught:
        pool.session("abcd").execute("1")
    assert caught.value.sessions == 5
    assert len(azure.requests) > 1
    assert time.monotonic() - began < 60


def test_a_pool_that_is_full_for_long_is_not_waited_for() -> None:
    azure = Azure(full("1000"))
    with pool_of(azure) as pool, pytest.raises(PoolFull) as caught:
        pool.session("abcd").execute("1")
    assert caught.value.retry_after == 1000
    assert len(azure.requests) == 1


def test_a_full_pool_with_a_retry_after_of_zero_is_not_flooded() -> None:
    times: list[float] = []

    def answer(_: Request) -> Answer:
        times.append(time.monotonic())
        return full("0") if len(times) < 4 else executed(result="2")

    with pool_of(Azure(answer)) as pool:
        assert pool.session("abcd").execute("1 + 1").result == "2"
    assert times[-1] - times[0] > 0.5, "seconds between four requests"


def test_a_small_upload_is_sent_again_whole() -> None:
    uploaded = {"name": "a.txt", "sizeInBytes": 3, "lastModifiedAt": "2024-11-11T09:05:02Z"}
    azure = Azure(full("0"), answered(uploaded))
    with pool_of(azure) as pool:
        assert pool.session("abcd").upload(b"abc", "a.txt").size == 3
    assert len(azure.requests) == 2
    assert all(b'filename="a.txt"' in request.content for request in azure.requests)
    assert all(b"\r\n\r\nabc\r\n" in request.content for request in azure.requests)


def test_a_large_upload_streams_and_is_sent_once() -> None:
    azure = Azure(full("0"))
    with pool_of(azure) as pool, pytest.raises(PoolFull):
        pool.session("abcd").upload(bytes(6 << 20), "a.bin")
    (request,) = azure.requests
    assert not isinstance(request.sent.content, bytes)
    assert len(request.content) > 6 << 20


# Errors keep Azure's own description


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refused(400, "SessionRequestValidationFailed", "bad"), InvalidRequest, "bad"),
        (refused(401, "Unauthorized", "who?"), AccessDenied, "az login"),
        (refused(403, "Forbidden", "no"), AccessDenied, "Azure ContainerApps Session Executor.*az role assignment"),
        (refused(404, "SessionPoolNotFound", "no pool"), ServiceFailed, "no pool"),
        (refused(410, "SessionLost", "gone"), SandboxLost, "gone"),
        (refused(500, "InternalServerError", "oops"), ServiceFailed, "oops"),
        (Answer(302, headers={"Location": "https://example.com"}), ServiceFailed, "HTTP 302"),
        (Answer(502, b"<html>bad gateway</html>"), ServiceFailed, "HTTP 502"),
        (full("1000", status=500), PoolFull, "5 of 5"),
    ],
    ids=["400", "401", "403", "404", "410", "500", "redirect", "no JSON", "full with 500"],
)
def test_an_error_keeps_azures_details(answer: Answer, kind: type[Exception], words: str) -> None:
    azure = Azure(answer)
    with pool_of(azure) as pool, pytest.raises(kind, match=words) as caught:
        pool.session("abcd").execute("1")
    assert isinstance(caught.value, greenroom.GreenroomError)
    details = caught.value.azure
    assert details is not None
    assert details.status == answer.status
    assert details.request_id is not None
    if isinstance(answer.content, bytes) and answer.content.startswith(b'{"error"'):
        assert (details.request_id, details.trace_id) == ("request-1", "trace-1")
        assert "request request-1" in str(caught.value)
        assert "trace trace-1" in str(caught.value)
    assert len(azure.requests) == 1


def test_a_missing_file_is_named() -> None:
    with pool_of(Azure(refused(404, "FileNotFound"))) as pool:
        session = pool.session("abcd")
        for call in (session.download, session.file, session.delete_file):
            with pytest.raises(FileMissing, match=r"/mnt/data/sub/a\.txt"):
                call("sub/a.txt")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>log in</html>"),
        answered([]),
        answered({"status": "Unheard-of"}),
        answered({"status": "Succeeded", "result": 5}),
        Answer(200),
        Answer(200, b"[" * 100_000),
        answered({"status": "Running"}, 202),
    ],
    ids=["HTML", "a list", "unknown status", "no result", "nothing", "deep", "under way without an id"],
)
def test_an_unreadable_response_is_an_error_of_the_service(answer: Answer) -> None:
    with pool_of(Azure(answer)) as pool, pytest.raises(ServiceFailed):
        pool.session("abcd").execute("1")


@pytest.mark.parametrize("status", [200, 500])
def test_a_trickling_response_is_abandoned(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.azure.client.MARGIN", 0.5)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    with pool_of(Azure(Answer(status, trickle))) as pool, pytest.raises(ServiceFailed):
        pool.session("abcd").submit("1", timeout=0.5).result(60)


def test_an_endless_response_is_abandoned() -> None:
    azure = Azure(Answer(200, b" " * (65 << 20)))
    with pool_of(azure) as pool, pytest.raises(ServiceFailed, match="at most 67108864 bytes"):
        pool.session("abcd").execute("1")


# Executions


def test_a_failed_execution_is_data() -> None:
    traceback = "Traceback (most recent call last):\n  File x\nNameError: name 'x' is not defined"
    streams = {"stdout": "before\n", "stderr": traceback, "executionResult": "", "executionTimeInMilliseconds": 1}
    azure = Azure(answered({"id": "e1", "status": "Failed", "result": streams}))
    with pool_of(azure) as pool:
        execution = pool.session("abcd").execute("x")
    assert (execution.status, execution.stdout, execution.stderr) == ("failed", "before\n", "")
    assert execution.error is not None
    assert (execution.error.name, execution.error.value) == ("NameError", "name 'x' is not defined")


def test_the_events_of_a_stream_come_at_the_end() -> None:
    with pool_of(Azure(executed(stdout="hi\n", result="7"))) as pool:
        text, output, execution = pool.session("abcd").stream("…")
    assert text == StreamText("stdout", "hi\n")
    assert isinstance(execution, Execution)
    assert output == execution.outputs[0]


def test_a_long_execution_is_asynchronous_and_polled() -> None:
    azure = Azure(running(), running(), executed(result="7"))
    with pool_of(azure) as pool:
        assert pool.session("abcd").execute("…", timeout=300).result == "7"
    assert azure.calls == ["POST executions", "GET executions/e1", "GET executions/e1"]
    assert azure.bodies[0]["executionType"] == "Asynchronous"
    assert azure.bodies[0]["timeoutInSeconds"] == 300


def test_a_submitted_execution_has_no_limit() -> None:
    azure = Azure(running(), executed(result="7"))
    with pool_of(azure) as pool:
        assert pool.session("abcd").submit("…").result(60).result == "7"
    assert "timeoutInSeconds" not in azure.bodies[0]


def test_an_unfinished_synchronous_execution_is_polled() -> None:
    """2024-10-02-preview answers with 202."""
    azure = Azure(running(202), executed(result="7"))
    with pool_of(azure) as pool:
        assert pool.session("abcd").execute("…").result == "7"


def test_an_execution_whose_session_was_deleted_is_lost() -> None:
    azure = Azure(running(), refused(404, "ExecutionNotFound"))
    with pool_of(azure) as pool, pytest.raises(SandboxLost, match="e1 is no longer known"):
        pool.session("abcd").execute("…", timeout=300)


@pytest.mark.parametrize(
    "answer", [UNREACHABLE, LOST, full("1000"), refused(500)], ids=["no way", "lost", "429", "500"]
)
def test_an_execution_that_cannot_be_polled_may_have_run(answer: Any) -> None:
    azure = Azure(running(), answer)
    with (
        pool_of(azure) as pool,
        pytest.raises(ServiceFailed, match="e1 was started; its outcome is unknown") as caught,
    ):
        pool.session("abcd").execute("…", timeout=300)
    assert "Nothing was run" not in str(caught.value)
    if isinstance(answer, Answer):
        assert caught.value.azure is not None


def test_an_execution_that_never_ends_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.azure.client.MARGIN", 0.5)
    with pool_of(Azure(running(202))) as pool, pytest.raises(ServiceFailed, match="e1 did not end"):
        pool.session("abcd").execute("…", timeout=0.5)


def test_the_legacy_contract_has_no_long_executions() -> None:
    answer = {"properties": {"status": "Success", "stdout": "", "stderr": "", "result": ""}}
    azure = Azure(answered(answer))
    with pool_of(azure, api_version="2024-02-02-preview") as pool:
        with pytest.raises(InvalidRequest, match="at most 220 seconds"):
            pool.session("abcd").execute("…", timeout=221)
        assert pool.session("abcd").submit("…").result(60).succeeded
    assert azure.bodies[0]["properties"]["timeoutInSeconds"] == 220


async def test_executions_of_a_session_run_in_order_and_sessions_in_parallel() -> None:
    under_way: dict[str, int] = {}
    most: dict[str, int] = {"": 0}

    async def answer(request: Request) -> Answer:
        identifier = request.params["identifier"]
        under_way[identifier] = under_way.get(identifier, 0) + 1
        most[identifier] = max(most.get(identifier, 0), under_way[identifier])
        most[""] = max(most[""], sum(under_way.values()))
        await asyncio.sleep(0.02)
        under_way[identifier] -= 1
        return executed()

    with pool_of(Azure(answer)) as pool:
        await asyncio.gather(*(pool.session(f"user-{n % 4}").aexecute("1") for n in range(20)))
    assert most == {"": 4, "user-0": 1, "user-1": 1, "user-2": 1, "user-3": 1}


async def test_cancelling_a_call_ends_its_request() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def answer(_: Request) -> Answer:
        loop.call_soon_threadsafe(begun.set)
        try:
            await asyncio.sleep(60)
        finally:
            loop.call_soon_threadsafe(ended.set)
        return executed()

    azure = Azure(answer, executed(result="7"))
    with pool_of(azure) as pool:
        call = asyncio.create_task(pool.session("abcd").aexecute("…"))
        await asyncio.wait_for(begun.wait(), 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ended.wait(), 60)
        assert (await pool.session("abcd").aexecute("…")).result == "7"


# Files


def test_a_file_over_the_limit_is_refused_in_both_directions() -> None:
    azure = Azure(Answer(200, bytes(2000)))
    with pool_of(azure, file_limit=1000) as pool:
        with pytest.raises(FileRefused, match="over the limit of 1,000 bytes"):
            pool.session("abcd").upload(bytes(1001), "a.bin")
        with pytest.raises(FileRefused, match="over the limit of 1,000 bytes"):
            pool.session("abcd").download("a.bin")
    assert azure.calls == ["GET files/a.bin/content"]


def entry(name: str, kind: str = "file") -> dict[str, Any]:
    return {"name": name, "type": kind, "sizeInBytes": 1, "lastModifiedAt": "2024-11-11T09:05:02Z"}


def test_versions_without_recursive_lists_list_each_directory() -> None:
    tree = {"": [entry("a.txt"), entry("sub", "directory")], "sub": [entry("b.txt")]}
    azure = Azure(lambda request: answered({"value": tree[request.params.get("path", "")]}))
    with pool_of(azure, api_version="2025-02-02-preview") as pool:
        files = pool.session("abcd").files(recursive=True)
    assert [file.path for file in files] == ["/mnt/data/a.txt", "/mnt/data/sub", "/mnt/data/sub/b.txt"]


def test_endlessly_nested_directories_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.azure.client._MAX_DIRECTORIES", 20)
    same = {"value": [entry("a", "directory"), entry("b", "directory")]}
    azure = Azure(answered(same))
    with (
        pool_of(azure, api_version="2025-02-02-preview") as pool,
        pytest.raises(ServiceFailed, match="at most 20 directories"),
    ):
        pool.session("abcd").files(recursive=True)
    assert len(azure.requests) <= 21


# Lists in pages


def test_a_list_continues_at_its_next_link() -> None:
    first = {"value": [entry("b.txt")], "nextLink": f"{ENDPOINT}/files?skip=1"}
    azure = Azure(answered(first), answered({"value": [entry("a.txt")]}))
    with pool_of(azure) as pool:
        assert [file.name for file in pool.session("abcd").files()] == ["a.txt", "b.txt"]
    assert azure.requests[1].params["skip"] == "1"
    assert azure.requests[1].params["identifier"] == "abcd"


@pytest.mark.parametrize(
    "link", ["https://example.com/files?skip=1", "//example.com/files", "http://eastasia.dynamicsessions.io/?skip=1"]
)
def test_no_token_is_sent_to_a_foreign_next_link(link: str) -> None:
    azure = Azure(answered({"value": [], "nextLink": link}))
    with pool_of(azure) as pool, pytest.raises(ServiceFailed, match="must be below"):
        pool.session("abcd").files()
    assert len(azure.requests) == 1


@pytest.mark.parametrize("link", ["http://[bad", "?skip=" + "1" * 100_000], ids=["no address", "endless"])
def test_an_invalid_next_link_is_an_error_of_the_service(link: str) -> None:
    azure = Azure(answered({"value": [], "nextLink": link}))
    with pool_of(azure) as pool, pytest.raises(ServiceFailed, match="The link to the next page must"):
        pool.session("abcd").files()
    assert len(azure.requests) == 1


def test_an_endless_list_is_cut_off() -> None:
    azure = Azure(answered({"value": [], "nextLink": "?skip=1"}))
    with pool_of(azure) as pool, pytest.raises(ServiceFailed, match="must point to a new page"):
        pool.session("abcd").files()


# Sessions


@pytest.mark.parametrize("version", ["2024-02-02-preview", "2024-08-02-preview", "2024-10-02-preview"])
def test_sessions_are_listed(version: str) -> None:
    moment = "2025-01-21T03:38:05.232Z"
    names = ["user-2", "user-1"]
    sessions = [{"identifier": name, "createdAt": moment, "lastAccessedAt": moment} for name in names]
    azure = Azure(answered({"sessions": sessions}))
    with pool_of(azure, api_version=version) as pool:
        assert [session.identifier for session in pool.sessions()] == ["user-1", "user-2"]
        assert "2 of ? sessions" in repr(pool.status())
    assert azure.requests[0].params["api-version"] == "2025-10-02-preview"  # earlier ones have no list


@pytest.mark.parametrize(
    "answer", [Answer(204), refused(404, "NoSessionFoundError"), refused(400, "SessionWithIdentifierNotFound")]
)
def test_deleting_a_session_is_idempotent(answer: Answer) -> None:
    azure = Azure(answer)
    with pool_of(azure) as pool:
        pool.session("abcd").delete()
    assert azure.calls == ["DELETE session"]


def test_a_failed_deletion_of_a_session_hides_no_earlier_error() -> None:
    azure = Azure(refused(500, "First", "the first"), refused(500, "Second", "the second"))
    with pool_of(azure) as pool:
        with pytest.raises(ServiceFailed, match="the first"), pool.session("abcd") as session:
            session.execute("1")
        with pytest.raises(ServiceFailed, match="the second"), pool.session("abcd"):
            pass


def test_closing_deletes_the_sessions_with_generated_identifiers() -> None:
    azure = Azure(lambda request: executed() if request.method == "POST" else refused(500))
    with pool_of(azure) as pool:
        own = pool.session()
        own.execute("1")
        pool.session("user-1").execute("1")
        pool.session()
    deleted = [each.params["identifier"] for each in azure.requests if each.method == "DELETE"]
    assert deleted == [own.identifier]


def test_closing_does_not_delete_what_was_deleted() -> None:
    azure = Azure(lambda request: executed() if request.method == "POST" else Answer(204))
    with pool_of(azure) as pool:
        with pool.session() as session:
            session.execute("1")
        again = pool.session()
        again.delete()
        again.execute("1")
    assert azure.calls == ["POST executions", "DELETE session", "DELETE session", "POST executions", "DELETE session"]


def test_a_session_has_the_memory_of_its_pool() -> None:
    with pool_of(Azure()) as pool, pytest.raises(InvalidRequest, match="sessionpool create --memory"):
        pool.session("abcd", memory="1Gi")


def test_a_session_has_the_limits_and_variables_of_its_pool() -> None:
    with pool_of(Azure()) as pool:
        with pytest.raises(
            InvalidRequest, match=r"idle_timeout: in Azure it is set for the pool, .* --cooldown-period"
        ):
            pool.session("abcd", idle_timeout=300)
        for call in (
            lambda: pool.session("abcd", env={"TZ": "secret"}),
            lambda: pool.session("abcd").execute("1", env={"TZ": "secret"}),
            lambda: pool.session("abcd").shell("date", env={"TZ": "secret"}),
        ):
            with pytest.raises(InvalidRequest, match=r"such as TZ\. Set them in the code, .*: TZ=UTC date") as caught:
                call()
            assert "secret" not in str(caught.value)


def test_tools_are_refused_before_anything_is_sent() -> None:
    def get_orders(customer: int) -> list[int]:
        return [customer]

    azure = Azure()
    with (
        pool_of(azure) as pool,
        pytest.raises(InvalidRequest, match=r"The pool must .* tools: in Azure, code .* cannot call"),
    ):
        pool.session("abcd").execute("get_orders(1)", tools=[get_orders])
    assert azure.calls == []


async def test_a_closed_pool_raises_and_can_be_closed_again() -> None:
    pool = backend_of(Azure())
    pool.mark_owned("abcd")
    await pool.execute("abcd", "1", timeout=None, on_event=None)
    await pool.close()
    with pytest.raises(PoolClosed):
        await pool.execute("abcd", "1", timeout=None, on_event=None)
    await pool.close()


async def test_closing_ends_the_wait_of_a_call_for_a_place() -> None:
    asked = asyncio.Event()

    def answer(_: Request) -> Answer:
        asked.set()
        return full()

    pool = backend_of(Azure(answer))
    call = asyncio.create_task(pool.execute("user-1", "1", timeout=None, on_event=None))
    await asked.wait()
    await pool.close()
    with pytest.raises(PoolClosed):
        await call


# Nothing in the logs


@pytest.mark.parametrize("answer", [executed(), refused(500, "InternalServerError", "oops")], ids=["good", "bad"])
def test_no_log_has_a_token_code_or_content(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    use: list[Callable[[Session], object]] = [
        lambda session: session.execute("print('the-secret-code')"),
        lambda session: session.upload(b"the-secret-content", "a.txt"),
    ]
    with caplog.at_level(logging.INFO), pool_of(Azure(answer)) as pool:
        for call in use:
            try:
                call(pool.session("abcd"))
            except ServiceFailed as error:
                logging.getLogger("test").info("%r %s", error, json.dumps(str(pool)))
    assert "the-secret" not in caplog.text


def test_the_pools_representation_keeps_the_key() -> None:
    with pool_of(Azure()) as pool:
        assert TOKEN not in repr(pool)
        assert ENDPOINT in repr(pool)


def test_without_httpx_the_message_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("remote", "client", "httpx_transport"):
        monkeypatch.delitem(sys.modules, f"greenroom.azure.{module}", raising=False)
    for library in {"httpx", httpx_transport.httpx.__name__}:  # pyright: ignore[reportPrivateImportUsage]
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'greenroom\[azure\]'"):
        greenroom.connect(ENDPOINT)


def test_no_timeout_is_infinite_for_a_socket() -> None:
    azure = Azure(running(), executed())
    with pool_of(azure) as pool:
        pool.session("abcd").submit("…").result(60)
    assert all(math.isfinite(request.sent.read_timeout) for request in azure.requests)
