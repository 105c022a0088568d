"""The pool as its callers see it, over the engine in memory."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.waiting import within

import greenroom
from greenroom import SessionPool
from greenroom.engines.base import SandboxSpec, StreamSandbox
from greenroom.local import AzureRangeWarning, PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.sessions import OpenPool, Session
from greenroom.sessions.background import BackgroundLoop
from greenroom.testing import ScriptedBackend, memory_pool, scripted_pool
from greenroom.testing.memory_engine import MemoryEngine


class SlowEngine(MemoryEngine):
    """Starts take a while, and can be made to fail."""

    delay = 0.1
    broken = False

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        await asyncio.sleep(self.delay)
        if self.broken:
            raise greenroom.EngineUnavailable("The engine is broken.")
        return await super().start(spec)


def pool_over(engine: MemoryEngine, **options: Any) -> SessionPool:
    settings = PoolSettings.parse({"preload": (), "ready_session_instances": 0, **options})

    async def backend() -> LocalPool:
        return await LocalPool.open(engine, settings)

    return SessionPool(OpenPool.open(backend))


def wait_for(pool: SessionPool, ready: int) -> None:
    assert within(60, lambda: pool.status().ready >= ready)


def test_the_status_counts_warm_and_cold_starts_and_the_ends() -> None:
    with pool_over(SlowEngine(), ready_session_instances=1) as pool:
        wait_for(pool, 1)
        warm, cold = pool.session("warm"), pool.session("cold")
        warm.execute("1")
        cold.execute("1")
        wait_for(pool, 1)
        status = pool.status()
        assert (status.allocations_warm, status.allocations_cold) == (1, 1)
        assert (status.idle, status.executing, status.limit) == (2, 0, 100)
        assert status.start_median >= 0.1
        assert status.wait_max > 0
        warm.delete()
        assert pool.status().evictions == {"session deleted": 1}
        assert "2 of 100" not in repr(pool.status())
        assert [info.identifier for info in pool.sessions()] == ["cold"]


def outlives_its_period(session: Session, period: float) -> bool:
    """Use a session for two periods; return False if it ended because the machine itself paused for a period."""
    begun = time.monotonic()
    times = [begun, begun]
    session.execute("x = 1")
    while times[-1] < begun + 2 * period:
        time.sleep(0.1)
        kept = session.execute("x").result == "1"
        times.append(time.monotonic())
        if not kept:
            assert max(later - earlier for earlier, later in zip(times, times[2:], strict=False)) >= period
            return False
    return True


def test_an_unused_session_cools_down_and_the_next_use_starts_a_new_one() -> None:
    with pytest.warns(AzureRangeWarning):
        pool = memory_pool(cooldown_period=1, ready_session_instances=0)
    with pool:
        session = pool.session("idle")
        assert any(outlives_its_period(session, 1) for _ in range(30)), "each use starts the time again"
        assert within(60, lambda: not pool.sessions())
        assert session.execute("'x' in globals()").result == "False"
        assert pool.status().evictions["cooled down"] >= 1


def test_waiting_calls_are_served_in_the_order_of_arrival() -> None:
    with pool_over(SlowEngine(), max_concurrent_sessions=1) as pool:
        first = pool.session("first")
        first.execute("1")
        served: list[int] = []

        def use(number: int) -> None:
            with pool.session(f"user-{number}") as session:
                session.execute("1")
                served.append(number)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(5)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            assert within(60, lambda number=number: pool.status().waiting == number)
        first.delete()
        for thread in threads:
            thread.join(60)
        assert served == [0, 1, 2, 3, 4]


async def test_a_waiting_caller_that_gives_up_leaves_no_trace() -> None:
    with pool_over(SlowEngine(), max_concurrent_sessions=1) as pool:
        holder = pool.session("holder")
        await holder.aexecute("1")
        waiting = asyncio.create_task(pool.session("waiting").aexecute("1"))
        assert await asyncio.to_thread(within, 60, lambda: pool.status().waiting == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(within, 60, lambda: pool.status().waiting == 0)
        assert (await pool.astatus()).idle == 1
        await holder.adelete()
        assert (await pool.session("next").aexecute("1")).result == "1"
        assert [info.identifier for info in await pool.asessions()] == ["next"]


def test_a_failed_start_reaches_waiting_callers_and_the_pool_continues() -> None:
    engine = SlowEngine()
    with pool_over(engine) as pool:
        engine.broken = True
        with pytest.raises(greenroom.EngineUnavailable, match="broken"):
            pool.session("user").execute("1")
        engine.broken = False
        assert pool.session("user").execute("1").result == "1"


def test_a_full_pool_refuses_after_the_acquire_timeout() -> None:
    with pool_over(SlowEngine(), max_concurrent_sessions=2, acquire_timeout=0.2) as pool:
        for number in range(2):
            pool.session(f"user-{number}").execute("1")
        began = time.monotonic()
        with pytest.raises(greenroom.PoolFull, match=r"2 of 2 sessions .* within 0.2 seconds") as caught:
            pool.session("late").execute("1")
        assert time.monotonic() - began >= 0.2
        assert caught.value.sessions == 2
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 300


def test_a_closed_pool_refuses_calls_with_advice() -> None:
    pool = memory_pool()
    session = pool.session()
    session.execute("1")
    pool.close()
    pool.close()
    with pytest.raises(greenroom.PoolClosed, match=r"greenroom\.connect"):
        session.execute("1")


def test_closing_fails_running_and_waiting_calls() -> None:
    pool = pool_over(SlowEngine(), max_concurrent_sessions=1)
    errors: list[BaseException] = []

    def use(code: str) -> None:
        try:
            pool.session().execute(code)
        except greenroom.GreenroomError as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=("import time\ntime.sleep(60)",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert within(60, lambda: (pool.status().executing, pool.status().waiting) == (1, 1))
    pool.close()
    for thread in threads:
        thread.join(60)
    assert {type(error) for error in errors} == {greenroom.SandboxLost, greenroom.PoolClosed}


def test_a_closed_loop_fails_the_calls_that_wait_for_it() -> None:
    loop = BackgroundLoop("a test")
    running = threading.Event()
    errors: list[BaseException] = []

    async def forever() -> None:
        running.set()
        await asyncio.sleep(600)

    async def wait_elsewhere() -> None:
        await loop.arun(forever())

    def wait(how: Callable[[], object]) -> None:
        try:
            how()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads: list[threading.Thread] = []
    for how in (lambda: loop.run(forever()), lambda: asyncio.run(wait_elsewhere())):
        running.clear()
        threads.append(threading.Thread(target=wait, args=(how,)))
        threads[-1].start()
        assert running.wait(60)
    loop.close()
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in errors] == [greenroom.PoolClosed] * 2


def test_ctrl_c_interrupts_the_code_and_frees_the_session() -> None:
    with memory_pool() as pool:
        session = pool.session()
        session.execute("x = 5")
        this = threading.get_ident()

        def press() -> None:
            if within(60, lambda: pool.status().executing == 1):
                signal.pthread_kill(this, signal.SIGINT)  # as a terminal does: `interrupt_main` would not wake it

        pressing = threading.Thread(target=press)
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            session.execute("import time\ntime.sleep(600)", timeout=220)
        pressing.join()
        assert session.execute("x", timeout=60).result == "5"


def test_a_pool_without_holders_closes_itself() -> None:
    memory_pool().session()
    assert within(60, lambda: all(thread.name != "greenroom memory" for thread in threading.enumerate()))


# Children run the interpreter's exit functions too, which must leave the parent's pools alone.
_FORKS = """
import asyncio, os, sys
from greenroom import PoolClosed
from greenroom.testing import memory_pool

pools = {how: memory_pool() for how in ("unused", "asynchronous", "status", "used", "closed")}
sessions = {how: pool.session("same") for how, pool in pools.items()}
assert repr(pools["unused"]) and repr(sessions["unused"])
assert pools["unused"].container_type == sessions["unused"].container_type == "PythonLTS"
sessions["used"].execute("x = 'the parent'")
pools["closed"].close()

def use(how):
    session = sessions[how]
    if how == "asynchronous":
        return asyncio.run(session.aexecute(f"x = {name!r}\\nx")).result
    if how == "status":
        return pools[how].status().idle
    return session.execute(f"x = {name!r}\\nx").result

def use_all():
    for how in pools:
        try:
            print(name, how, use(how), sep=": ", flush=True)
        except PoolClosed as error:
            print(name, how, str(error).partition(". ")[0], sep=": ", flush=True)

name = "parent"
for child in ("one", "two"):
    if (pid := os.fork()) == 0:
        name = child
        use_all()
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0
use_all()
if os.fork() == 0:
    name = "late"
    use_all()
    os._exit(0)
os.wait()
"""


def test_a_pool_survives_a_fork_if_it_was_not_used_before() -> None:
    program = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=200, check=False)
    forked, closed = "A pool that was used before a fork cannot be used in the child process", "This pool was closed"
    expected = {
        name: ["'" + name + "'", "'" + name + "'", "0", "'parent'" if name == "parent" else forked, closed]
        for name in ("one", "two", "parent")
    } | {"late": [forked] * 4 + [closed]}
    assert program.stdout.splitlines() == [
        f"{name}: {how}: {answer}"
        for name, answers in expected.items()
        for how, answer in zip(("unused", "asynchronous", "status", "used", "closed"), answers, strict=True)
    ], program.stderr
    assert program.returncode == 0


def test_a_stream_yields_the_execution_once() -> None:
    with memory_pool() as pool:
        events = list(pool.session().stream("print('a')\nprint('b')\n1"))
    assert [type(event) for event in events].count(greenroom.Execution) == 1
    assert isinstance(events[-1], greenroom.Execution)


class Talking(ScriptedBackend):
    """Notes when it has told everything."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    async def execute(self, *arguments: Any, **options: Any) -> greenroom.Execution:
        execution = await super().execute(*arguments, **options)
        self.told.set()
        return execution


def test_text_that_waits_for_a_slow_consumer_is_joined() -> None:
    text = "line\r\n" * 1_000
    backend = Talking()
    backend.answer = greenroom.Execution("1", "succeeded", stdout=text)

    async def consume() -> list[object]:
        backend.told.clear()
        stream = pool.session().astream("code")
        first = await anext(stream)
        assert await asyncio.to_thread(backend.told.wait, 60)
        return [first, *[event async for event in stream]]

    with scripted_pool(backend) as pool:
        stream = pool.session().stream("code")
        first = next(stream)
        assert backend.told.wait(60)
        for events in ([first, *stream], asyncio.run(consume())):
            pieces = [event.text for event in events if isinstance(event, greenroom.StreamText)]
            assert "".join(pieces) == text
            assert len(pieces) < 500
            assert len(events) == len(pieces) + 1


class ByTurns(Talking):
    """Writes to both streams by turns, a character at a time."""

    async def execute(self, *arguments: Any, **options: Any) -> greenroom.Execution:
        for _ in range(5_000):
            options["on_event"](greenroom.StreamText("stdout", "o"))
            options["on_event"](greenroom.StreamText("stderr", "e"))
        self.told.set()
        return greenroom.Execution("1", "succeeded", stdout="o" * 5_000, stderr="e" * 5_000)


def test_alternating_text_of_both_streams_is_joined_when_much_of_it_waits() -> None:
    backend = ByTurns()
    with scripted_pool(backend) as pool:
        stream = pool.session().stream("code")
        first = next(stream)
        assert backend.told.wait(60)
        pieces = [event for event in (first, *stream) if isinstance(event, greenroom.StreamText)]
    for name, text in (("stdout", "o" * 5_000), ("stderr", "e" * 5_000)):
        assert "".join(piece.text for piece in pieces if piece.stream == name) == text
    assert len(pieces) < 500


class Flood(ScriptedBackend):
    """Shows one output after the other until it is cancelled, then returns those so far if it can."""

    def __init__(self, last: greenroom.Execution | None) -> None:
        super().__init__()
        self.last = last
        self.shown = 0

    async def execute(self, *arguments: Any, **options: Any) -> greenroom.Execution:
        on_event = options["on_event"]
        try:
            while True:
                for _ in range(1_000):
                    on_event(greenroom.Output({"text/plain": f"{self.shown}"}))
                    on_event(greenroom.StreamText("stdout", "text"))
                    self.shown += 1
                await asyncio.sleep(0.001)  # without a pause, the test's own thread would hardly run
        except asyncio.CancelledError:
            if self.last is not None:
                on_event(self.last)
            raise


def _outputs() -> int:
    return sum(type(each) is greenroom.Output for each in gc.get_objects())


@pytest.mark.parametrize("tells", [True, False])
def test_a_cancelled_submitted_execution_has_its_output_so_far_and_no_events(tells: bool) -> None:
    told = greenroom.Execution("1", "cancelled", stdout="so far", outputs=(greenroom.Output({"text/plain": "last"}),))
    backend = Flood(told if tells else None)
    gc.collect()
    before = _outputs()
    with scripted_pool(backend) as pool:
        handle = pool.session().submit("code")
        while backend.shown < 50_000:
            time.sleep(0.01)
        assert _outputs() - before < 1_000
        handle.cancel()
        execution = handle.result(60)
    if tells:
        assert execution is told
    else:
        assert (execution.status, execution.stdout, execution.outputs) == ("cancelled", "", ())
        assert execution.error == greenroom.ExecutionError("CancelledError", "The execution was cancelled.")
