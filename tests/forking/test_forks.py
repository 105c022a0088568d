"""Forks as their callers see them: n of them or none, what each can do, and what is left when one cannot be made."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import greenroom
from greenroom import ForkFailed, InvalidRequest, PoolFull, Session, SessionPool, ToolLimits
from greenroom.testing import engine_pool, memory_pool

pytestmark = pytest.mark.slow

_ENDLESS_STATE = """
class Endless:
    def __getstate__(self):
        while True: pass
endless = Endless()
"""


@pytest.fixture
def session(pool: SessionPool) -> Session:
    session = pool.session()
    session.execute("x, log = 1, []").raise_for_error()
    return session


@pytest.fixture(autouse=True)
def nothing_is_left(pool: SessionPool) -> object:
    yield
    for info in pool.sessions():
        pool.session(info.identifier).delete()
    return None


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def identifiers(pool: SessionPool) -> set[str]:
    return {info.identifier for info in pool.sessions()}


def test_each_fork_goes_its_own_way(session: Session) -> None:
    first, second = session.fork(2)
    first.execute("x += 1; open('only-here', 'w').close()").raise_for_error()
    assert [each.execute("x").result for each in (session, first, second)] == ["1", "2", "1"]
    assert [len(each.files()) for each in (session, first, second)] == [0, 1, 0]
    session.delete()
    assert second.execute("x").result == "1"
    assert not second.execute("x").state_lost


def test_forks_can_be_forked(session: Session) -> None:
    (child,) = session.fork()
    child.execute("x = 2").raise_for_error()
    (grandchild,) = child.fork()
    assert grandchild.execute("x, In[1:-1]").result == "(2, ['x, log = 1, []', 'x = 2'])"


def test_forks_have_the_given_identifiers_and_the_sessions_settings(pool: SessionPool) -> None:
    session = pool.session("parent", env={"SECRET": "s3"}, memory="512Mi", timeout=33)
    session.execute("import os; os.environ['OWN'] = 'o'").raise_for_error()
    forks = session.fork(2, ["first-fork", "second-fork"])
    assert [fork.identifier for fork in forks] == ["first-fork", "second-fork"]
    assert identifiers(pool) == {"parent", "first-fork", "second-fork"}
    assert forks[0].execute("os.environ['SECRET'], os.environ['OWN']").result == "('s3', 'o')"
    assert forks[1].shell("echo $SECRET").stdout == "s3\n"


def test_a_refused_fork_leaves_others_their_settings(pool: SessionPool) -> None:
    session, other = pool.session("parent", env={"SECRET": "s3"}), pool.session("other", env={"OWN": "o"})
    session.execute("x = 1").raise_for_error()
    other.execute("import os").raise_for_error()
    with pytest.raises(InvalidRequest, match="must be unused"):
        session.fork(1, ["other"])
    assert other.execute("os.environ.get('SECRET'), os.environ['OWN']").result == "(None, 'o')"


def test_a_failed_fork_leaves_no_settings(pool: SessionPool) -> None:
    session = pool.session("parent", env={"SECRET": "s3"})
    session.execute(_ENDLESS_STATE).raise_for_error()
    with pytest.raises(ForkFailed) as failed:
        session.fork(1, ["other"], timeout=2)
    assert pool.session("other").execute("import os; os.environ.get('SECRET', 'none')").result == "'none'"
    assert failed.value.__traceback__ is not None  # which holds what its frames have


def test_settings_end_with_each_fork_and_its_holder(pool: SessionPool) -> None:
    forks = pool.session("parent", env={"SECRET": "s3"}).fork(identifiers=["first", "second"])
    assert [fork.execute("import os; os.environ['SECRET']").result for fork in forks] == ["'s3'", "'s3'"]
    forks.pop().delete()
    assert pool.session("second").execute("import os; os.environ.get('SECRET', 'none')").result == "'none'"


def test_a_new_session_can_be_forked(pool: SessionPool) -> None:
    (fork,) = pool.session().fork()
    assert fork.execute("In, Out").result == "(['', 'In, Out'], {})"


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (0, None),
        (-1, None),
        (True, None),
        (1.5, None),
        (10_000, None),
        (6, None),  # with the session itself, more than the pool has
        (2, ["only-one"]),
        (None, []),
        (None, ["text", 3]),
        (1, iter(["text"])),
        (1, "text"),
        (1, ["a"]),
        (2, ["same-name", "same-name"]),
        (1, ["parent"]),
        (1, ["other"]),
    ],
)
def test_invalid_forks_are_refused(pool: SessionPool, n: Any, names: Any) -> None:
    session, other = pool.session("parent"), pool.session("other")
    session.execute("x = 1")
    other.execute("x = 1")
    with pytest.raises(InvalidRequest, match="must"):
        session.fork(n, names)
    assert identifiers(pool) == {"parent", "other"}


def test_files_come_with_modes_times_and_links(session: Session) -> None:
    session.execute(
        "import os, subprocess\n"
        "os.makedirs('a/b/empty'); open('a/text', 'w').write('t' * 3_000_000); os.chmod('a/text', 0o640)\n"
        "os.utime('a/text', ns=(5, 1_234_567_891_234_567_891)); os.link('a/text', 'a/again')\n"
        "os.symlink('text', 'a/link'); os.symlink('/nowhere', 'dangling'); os.symlink('..', 'a/up')\n"
        "os.mkfifo('pipe'); os.chmod('a/b', 0o500); open(b'\\xff-odd', 'w').close()\n"
        "open('run.sh', 'w').write('echo ran')\n"
        "os.chmod('run.sh', 0o755); open('module.py', 'w').write('value = 5')\n"
        "import module; module.value = 6\n"
        "open('closed', 'w').close(); os.chmod('closed', 0)\n"
        "import socket; bound = socket.socket(socket.AF_UNIX); bound.bind('socket')\n"
        "os.utime('a', (7, 7)); del bound"
    ).raise_for_error()
    look = (
        "found = []\n"
        "for place, directories, names in os.walk(b'.'):\n"
        "    for name in directories + names:\n"
        "        path = os.path.join(place, name); s = os.lstat(path)\n"
        "        found.append((path, oct(s.st_mode), s.st_size if not os.path.isdir(path) else 0, s.st_mtime_ns,\n"
        "                      s.st_nlink, os.readlink(path) if os.path.islink(path) else None))\n"
        "sorted(each for each in found if each[0] not in (b'./closed', b'./socket'))"
    )
    (fork,) = session.fork()
    assert {part.name: part.reason for part in fork.not_carried} == {
        "/mnt/data/closed": "permission denied",
        "/mnt/data/socket": "it is a socket",
    }
    expected, found = session.execute(look), fork.execute(look)
    assert expected.result is not None
    assert expected.result.count("(b'") >= 10
    assert found.result == expected.result
    assert fork.execute("open('a/again').read() == 't' * 3_000_000").result == "True"
    assert fork.shell("./run.sh || sh run.sh").stdout == "ran\n"
    assert fork.execute("module.value").result == "5"  # modules are imported again


def test_a_directory_that_cannot_be_read_is_named(session: Session) -> None:
    session.execute(
        "import os; os.makedirs('shut/in'); open('shut/in/file', 'w').close(); os.chmod('shut', 0)"
    ).raise_for_error()
    (fork,) = session.fork()
    assert [(part.name, part.reason) for part in fork.not_carried] == [("/mnt/data/shut", "permission denied")]
    assert fork.execute("oct(os.stat('shut').st_mode & 0o777)").result == "'0o0'"


def test_a_fork_waits_for_the_earlier_executions(session: Session) -> None:
    slow = session.submit("import time; time.sleep(2); x = 'later'")
    (fork,) = session.fork()
    assert slow.result().succeeded
    assert fork.execute("x").result == "'later'"


@pytest.mark.parametrize(
    "code", ["pass", "class Fault(Exception):\n    def __init__(self, a, b): super().__init__(a)\nfault = Fault(1, 2)"]
)
def test_later_executions_wait_for_the_fork(session: Session, code: str) -> None:
    session.execute(code).raise_for_error()

    async def both() -> list[Session]:
        forking = asyncio.create_task(session.afork(1))
        await asyncio.sleep(0)
        await session.aexecute("x = 'later'")
        return await forking

    (fork,) = asyncio.run(both())
    assert fork.execute("x").result == "1"


@pytest.mark.parametrize("call", ["fork", "shell"])
def test_a_function_cannot_fork_the_session_whose_code_calls_it(session: Session, call: str) -> None:
    def do() -> str:
        """Wait for a turn in the session."""
        return str(session.fork() if call == "fork" else session.shell("true"))

    async def ado() -> str:
        """As `do`."""
        return str(await (session.afork() if call == "fork" else session.ashell("true")))

    limits = ToolLimits(timeout=30)
    for code in ("do()", "await ado()"):
        execution = session.execute(code, tools=[do, ado], tool_limits=limits, timeout=60)
        assert execution.error is not None
        assert "must not wait for other code of the same session" in execution.error.value


def test_without_enough_sandboxes_a_fork_fails(pool: SessionPool) -> None:
    with engine_pool("bubblewrap:", ready_session_instances=0, max_concurrent_sessions=3, acquire_timeout=1) as small:
        session, other = small.session("parent"), small.session("other")
        session.execute("x = 1")
        other.execute("x = 1")
        with pytest.raises(PoolFull):
            session.fork(2, ["first", "second"])
        wait_for(lambda: identifiers(small) == {"parent", "other"})
        (fork,) = session.fork(1, ["first"])
        assert fork.execute("x").result == "1"


def test_a_fork_of_a_session_that_cooled_down_reports_it(pool: SessionPool) -> None:
    session = pool.session("short-lived", idle_timeout=1)
    session.execute("x = 1; open('kept', 'w').close()").raise_for_error()
    wait_for(lambda: not identifiers(pool))
    forks = session.fork(2)
    for each in (session, *forks):
        execution = each.execute("'x' in globals()")
        assert (execution.result, execution.state_lost, execution.session_restarted) == ("False", True, "cooled_down")
        assert "cooled down after a period without use" in execution.text_for_model()
        assert not each.execute("1").state_lost


def test_a_fork_of_a_session_that_lost_its_variables_reports_it(session: Session) -> None:
    session.execute("import os\nclass Ends:\n    def __reduce__(self): os._exit(1)\nends = Ends()").raise_for_error()
    with pytest.raises(ForkFailed, match="WorkerCrashed"):
        session.fork()
    (fork,) = session.fork()
    for each in (fork, session):
        execution = each.execute("'x' in globals()")
        assert (execution.result, execution.state_lost, execution.session_restarted) == ("False", True, None)
        assert not each.execute("1").state_lost


def test_a_failed_fork_keeps_a_session_that_an_upload_has_made(pool: SessionPool, session: Session) -> None:
    running = session.submit("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)")

    async def fork() -> None:
        forking = asyncio.create_task(session.afork(2, ["first", "second"]))
        await asyncio.sleep(0)  # it waits for the execution now
        await pool.session("second").aupload(b"mine", path="mine.txt")
        await session.aupload(b"", path="go")
        with pytest.raises(InvalidRequest, match="must be unused, but 'second' already has a session"):
            await forking

    asyncio.run(fork())
    assert running.result().status == "succeeded"
    wait_for(lambda: identifiers(pool) == {session.identifier, "second"})
    assert pool.session("second").files()[0].name == "mine.txt"
    assert session.fork(1, ["first"])[0].execute("x").result == "1"


def test_a_cancelled_fork_leaves_nothing(pool: SessionPool, session: Session) -> None:
    session.execute(_ENDLESS_STATE).raise_for_error()

    async def cancel() -> None:
        forking = asyncio.create_task(session.afork(2, ["first", "second"]))
        while not {"first", "second"} <= {info.identifier for info in await pool.asessions()}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        forking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forking

    asyncio.run(cancel())
    wait_for(lambda: identifiers(pool) == {session.identifier})
    assert session.execute("del endless; x").result == "1"
    assert session.fork(1, ["first"])[0].execute("x").result == "1"


def test_a_fork_loads_no_magic_of_ipython(session: Session) -> None:
    magics = "get_ipython().magics_manager.magics['line'].values()"
    not_loaded = f"sum(type(magic).__name__ == 'LazyMagic' for magic in {magics})"
    before = session.execute(not_loaded).result
    (fork,) = session.fork()
    assert session.execute(not_loaded).result == before
    assert fork.execute("%alias_magic now time").succeeded


# Hostile sessions


def test_an_endless_object_is_named_at_the_time_limit(pool: SessionPool, session: Session) -> None:
    session.execute(_ENDLESS_STATE).raise_for_error()
    with pytest.raises(ForkFailed, match=r"within \d.* seconds. It was copying endless at that time."):
        session.fork(timeout=5)
    assert identifiers(pool) == {session.identifier}
    assert session.execute("x").result == "1"


def test_an_object_that_cannot_be_interrupted_costs_the_session_its_variables(session: Session) -> None:
    session.execute(
        "import signal\nclass Endless:\n    def __getstate__(self):\n"
        "        signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "        while True: pass\nendless = Endless()"
    ).raise_for_error()
    with pytest.raises(ForkFailed, match="seconds"):
        session.fork(timeout=3)
    after = session.execute("'x' in globals()")
    assert after.result == "False"
    assert after.state_lost


@pytest.mark.parametrize(
    ("when", "reason"),
    [("__getstate__", "exited with code 3"), ("__setstate__", "exited with code 3"), ("__setstate__", "seconds")],
)
def test_code_that_runs_in_a_copy_can_spoil_only_the_copy(
    pool: SessionPool, session: Session, when: str, reason: str
) -> None:
    what = "import os; os._exit(3)" if "exited" in reason else "while True: pass"
    session.execute(
        f"class Bad:\n    a = 1\n    def {when}(self, *state):\n        {what}\n"
        "    def __reduce_ex__(self, protocol):\n"
        f"        return (Bad, (), 1) if {when!r} == '__setstate__' else self.__getstate__()\n"
        "bad = Bad()"
    ).raise_for_error()
    with pytest.raises(ForkFailed, match=reason):
        session.fork(2, timeout=5 if reason == "seconds" else 60)
    assert identifiers(pool) == {session.identifier}
    assert session.execute("1 + 1").result == "2"


def test_objects_that_cannot_be_read_are_left_out_like_those_that_cannot_be_written(session: Session) -> None:
    session.execute(
        "class Fault(Exception):\n    def __init__(self, a, b): super().__init__(a)\n"
        "class Late:\n    def __setstate__(self, state): raise KeyError('no')\n"
        "    def __getstate__(self): return {'a': 1}\n"
        "faults, late, both = [Fault(1, 2)], Late(), {'late': None}\nboth['late'] = late"
    ).raise_for_error()
    forks = session.fork(2)
    for fork in forks:
        reasons = {part.name: part.reason for part in fork.not_carried}
        assert reasons.keys() == {"faults", "late", "both"}
        assert "KeyError" in reasons["late"]
        assert fork.execute("x, Late").succeeded


def test_callbacks_run_once_in_a_fork_that_took_two_attempts(session: Session) -> None:
    session.execute(
        "class Fault(Exception):\n    def __init__(self, a, b): super().__init__(a)\n"
        "runs = []\n"
        "def note(*_): runs.append(1)\n"
        "get_ipython().events.register('pre_run_cell', note)\n"
        "get_ipython().events.register('post_run_cell', lambda result, held=Fault(1, 2): None)"  # read after the other
    ).raise_for_error()
    (fork,) = session.fork()
    assert [part.name for part in fork.not_carried] == ["callbacks of post_run_cell"]
    assert [each.execute("len(runs)").result for each in (session, fork)] == ["1", "1"]


def test_an_object_that_cannot_be_written_twice_is_left_out(session: Session) -> None:
    session.execute(
        "class Once:\n    count = 0\n    def __reduce_ex__(self, _):\n        Once.count += 1\n"
        "        if Once.count > 1: raise RuntimeError('not again')\n        return list, ()\nonce = Once()"
    ).raise_for_error()
    (fork,) = session.fork()
    assert [(part.name, part.reason) for part in fork.not_carried] == [("once", "RuntimeError: not again")]
    assert fork.execute("x").result == "1"


def test_a_namespace_over_the_memory_of_a_session_is_refused(pool: SessionPool, session: Session) -> None:
    session.execute("import numpy as np; zeros = np.zeros(3 << 30, 'u1')").raise_for_error()
    with pytest.raises(ForkFailed, match=r"variables and files must be at most 2 GiB, not 3[,.\d]* .*bytes"):
        session.fork()
    assert identifiers(pool) == {session.identifier}
    assert session.execute("zeros.sum()").succeeded


def test_large_arrays_are_copied_piece_by_piece(session: Session) -> None:
    session.execute("import numpy as np; many = np.arange(4_000_000); part = many[5:7]").raise_for_error()
    (fork,) = session.fork(timeout=280)
    assert fork.execute("many.sum(), part, len(many)").result == session.execute("many.sum(), part, len(many)").result


def test_an_object_that_lies_about_its_size_is_left_out(session: Session) -> None:
    session.execute(
        "import sys\n"
        "class Liar:\n"
        "    count = 0\n"
        "    def __reduce_ex__(self, protocol):\n"
        "        Liar.count += 1\n"
        "        return (list, (), None, iter([b'x'])) if Liar.count == 1 else (list, (), None, endless())\n"
        "def endless():\n"
        "    while True: yield bytearray(1 << 20)\n"
        "liar = Liar()"
    ).raise_for_error()
    (fork,) = session.fork(timeout=60)
    assert [(each.name, each.reason) for each in fork.not_carried] == [("liar", "it is larger than first measured")]
    assert session.execute("x").result == fork.execute("x").result == "1"


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(3, 256):\n    try: os.write(n, b'\\0' * 4096)\n    except OSError: pass",
        "os.kill(os.getpid(), 9)",
        "threading.Thread(target=os._exit, args=(0,)).start()",
        "os.fork()",
        "sys.stdout.close(); os.close(3)",
    ],
)
def test_a_session_that_breaks_its_worker_breaks_no_other(pool: SessionPool, session: Session, code: str) -> None:
    body = "".join(f"    {line}\n" for line in code.splitlines())
    session.execute(f"import os, sys, threading\ndef do():\n{body}").raise_for_error()
    session.execute("class Bad:\n    def __reduce_ex__(self, _):\n        do()\n        return list, ()\nbad = Bad()")
    try:
        forks = session.fork(timeout=10)
    except greenroom.GreenroomError:
        forks = []
    wait_for(lambda: len(pool.sessions()) <= 1 + len(forks))
    assert pool.session().execute("1 + 1").result == "2"


# Ends


def test_a_lost_session_is_reported_and_leaves_no_fork(pool: SessionPool, session: Session) -> None:
    session.execute(_ENDLESS_STATE).raise_for_error()
    errors: list[BaseException] = []

    def fork() -> None:
        try:
            session.fork(2, ["first", "second"])
        except greenroom.GreenroomError as error:
            errors.append(error)

    thread = threading.Thread(target=fork)
    thread.start()
    wait_for(lambda: {"first", "second"} <= identifiers(pool))
    session.delete()
    thread.join(60)
    assert len(errors) == 1
    wait_for(lambda: not identifiers(pool))


def test_no_descriptor_is_left(pool: SessionPool, session: Session) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    session.execute("import threading; lock = threading.Lock()").raise_for_error()
    session.fork()[0].delete()
    wait_for(lambda: pool.status().ready == 1)
    before = count()
    for _ in range(3):
        session.fork()[0].delete()
    wait_for(lambda: pool.status().ready == 1 and count() <= before)
    assert os.getpid()


# Elsewhere


def test_forking_is_refused_elsewhere_with_the_reason() -> None:
    with memory_pool() as pool, pytest.raises(InvalidRequest, match="must be of type PythonLTS on bubblewrap"):
        pool.session().fork()
    with (
        engine_pool("bubblewrap:", container_type="Shell", ready_session_instances=0) as pool,
        pytest.raises(InvalidRequest, match="not Shell"),
    ):
        pool.session().fork()
