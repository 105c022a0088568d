"""Many sessions over a long time, and a daemon that stops: nothing is mixed up, nothing is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.processes import containers, descendants

from greenroom import Session
from greenroom.testing import engine_pool

pytestmark = pytest.mark.alone

ENGINES = ["bubblewrap:", "docker:"]
SMALL = {"preload": (), "ready_session_instances": 0}


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.timeout(400)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_hundred_parallel_sessions_are_not_mixed_up(engine: str) -> None:
    with engine_pool(engine, max_concurrent_sessions=100, acquire_timeout=300, **SMALL) as pool:
        sessions = [pool.session(f"user-{number:04}") for number in range(100)]

        def introduce(number: int) -> None:
            sessions[number].execute(f"me = {number}", timeout=120).raise_for_error()

        def ask(session: Session) -> str | None:
            return session.execute("me * 1001", timeout=120).result

        with ThreadPoolExecutor(100) as threads:
            list(threads.map(introduce, range(100)))
            for _ in range(3):
                assert list(threads.map(ask, sessions)) == [str(number * 1001) for number in range(100)]
        status = pool.status()
        assert (status.idle, status.limit) == (100, 100)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ("bubblewrap:", 100),
        ("docker:", 30),
        pytest.param("bubblewrap:", 1000, marks=pytest.mark.soak),
        pytest.param("docker:", 200, marks=pytest.mark.soak),
    ],
)
def test_many_sessions_through_a_small_pool_leave_nothing_behind(engine: str, count: int) -> None:
    """Fewer containers, as Docker takes ten times as long for each."""

    def once(number: int) -> None:
        with pool.session() as session:
            session.upload(b"x" * 10_000, "data.bin")
            execution = session.execute(f"x = {number}; print(x); len(open('data.bin').read())", timeout=120)
            assert (execution.stdout, execution.result) == (f"{number}\n", "10000")

    options = {"max_concurrent_sessions": 20, "ready_session_instances": 2, "preload": (), "acquire_timeout": 300}
    with engine_pool(engine, **options) as pool, ThreadPoolExecutor(20) as threads:
        list(threads.map(once, range(20)))
        gc.collect()
        memory, descriptors = resident_megabytes(), descriptors_open()
        list(threads.map(once, range(count)))
        gc.collect()
        assert resident_megabytes() - memory < 30
        assert descriptors_open() - descriptors < 40
        assert pool.status().idle == 0
        assert pool.status().evictions["session deleted"] == count + 20
    deadline = time.monotonic() + 10
    while (descendants(os.getpid()) or containers(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not descendants(os.getpid())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("greenroom")]


_NEIGHBOUR = """
import sys, greenroom
pool = greenroom.connect(sys.argv[1], preload=())
sessions = [pool.session() for _ in range(3)]
for session in sessions:
    session.execute("x = 1")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def neighbour(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    engine_pool(request.param, ready_session_instances=0).close()
    process = subprocess.Popen(
        [sys.executable, "-c", _NEIGHBOUR, request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("neighbour", "engine"), [(engine, engine) for engine in ENGINES], indirect=["neighbour"])
def test_a_killed_neighbour_does_not_affect_this_pool(engine: str, neighbour: subprocess.Popen[str]) -> None:
    with engine_pool(engine, **SMALL) as pool, pool.session() as session:
        session.execute("mine = 5")
        neighbour.kill()
        neighbour.wait()
        for _ in range(10):
            assert session.execute("mine").result == "5"
            time.sleep(0.1)
        with engine_pool(engine, **SMALL) as another, another.session() as second:  # its start sweeps
            assert second.execute("1 + 1").result == "2"
        assert session.execute("mine").result == "5"


def test_a_benchmark_opens_many_concurrent_sessions_and_leaves_nothing() -> None:
    with engine_pool("bubblewrap:", **SMALL):  # skips the test without bubblewrap
        pass
    done = subprocess.run(
        [sys.executable, "benchmarks/thousand.py", "--sessions", "30"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "all used again" in done.stdout
