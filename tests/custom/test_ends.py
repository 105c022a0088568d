"""Containers that do not start, that end, and whose owner ends: nothing is left behind, and the error says why."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from tests.waiting import within

import greenroom
from greenroom import AzureRangeWarning, CustomContainer, EngineUnavailable, Probe, SandboxLost, SessionPool

from .conftest import containers_of, template

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::greenroom.AzureRangeWarning")]

OWNER = """
import json, sys, threading
import greenroom
pool = greenroom.connect("docker:", template=json.loads(sys.argv[1]))
for number in range(3):
    pool.session(f"owned-{number}").request("POST", "/run", content=sys.argv[2])
print("ready", flush=True)
threading.Event().wait()
"""
HOSTILE = """
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        if os.fork():
            os._exit(0)
        os.closerange(0, 64)
        while True:
            pass
"""


def connect(image: str, **container: Any) -> SessionPool:
    described = CustomContainer.model_validate({"image": image, "target_port": 8080, **container})
    return greenroom.connect("docker:", container=described, ready_session_instances=0, memory="512Mi", cpu=0.5)


def nothing_is_left(pid: int | None = None) -> bool:
    return containers_of(pid) == []


@pytest.mark.alone
@pytest.mark.parametrize("code", ["pass", HOSTILE], ids=["idle", "hostile"])
def test_containers_end_with_a_killed_owner(image: str, code: str) -> None:
    command = [sys.executable, "-c", OWNER, json.dumps(template(image)), code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            assert owner.stdout.readline() == "ready\n"
            assert len(containers_of(owner.pid)) >= 6
        finally:
            owner.send_signal(signal.SIGKILL)
    assert within(60, lambda: nothing_is_left(owner.pid)), containers_of(owner.pid)


def test_a_container_that_exits_immediately_is_an_error_with_its_last_lines(image: str) -> None:
    with connect(image, command=("sh", "-c", "echo cannot find the model >&2; exit 7")) as pool:
        began = time.monotonic()
        with pytest.raises(EngineUnavailable) as raised:
            pool.session().request("GET", "/")
        assert time.monotonic() - began < 60
        message = str(raised.value)
        assert "ended before it was ready: it exited with code 7" in message
        assert message.endswith("Its last output:\ncannot find the model")
        assert within(60, nothing_is_left)


@pytest.mark.parametrize(
    ("startup", "message"),
    [
        ({"path": "/status/503"}, r"\(GET /status/503 on port 8080\) failed 2 times, the last time with status 503\."),
        ({"port": 9}, r"connection to port 9\) failed 2 times, the last time with the error: .* Connection refused\."),
    ],
)
def test_a_container_that_never_answers_its_probe_is_an_error(
    image: str, startup: dict[str, Any], message: str
) -> None:
    later = {"initial_delay": 5, "period": 0.1, "failure_threshold": 2}  # after the server's start
    with connect(image, startup={**startup, **later}) as pool:
        with pytest.raises(EngineUnavailable, match=message) as raised:
            pool.session().request("GET", "/")
        assert "Its last output:\nserving, with arguments ['8080']" in str(raised.value)
        assert within(60, nothing_is_left)


def test_a_slow_start_is_waited_for(image: str) -> None:
    probe = Probe(path="/health", period=0.2, failure_threshold=100)  # pyright: ignore[reportCallIssue]
    with connect(image, startup=probe, env={"START_DELAY": "2"}) as pool:
        began = time.monotonic()
        assert pool.session().request("GET", "/").text == "hello"
        assert time.monotonic() - began > 2


def test_a_failed_liveness_probe_ends_the_session(image: str) -> None:
    with connect(image, liveness={"path": "/health", "period": 0.2, "failure_threshold": 2}) as pool:
        session = pool.session("ill-0001")
        session.request("POST", "/state", json={"x": 1})
        session.request("GET", "/sicken")
        assert within(60, lambda: session.info() is None)
        assert session.request("GET", "/state").json() == {}
        assert pool.status().evictions == {"ended by itself": 1}


def test_a_container_that_ends_in_a_request_is_a_lost_session(image: str) -> None:
    with connect(image) as pool:
        session = pool.session("lost-0001")
        assert session.request("GET", "/exit").status == 200
        assert within(60, lambda: session.info() is None)
        with pytest.raises(SandboxLost, match=r"has ended: it exited with code 3\. Its state is gone") as raised:
            session.request("POST", "/run", content="import os\nprint(1, flush=True)\nos._exit(3)")
        assert "Its last output:" in str(raised.value)
        assert session.request("GET", "/state").json() == {}


def test_sessions_cool_down_or_reach_their_age(image: str) -> None:
    properties: Any = {"image": image, "target_port": 8080}
    with greenroom.connect("docker:", container=properties, ready_session_instances=0, cooldown_period=1) as pool:
        session = pool.session("cool-0001")
        session.request("POST", "/state", json={"x": 1})
        assert within(60, lambda: session.info() is None)
        assert session.request("GET", "/state").json() == {}
    with greenroom.connect(
        "docker:", container=properties, ready_session_instances=0, lifecycle="on_container_exit", max_alive_period=15
    ) as pool:
        session = pool.session("aged-0001")
        session.request("POST", "/state", json={"x": 1})
        time.sleep(2)
        assert session.request("GET", "/state").json() == {"x": 1}
        assert within(60, lambda: session.info() is None)
        assert within(60, nothing_is_left)


def test_probes_outside_azures_ranges_are_warned_about(image: str) -> None:
    with pytest.warns(AzureRangeWarning, match=r"container\.startup\.period=0\.5 works here, but Azure"):
        connect(image, startup={"port": 8080, "period": 0.5}).close()
