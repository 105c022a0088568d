"""Several workers in processes of their own, which share the sessions of one `greenroom serve`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import greenroom
from load.processes import Service, descendants, running, still_there
from load.run import measure

PATIENCE = 60.0
COUNT_WHEN_TOLD = """
import os, time
count = globals().get("count", 0) + 1
open("begun", "w").close()
while not os.path.exists("go"):
    time.sleep(0.02)
count
"""


@pytest.fixture
def pool_url(greenroom_pool: greenroom.SessionPool, greenroom_pool_url: str) -> str:
    """Where the code runs, if it can."""
    del greenroom_pool
    return greenroom_pool_url


@pytest.fixture
def service(pool_url: str) -> Iterator[Service]:
    with running(pool_url, burst=1000) as service:
        yield service


def client(service: Service, user: str = "alice") -> httpx.Client:
    headers = service.headers(user)
    return httpx.Client(base_url=service.web.url, headers=headers, timeout=PATIENCE, trust_env=False)


def run(http: httpx.Client, code: str, key: str | None = None) -> Any:
    response = http.post("/run", json={"code": code}, headers={} if key is None else {"Idempotency-Key": key})
    assert response.status_code == 200, response.text
    return response.json()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_begun(http: httpx.Client) -> bool:
    return "begun" in [file["name"] for file in http.get("/files").json()]


def test_code_continues_when_its_workers_are_killed_and_runs_once(service: Service) -> None:
    with client(service) as http, ThreadPoolExecutor() as threads:
        broken = threads.submit(run, http, COUNT_WHEN_TOLD, "a-key")
        with client(service) as other:
            until(lambda: has_begun(other))
        killed = service.web.workers()
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            broken.result(PATIENCE)
    until(lambda: len(service.web.workers()) == len(killed) and not set(killed) & set(service.web.workers()))
    with client(service) as http, ThreadPoolExecutor() as threads:
        until(lambda: is_up(http))
        again = threads.submit(run, http, COUNT_WHEN_TOLD, "a-key")
        http.put("/files/go", content=b"")
        assert again.result(PATIENCE)["result"] == "1"
        assert run(http, COUNT_WHEN_TOLD, "a-key")["result"] == "1"
        assert run(http, "count")["result"] == "1", "the session is the same in another worker, and the code ran once"


def is_up(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def test_stopping_lets_requests_end_and_leaves_nothing(service: Service) -> None:
    with client(service) as http, ThreadPoolExecutor() as threads:
        last = threads.submit(run, http, COUNT_WHEN_TOLD)
        with client(service) as other:
            until(lambda: has_begun(other))
            stopping = threads.submit(service.web.end)
            # One of the workers has this connection, and serves it until it is idle.
            until(lambda: "Shutting down" in service.web.said.read_text())
            assert not last.done()
        with greenroom.connect(service.pool.url, api_key=service.key) as pool:
            (session,) = pool.sessions()
            pool.session(session.identifier).upload(b"", "go")
            assert last.result(PATIENCE)["result"] == "1"
            assert stopping.result(PATIENCE) == 0
            assert pool.session(session.identifier).execute("count").result == "1", (
                "a new version of the service has it"
            )
    sandboxes = descendants(service.pool.pid)
    assert sandboxes
    assert service.pool.end() == 0
    assert still_there(sandboxes) == 0
    assert "Traceback" not in service.web.said.read_text()


def test_without_its_backend_the_service_reports_the_problem(service: Service) -> None:
    with client(service) as http:
        run(http, "x = 1")
        service.pool.end()
        for request in (
            http.build_request("POST", "/run", json={"code": "x"}),
            http.build_request("POST", "/run", json={"code": "x"}, headers={"Idempotency-Key": "k"}),
            http.build_request("GET", "/files"),
            http.build_request("GET", "/readyz"),
        ):
            response = http.send(request)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
            assert "retry-after" in response.headers
            assert service.pool.url.removeprefix("http://") not in response.text
        assert http.get("/healthz").status_code == 200


def test_a_full_pool_asks_clients_to_retry(pool_url: str) -> None:
    with running(
        f"{pool_url}&max_concurrent_sessions=1&ready_session_instances=0&acquire_timeout=0.5", burst=1000
    ) as service:
        with client(service) as alice:
            run(alice, "x = 1")
        with client(service, "bob") as bob:
            response = bob.post("/run", json={"code": "1"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "busy")
        assert int(response.headers["retry-after"]) >= 1


def test_the_workers_count_the_requests_of_a_user_together(pool_url: str) -> None:
    with running(pool_url, burst=5, rate=0.001) as service:
        statuses: list[int] = []
        for _ in range(8):
            with client(service) as http:  # a connection each, which any worker accepts
                statuses.append(http.get("/files").status_code)
    assert statuses == [200] * 5 + [429] * 3


def test_the_load_test_loses_nothing(pool_url: str) -> None:
    del pool_url
    for _ in range(3):  # the worker can be killed between two requests
        result = measure(users=10, seconds=4)
        assert result.is_sound, result
        assert result.requests > 10
        if result.broken:
            return
    pytest.fail("the worker that was killed never had a request")
