"""However the owner of a pool ends, its sandboxes end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.processes import containers, statistics
from tests.waiting import within

from greenroom import SessionPool
from greenroom.engines.bubblewrap import cgroups
from greenroom.testing import engine_pool

pytestmark = pytest.mark.alone

ENGINES = ["bubblewrap:", "docker:", "docker:?runtime=runsc"]
StartOwner = Callable[[str, str], subprocess.Popen[str]]
LIMIT = 60.0  # seconds, after which nothing may be left
DOCKER = Path("/var/run/docker.sock")
NOBODY = 65534

BEGIN = """
import asyncio, os, signal, sys, threading
import greenroom
pool = greenroom.connect(sys.argv[1], preload=(), ready_session_instances=0)
session = pool.session()
assert session.execute("6 * 7").result == "42"
def ready():
    print("ready", flush=True)
    input()
"""
# By how it ends: the rest of the program, its exit code, and the last line of its errors.
ENDS: dict[str, tuple[str, int, list[str]]] = {
    "the end of the script": ("ready()", 0, []),
    "an exception": ("ready()\nraise LookupError('of the program')", 1, ["LookupError: of the program"]),
    "sys.exit": ("ready()\nsys.exit(3)", 3, []),
    "an open generator": (
        "stream = session.stream('import time\\nprint(1, flush=True)\\ntime.sleep(1000)')\nnext(stream)\nready()",
        0,
        [],
    ),
    "a running execution, and sandboxes that start": (
        """
        running = session.submit("while True: pass")
        ready()
        others = [pool.session().submit("1") for _ in range(3)]
        """,
        0,
        [],
    ),
    "Ctrl-C": (
        """
        ready()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        session.execute("import time\\ntime.sleep(1000)")
        """,
        -2,
        ["KeyboardInterrupt"],
    ),
    "an event loop that is left": (
        """
        async def main():
            global stream
            stream = session.astream("import time\\nprint(1, flush=True)\\ntime.sleep(1000)")
            await anext(stream)
            ready()
            sys.exit(4)
        asyncio.run(main())
        """,
        4,
        [],
    ),
}


def processes() -> dict[int, tuple[int, str]]:
    """By process: its parent, and when it started."""
    return {process: (int(fields[1]), fields[19]) for process, fields in statistics() if fields[0] != "Z"}


def below(owner: int) -> set[tuple[int, str]]:
    """The processes below one, each with its start, so that no number is mistaken for an older one."""
    everything = processes()
    found: set[tuple[int, str]] = set()
    waiting = [owner]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, (its_parent, _) in everything.items() if its_parent == parent]
        found |= {(pid, everything[pid][1]) for pid in children}
        waiting += children
    return found


def alive(group: set[tuple[int, str]]) -> set[int]:
    everything = processes()
    return {pid for pid, started in group if pid in everything and everything[pid][1] == started}


@pytest.fixture
def start_owner() -> Iterator[StartOwner]:
    """Owners that do not outlive the test, as the next one would count them as left behind."""
    owners: list[subprocess.Popen[str]] = []

    def start(url: str, how: str) -> subprocess.Popen[str]:
        engine_pool(url, ready_session_instances=0).close()  # skips, or fails, where there is no such engine
        command = [sys.executable, str(Path(__file__).with_name("owner.py")), url, how]
        pipe = subprocess.PIPE
        owner = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        owners.append(owner)
        return owner

    yield start
    for owner in owners:
        owner.kill()
        owner.communicate(timeout=60)


def wait_for(owner: subprocess.Popen[str], word: str) -> None:
    assert owner.stdout is not None
    line = owner.stdout.readline()
    assert line == f"{word}\n", f"{line!r}, {owner.communicate()[1]}"


@pytest.mark.parametrize("url", ENGINES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_leaves_no_process_and_no_container(
    start_owner: StartOwner, url: str, number: signal.Signals
) -> None:
    owner = start_owner(url, "wait")
    wait_for(owner, "ready")
    group = below(owner.pid)
    assert group if url == "bubblewrap:" else containers(owner.pid)
    owner.send_signal(number)
    owner.communicate(timeout=60)
    assert within(LIMIT, lambda: not alive(group) and not containers(owner.pid)), (alive(group), containers(owner.pid))


@pytest.mark.parametrize("url", ENGINES[:2])
@pytest.mark.parametrize("how", ["return", "exit"])
def test_an_owner_that_ends_normally_leaves_nothing(start_owner: StartOwner, url: str, how: str) -> None:
    owner = start_owner(url, how)
    wait_for(owner, "ready")
    group = below(owner.pid)
    _, errors = owner.communicate(timeout=30)
    assert errors == ""
    assert within(LIMIT, lambda: not alive(group) and not containers(owner.pid)), (alive(group), containers(owner.pid))


def check_ends(url: str, names: Iterable[str], python: str | Path, options: dict[str, Any]) -> None:
    """Run the programs at the same time."""
    with ExitStack() as stack:
        programs: dict[str, subprocess.Popen[str]] = {}
        for name in names:
            pipe, text = subprocess.PIPE, BEGIN + textwrap.dedent(ENDS[name][0])
            command = [python, "-W", "default", "-c", text, url]
            program = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options)
            programs[name] = stack.enter_context(program)
            stack.callback(program.kill)
        for name, program in programs.items():
            wait_for(program, "ready")
            check_end(name, program)


def check_end(name: str, program: subprocess.Popen[str]) -> None:
    _, code, last_line = ENDS[name]
    group = below(program.pid)
    assert group or containers(program.pid), name
    output, errors = program.communicate("\n", timeout=60)
    assert (program.returncode, output, errors.splitlines()[-1:]) == (code, "", last_line), (name, errors)
    assert errors.count("Traceback") == len(last_line), (name, errors)
    assert within(LIMIT, lambda: not alive(group) and not containers(program.pid)), name
    assert groups(program.pid) == [], name


def groups(owner: int) -> list[str]:
    hierarchy = cgroups.find()
    if hierarchy is None:
        return []
    return [str(group) for parent in hierarchy.parents.values() for group in parent.glob(f"*-{owner}-*-*")]


@pytest.mark.parametrize("url", ENGINES[:2])
def test_a_program_that_does_not_close_its_pool_ends_silently(url: str) -> None:
    engine_pool(url, ready_session_instances=0).close()  # skips, or fails, where there is no such engine
    check_ends(url, ENDS, sys.executable, {})


@pytest.mark.parametrize("url", ENGINES[:2])
def test_a_program_without_privileges_leaves_nothing(url: str, bare_python: Path) -> None:
    engine_pool(url, ready_session_instances=0).close()
    options: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}}
    if os.geteuid() == 0:
        groups = [DOCKER.stat().st_gid] if url == "docker:" and DOCKER.exists() else []
        options |= {"user": NOBODY, "group": NOBODY, "extra_groups": groups}
    check_ends(url, ["the end of the script", "an open generator"], bare_python, options)


@pytest.mark.parametrize("url", ENGINES[:2])
def test_closing_a_pool_ends_its_executions(start_owner: StartOwner, url: str) -> None:
    owner = start_owner(url, "close")
    wait_for(owner, "ready")
    wait_for(owner, "closed")
    assert within(LIMIT, lambda: not below(owner.pid) and not containers(owner.pid))


@pytest.mark.parametrize("url", ENGINES[:2])
def test_ctrl_c_in_the_terminal_does_not_reach_the_sandboxes(start_owner: StartOwner, url: str) -> None:
    """It goes to the whole group of processes; the pool may live on."""
    owner = start_owner(url, "wait")
    wait_for(owner, "ready")
    group = {pid for pid, _ in below(owner.pid)}
    assert all(os.getpgid(pid) != os.getpgid(owner.pid) for pid in group)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("url", ENGINES[:2])
def test_pools_that_come_and_go_leave_no_descriptor_thread_or_process(url: str) -> None:
    other_threads = threading.active_count() - 1

    def come_and_go() -> None:
        with engine_pool(url, ready_session_instances=1, preload=()) as pool:
            for session in [pool.session() for _ in range(2)]:
                session.execute("1").raise_for_error()

    come_and_go()
    assert within(LIMIT, lambda: not below(os.getpid()) and threading.active_count() <= 1 + other_threads)
    before = descriptors()
    for _ in range(5):
        come_and_go()
    assert within(LIMIT, lambda: descriptors() <= before), (descriptors(), before)
    assert within(LIMIT, lambda: threading.active_count() <= 1 + other_threads), threading.enumerate()
    assert within(LIMIT, lambda: not below(os.getpid()))


@pytest.mark.parametrize("url", ENGINES[:2])
def test_a_start_abandoned_at_any_moment_leaves_nothing(url: str) -> None:
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
        pool: SessionPool = engine_pool(url, ready_session_instances=2, preload=())
        time.sleep(delay)
        pool.close()
        assert within(LIMIT, lambda: not below(os.getpid()) and not containers(os.getpid())), delay
