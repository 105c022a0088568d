"""Which version a client uses: a server that is not Azure's is asked once, before the first call."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

import greenroom
from greenroom import AccessDenied, InvalidRequest, ServiceFailed, SessionPool, wire
from greenroom.azure.remote import remote_pool
from greenroom.azure.settings import AzureSettings
from greenroom.azure.transport import Unreachable
from greenroom.backend import Backend
from greenroom.models import ContainerType, Execution
from greenroom.sessions import OpenPool
from greenroom.testing.server import serving
from greenroom.wire.executions import execution_lines
from greenroom.wire.values import dump

from .scripted import ENDPOINT, TOKEN, Answer, Azure, Scripted, answered, executed, refused

SERVER = "http://127.0.0.1:8080/sessionPools/p"
OURS = Answer(204, b"", {wire.VERSIONS_HEADER: "greenroom/2, greenroom/1"})
HI = Answer(200, b"".join(map(dump, execution_lines(Execution("1", "succeeded", stdout="hi", result="2")))))


@contextmanager
def connected(azure: Azure, endpoint: str = SERVER, **options: object) -> Generator[SessionPool, None, None]:
    async def make() -> Backend:
        return remote_pool(
            endpoint, AzureSettings.parse({"api_key": TOKEN, "acquire_timeout": 0, **options}), transport=azure
        )

    with SessionPool(OpenPool.open(make)) as pool:
        yield pool


def test_a_greenroom_server_is_queried_once_and_gets_every_call_in_its_own_version() -> None:
    azure = Azure(OURS, HI)
    with connected(azure) as pool:
        session = pool.session("abcd")
        assert session.execute("1").result == "2"
        assert session.execute("1").stdout == "hi"
        assert pool.session("efgh").execute("1").stdout == "hi"
        assert repr(pool) == f"<SessionPool greenroom/1: {SERVER}>"
    assert azure.calls == ["GET greenroom", *["POST greenroom/1/executions"] * 3]
    assert {request.headers["authorization"] for request in azure.requests} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "answer",
    [
        refused(400, "SessionRequestNotSupported"),
        refused(404),
        Answer(405),
        Answer(501),
        Answer(200, b"<html>"),
        answered({}),
        Answer(204, b"", {wire.VERSIONS_HEADER: "greenroom/2"}),
    ],
)
def test_another_server_gets_azures_version_and_is_not_queried_again(answer: Answer) -> None:
    azure = Azure(answer, executed(stdout="hi"))
    with connected(azure) as pool:
        for _ in range(2):
            assert pool.session("abcd").execute("1").stdout == "hi"
    assert azure.calls == ["GET greenroom", "POST executions", "POST executions"]
    assert azure.requests[1].params["api-version"] == "2025-10-02-preview"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(401), AccessDenied),
        (refused(403), AccessDenied),
        (refused(500), ServiceFailed),
        (refused(503), ServiceFailed),
        (Unreachable("refused"), ServiceFailed),
    ],
)
def test_a_failed_discovery_is_an_error_and_is_retried(answer: Scripted, error: type[Exception]) -> None:
    azure = Azure(answer)
    with connected(azure) as pool:
        with pytest.raises(error):
            pool.session("abcd").execute("1")
        azure.answers[:] = [OURS, HI]
        assert pool.session("abcd").execute("1").stdout == "hi"


@pytest.mark.parametrize("endpoint", [ENDPOINT, "https://app.env.eastasia.azurecontainerapps.io"])
def test_azure_is_sent_nothing_new(endpoint: str) -> None:
    azure = Azure(executed(stdout="hi"))
    with connected(azure, endpoint) as pool:
        pool.session("abcd").execute("1")
    assert [request.method for request in azure.requests] == ["POST"]
    assert not any("greenroom/1" in str(request) for request in azure.requests)


@pytest.mark.parametrize(
    ("version", "path"), [("2025-02-02-preview", "executions"), (wire.VERSION, "greenroom/1/executions")]
)
def test_a_server_with_a_given_version_is_not_queried(version: str, path: str) -> None:
    azure = Azure(HI if version == wire.VERSION else executed(stdout="hi"))
    with connected(azure, api_version=version) as pool:
        assert pool.session("abcd").execute("1").stdout == "hi"
    assert azure.calls == [f"POST {path}"]


def test_a_session_with_its_own_memory_limit_is_refused_where_the_server_has_no_support() -> None:
    azure = Azure(refused(404), executed())
    with connected(azure) as pool:
        session = pool.session("abcd", memory="1Gi")
        with pytest.raises(InvalidRequest, match="in Azure it is set for the pool"):
            session.execute("1")
        with pytest.raises(InvalidRequest, match="in Azure it is set for the pool"):
            pool.session("efgh", memory="1Gi")
    assert azure.calls == ["GET greenroom"]


# The container type, which the server tells


def of_type(name: str) -> Answer:
    return Answer(204, b"", {wire.VERSIONS_HEADER: "greenroom/1", wire.TYPE_HEADER: name})


def test_the_container_type_is_that_of_the_server() -> None:
    with connected(Azure(of_type("NodeLTS"), HI)) as pool:
        pool.session("abcd").execute("1")
        assert pool.container_type is ContainerType.NODE_LTS
    with connected(Azure(of_type("NodeLTS"), HI), container_type="NodeLTS") as pool:
        assert pool.container_type is ContainerType.NODE_LTS
        assert pool.session("abcd").execute("1").stdout == "hi"
    with connected(Azure(OURS, HI), container_type="Shell") as pool:  # an earlier server, which does not tell
        assert pool.session("abcd").execute("1").stdout == "hi"
        assert pool.container_type is ContainerType.SHELL


def test_a_container_type_that_contradicts_the_servers_is_refused_before_anything_runs() -> None:
    azure = Azure(of_type("NodeLTS"))
    with connected(azure, container_type="Shell") as pool:
        for _ in range(2):
            with pytest.raises(InvalidRequest, match=r"container_type must be NodeLTS, .* not Shell"):
                pool.session("abcd").execute("1")
    with connected(azure) as pool:
        assert pool.container_type is ContainerType.PYTHON_LTS  # as a tool asks for it, to describe itself
        with pytest.raises(InvalidRequest, match=r"container_type must be NodeLTS, .* not PythonLTS"):
            pool.session("abcd").execute("1")
    assert set(azure.calls) == {"GET greenroom"}


def test_an_unknown_container_type_is_unreadable() -> None:
    with connected(Azure(of_type("Pascal"))) as pool, pytest.raises(ServiceFailed, match="not 'Pascal'"):
        pool.session("abcd").execute("1")


def test_a_greenroom_server_reports_the_container_type() -> None:
    with (
        serving("bubblewrap:", container_type="Shell", preload=(), ready_session_instances=0) as url,
        greenroom.connect(url) as pool,
    ):
        assert pool.session("abcd").execute("echo a > a; cat a").stdout == "a\n"
        assert pool.container_type is ContainerType.SHELL


# One server, several applications


def test_workers_of_one_service_share_sessions_which_outlive_a_restart() -> None:
    with serving("bubblewrap:", preload=(), ready_session_instances=0) as url:
        with greenroom.connect(url) as one, greenroom.connect(url) as other:
            one.session("user-0001").execute("visits = 1")
            other.session("user-0001").upload(b"kept", "kept.txt")
            assert other.session("user-0001").execute("visits + 1").result == "2"
            assert one.session("user-0001").download("kept.txt") == b"kept"
            assert [info.identifier for info in other.sessions()] == ["user-0001"]
            unnamed = one.session()
            unnamed.execute("1")
        with greenroom.connect(url) as restarted:
            assert [info.identifier for info in restarted.sessions()] == ["user-0001"], "the unnamed one was deleted"
            assert restarted.session("user-0001").execute("visits, open('kept.txt').read()").result == "(1, 'kept')"
