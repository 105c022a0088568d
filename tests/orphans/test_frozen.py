"""Frozen sandboxes cannot notice the end of their owner: a watchdog does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tests.orphans.test_the_end import alive, below, groups, wait_for
from tests.processes import containers
from tests.waiting import within

from greenroom.engines import last_guard
from greenroom.engines.bubblewrap import cgroups
from greenroom.testing import engine_pool

pytestmark = pytest.mark.alone

ENGINES = ["bubblewrap:", "bubblewrap:?fork=off", "docker:"]
COUNT = 4
LIMIT = 90.0  # seconds, on a busy machine
OWNER = """
import os, sys, threading, time
import greenroom
pool = greenroom.connect(sys.argv[1], preload=(), ready_session_instances=0, idle_after=0.2)
sleeping = "import threading, time\\nthreading.Thread(target=time.sleep, args=(1e6,)).start()"
for number in range(int(sys.argv[2])):
    pool.session(f"owned-{number}").execute(sleeping)
while pool.status().frozen < int(sys.argv[2]):
    time.sleep(0.05)
if len(sys.argv) > 3:  # a copy of this process, which keeps what it had open
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
print("frozen", flush=True)
threading.Event().wait()
"""


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest) -> str:
    engine_pool(request.param, ready_session_instances=0).close()  # skips, or fails, where there is no such engine
    if request.param.startswith("bubblewrap:") and ((found := cgroups.find()) is None or not found.freezes):
        pytest.skip("There are no control groups here that this user may use.")
    return request.param


@pytest.fixture
def owner(url: str) -> Iterator[subprocess.Popen[str]]:
    with owner_of(url) as process:
        yield process


@contextlib.contextmanager
def owner_of(url: str, *more: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OWNER, url, str(COUNT), *more]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        wait_for(process, "frozen")
        yield process
        process.kill()
        for pid, _ in below(process.pid):  # of a failed test
            os.kill(pid, signal.SIGKILL)


def watchdog_of(owner: subprocess.Popen[str]) -> int:
    [found] = [pid for pid, _ in below(owner.pid) if last_guard.__file__ in command_of(pid)]
    return found


def command_of(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


def nothing_is_left(owner: int, group: set[tuple[int, str]]) -> bool:
    return not alive(group) and not containers(owner) and not groups(owner)


@pytest.mark.parametrize("url", [*ENGINES, "docker:?runtime=runsc"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_frozen_sandboxes_end_with_a_killed_owner(owner: subprocess.Popen[str], number: signal.Signals) -> None:
    group = below(owner.pid)
    assert len(group) + len(containers(owner.pid)) > COUNT
    owner.send_signal(number)  # and nobody waits for it: a process that has ended, but is not gone
    assert within(LIMIT, lambda: nothing_is_left(owner.pid, group)), (alive(group), groups(owner.pid))


def test_sandboxes_end_even_if_a_copy_of_the_owner_lives(url: str) -> None:
    with owner_of(url, "fork") as owner:
        group = below(owner.pid)
        copies = {each for each in group if " -c " in command_of(each[0]) and OWNER[:20] in command_of(each[0])}
        assert len(copies) == 1
        owner.kill()
        assert within(LIMIT, lambda: nothing_is_left(owner.pid, group - copies)), alive(group)
        for pid, _ in copies:
            os.kill(pid, signal.SIGKILL)


def test_a_killed_watchdog_is_replaced(owner: subprocess.Popen[str]) -> None:
    group = below(owner.pid)
    first = watchdog_of(owner)
    os.kill(first, signal.SIGTERM)  # as a service manager sends it to every process of a unit
    time.sleep(0.2)
    assert watchdog_of(owner) == first
    os.kill(first, signal.SIGKILL)
    assert within(
        LIMIT, lambda: any(last_guard.__file__ in command_of(pid) for pid in alive(below(owner.pid)) - {first})
    )
    group |= below(owner.pid)
    time.sleep(1)  # it starts to watch
    owner.kill()
    assert within(LIMIT, lambda: nothing_is_left(owner.pid, group)), alive(group)


def test_the_next_pool_removes_what_a_killed_watchdog_left(url: str, owner: subprocess.Popen[str]) -> None:
    group = below(owner.pid)
    watchdog = watchdog_of(owner)
    os.kill(owner.pid, signal.SIGSTOP)
    os.kill(watchdog, signal.SIGKILL)
    owner.kill()
    owner.wait()
    engine_pool(url, ready_session_instances=0).close()
    assert within(LIMIT, lambda: nothing_is_left(owner.pid, group)), alive(group)


def test_a_closed_pool_leaves_no_watchdog(url: str) -> None:
    with engine_pool(url, preload=(), ready_session_instances=0, idle_after=0.2) as pool:
        pool.session("frozen").execute("x = 1").raise_for_error()
        assert within(LIMIT, lambda: pool.status().frozen == 1)
        assert any(last_guard.__file__ in command_of(pid) for pid, _ in below(os.getpid()))
    assert within(LIMIT, lambda: not below(os.getpid()))
