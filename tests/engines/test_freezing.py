"""Idle sessions are frozen: nothing in them runs, every use resumes them, and they end like others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.waiting import within

from greenroom import FileMissing, Session, SessionPool
from greenroom.engines import measuring
from greenroom.engines.bubblewrap import cgroups
from greenroom.testing import engine_pool

ENGINES = ["bubblewrap:", "bubblewrap:?fork=off", "docker:"]
LIMIT = 60.0
TICKING = """
import threading, time
ticks, longest = 0, 0.0
def tick():
    global ticks, longest
    last = time.monotonic()
    while True:
        time.sleep(0.005)
        now = time.monotonic()
        ticks, longest, last = ticks + 1, max(longest, now - last), now
threading.Thread(target=tick, daemon=True).start()
"""
# Children that ignore every signal they can, create others without end, and stop the processes above them.
HOSTILE = """
import os, signal, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            try:
                if os.fork():
                    os._exit(0)
                os.kill(os.getppid(), signal.SIGSTOP)
            except OSError:
                time.sleep(0.001)
"""
USES: dict[str, Callable[[Session], object]] = {
    "execute": lambda session: session.execute("kept").result == "'yes'",
    "shell": lambda session: session.shell("cat kept.txt").stdout == "yes",
    "upload": lambda session: session.upload(b"new", "new.txt").size == 3,
    "download": lambda session: session.download("kept.txt") == b"yes",
    "files": lambda session: [file.path for file in session.files()],
    "delete_file": lambda session: session.delete_file("kept.txt") is None,
}


@pytest.fixture(params=[*ENGINES, "docker:?runtime=runsc"], scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[SessionPool]:
    if request.param.startswith("bubblewrap:") and ((found := cgroups.find()) is None or not found.freezes):
        pytest.skip("There are no control groups here that this user may use.")
    with engine_pool(request.param, idle_after=0.2, preload=(), ready_session_instances=0) as opened:
        yield opened


def wait_until_frozen(pool: SessionPool, count: int = 1) -> None:
    assert within(LIMIT, lambda: pool.status().frozen == count), pool.status()


def test_nothing_of_an_idle_session_runs_until_its_next_use(pool: SessionPool) -> None:
    with pool.session() as session:
        session.execute(TICKING).raise_for_error()
        wait_until_frozen(pool)
        assert pool.status().idle == 1
        time.sleep(3)  # an engine can take a moment more until they are
        # The thread notices the gap when it goes on, which can be after this code has begun.
        longest = session.execute("after = ticks + 2\nwhile ticks < after:\n    time.sleep(0.01)\nlongest", timeout=30)
        assert float(longest.raise_for_error().result or "0") > 1.5, "a thread has run"


@pytest.mark.parametrize("use", USES)
def test_every_use_continues_a_frozen_session(pool: SessionPool, use: str) -> None:
    with pool.session() as session:
        session.execute("kept = 'yes'; open('kept.txt', 'w').write(kept)").raise_for_error()
        for _ in range(2):
            wait_until_frozen(pool)
            try:
                assert USES[use](session)
            except FileMissing:
                assert use == "delete_file"


def test_reading_the_usage_of_a_session_leaves_it_frozen(pool: SessionPool) -> None:
    with pool.session() as session:
        session.execute("x = 1").raise_for_error()
        wait_until_frozen(pool)
        usage = session.usage()
        assert usage is not None
        assert usage.executions == 1
        assert [each.identifier for each in pool.sessions()] == [session.identifier]
        assert pool.status().frozen == 1


def test_code_that_runs_is_not_frozen(pool: SessionPool) -> None:
    with pool.session() as session:
        execution = session.execute(TICKING + "time.sleep(2); longest < 1.5")
        assert execution.result == "True"


def test_code_that_waits_for_an_answer_is_not_frozen(pool: SessionPool) -> None:
    frozen: list[int] = []

    def ask() -> int:
        time.sleep(1)
        frozen.append(pool.status().frozen)
        return 7

    with pool.session() as session:
        assert session.execute("ask()", tools=[ask]).result == "7"
    assert frozen == [0]


def test_many_callers_at_the_same_time_continue_it(pool: SessionPool) -> None:
    with pool.session() as session:
        session.execute("x = 0").raise_for_error()
        for _ in range(3):
            wait_until_frozen(pool)
            handles = [session.submit("x += 1; x") for _ in range(8)]
            assert all(handle.result(timeout=LIMIT).status == "succeeded" for handle in handles)
        assert session.execute("x").result == "24"


def test_an_interrupted_call_is_not_frozen_before_its_code_has_ended(pool: SessionPool) -> None:
    with pool.session() as session:
        session.execute("x = 1").raise_for_error()
        stream = session.stream(
            "import time\ntry:\n    print(1, flush=True)\n    time.sleep(60)\nfinally:\n    time.sleep(1)"
        )
        next(iter(stream))
        stream.close()
        assert session.execute("x").result == "1", "the session is not lost"


def test_a_frozen_session_ends_when_it_is_deleted_whatever_it_does(pool: SessionPool) -> None:
    with pool.session() as session:
        session.execute(HOSTILE)
        wait_until_frozen(pool)
        before = time.monotonic()
    assert time.monotonic() - before < 30
    assert within(LIMIT, lambda: pool.status().idle == 0)


@pytest.mark.filterwarnings("ignore::greenroom.AzureRangeWarning")
@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_sessions_cool_down_and_end_with_their_pool(engine: str) -> None:
    options = {"idle_after": 0.2, "preload": (), "ready_session_instances": 0}
    if engine.startswith("bubblewrap:") and ((found := cgroups.find()) is None or not found.freezes):
        pytest.skip("There are no control groups here that this user may use.")
    with engine_pool(engine, cooldown_period=6, **options) as pool:
        pool.session("cools-down").execute("x = 1").raise_for_error()
        wait_until_frozen(pool)
        assert within(LIMIT, lambda: not pool.sessions())
        assert pool.session("cools-down").execute("'x' in globals()").session_restarted == "cooled_down"
        wait_until_frozen(pool)
    assert groups() == []


@pytest.mark.parametrize("place", ["freezer", "unified", ""])
def test_processes_in_a_frozen_group_stop_and_are_killed(place: str) -> None:
    """Under version 1 and 2 of control groups, if this user can create groups."""
    directory = cgroups.MOUNT / place / f"greenroom-test-{os.getpid()}"
    if not (directory.parent / "cgroup.procs").exists() or (place == "" and (cgroups.MOUNT / "memory").exists()):
        pytest.skip(f"There is no {directory.parent} here.")
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"No group can be made here: {error}")
    group = cgroups.Group((directory,))
    counting = "import time\nn = 0\nwhile True: n += 1; print(n, flush=True); time.sleep(0.001)"
    process = subprocess.Popen([sys.executable, "-c", counting], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        (directory / "cgroup.procs").write_text(str(process.pid))
        process.stdout.readline()
        assert group.freeze()
        assert within(LIMIT, lambda: is_frozen(directory))
        before = Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]
        time.sleep(0.5)
        assert Path(f"/proc/{process.pid}/stat").read_text().split()[13:15] == before
        group.thaw()
        assert within(LIMIT, lambda: not is_frozen(directory))
        group.freeze()
        group.kill()
        assert process.wait(LIMIT) == -9
    finally:
        group.kill()
        process.stdout.close()
        group.remove()
    assert not directory.exists()


def is_frozen(directory: Path) -> bool:
    if (directory / "freezer.state").exists():
        return (directory / "freezer.state").read_text() == "FROZEN\n"
    return "frozen 1" in (directory / "cgroup.events").read_text()


def test_swap_is_allowed_only_while_a_group_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of version 2; `make test-cgroups2` and `benchmarks/idle.py` use the kernel's own."""
    files = {"cgroup.freeze": "0", "memory.max": "1000000", "memory.swap.max": "0", "memory.reclaim": ""}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    group = cgroups.Group((tmp_path,))
    assert group.freeze()
    assert (tmp_path / "cgroup.freeze").read_text() == "1"
    monkeypatch.setattr(measuring, "swap_left", lambda: 0)
    assert not group.allow_swap()
    monkeypatch.setattr(measuring, "swap_left", lambda: 1 << 30)
    assert group.allow_swap()
    assert (tmp_path / "memory.swap.max").read_text() == "1000000"
    group.thaw()
    assert [(tmp_path / name).read_text() for name in ("cgroup.freeze", "memory.swap.max")] == ["0", "0"]


def groups() -> list[Path]:
    found = cgroups.find()
    return (
        [group for parent in found.parents.values() for group in parent.glob(f"*-{os.getpid()}-*-*")] if found else []
    )


def test_without_freezing_sessions_work_and_the_log_states_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cgroups, "find", lambda: None)
    with engine_pool("bubblewrap:", idle_after=0.1, preload=(), ready_session_instances=0) as pool:
        session = pool.session()
        session.execute("x = 1").raise_for_error()
        time.sleep(0.5)
        assert pool.status().frozen == 0
        assert session.execute("x").result == "1"
    assert "not frozen" in caplog.text
