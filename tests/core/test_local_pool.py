"""A pool over a scripted engine, in virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from greenroom.backend import Overrides
from greenroom.config.environment import Environment
from greenroom.engines.base import Engine, SandboxSpec, StreamSandbox
from greenroom.errors import EngineUnavailable, InvalidRequest, PoolClosed, PoolFull, SandboxLost
from greenroom.local import PoolSettings, allocator
from greenroom.local.plan import plan
from greenroom.local.pool import LocalPool
from greenroom.models import ContainerType, Execution

from .scripted import READY, ScriptedSandbox, done, obey
from .virtual_time import in_virtual_time


class ScriptedEngine(Engine):
    """An engine by script.

    Attributes:
        start_takes: seconds until a sandbox is there.
        ready_takes: seconds from then until its runner takes code.
        kill_takes: seconds that ending one takes.
        failures: what the next starts raise, one each.
        sandboxes: those that were started.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.start_takes = 1.0
        self.ready_takes = 0.0
        self.kill_takes = 0.0
        self.failures: list[Exception] = []
        self.sandboxes: list[ScriptedSandbox] = []
        self.under_way = 0
        self.most_under_way = 0
        self.closed = 0

    @property
    def freezes(self) -> bool:
        return True

    @property
    def alive(self) -> list[ScriptedSandbox]:
        return [sandbox for sandbox in self.sandboxes if not sandbox.kills]

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        del container_type

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        del spec
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.start_takes)
        finally:
            self.under_way -= 1
        if self.failures:
            raise self.failures.pop()
        sandbox = ScriptedSandbox(run, name=f"scripted-{len(self.sandboxes) + 1}")
        sandbox.kill_takes = self.kill_takes
        self.sandboxes.append(sandbox)
        asyncio.get_running_loop().call_later(self.ready_takes, sandbox.say, READY)
        return sandbox

    async def sweep(self) -> int:
        return 0

    async def close(self) -> None:
        self.closed += 1


def run(header: dict[str, Any], body: bytes) -> Iterable[bytes]:
    """End code immediately, except `wait`, which waits for an interrupt."""
    if header["op"] == "interrupt":
        return [done(header["id"], error={"name": "KeyboardInterrupt", "value": ""})]
    if header["op"] == "execute" and body == b"wait":
        return []
    return obey(header, body)


def keep_silent(_header: dict[str, Any], _body: bytes) -> Iterable[bytes]:
    return []


@asynccontextmanager
async def pool_of(engine: ScriptedEngine, **options: Any) -> AsyncGenerator[LocalPool]:
    settings = PoolSettings.parse({"ready_session_instances": 0, "preload": (), **options})
    pool = await LocalPool.open(engine, settings)
    try:
        yield pool
    finally:
        await pool.close()
        assert all(sandbox.kills for sandbox in engine.sandboxes), "a closed pool leaves no sandbox"


async def use(pool: LocalPool, identifier: str, code: str = "x") -> Execution:
    return await pool.execute(identifier, code, timeout=None, on_event=None)


def begin(pool: LocalPool, identifier: str, code: str = "x") -> asyncio.Task[Execution]:
    return asyncio.create_task(use(pool, identifier, code), name=identifier)


def now() -> float:
    return asyncio.get_running_loop().time()


async def held(pool: LocalPool) -> list[str]:
    return [info.identifier for info in await pool.sessions()]


# Allocation


@in_virtual_time
async def test_the_first_use_of_a_session_starts_a_sandbox() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:
        began = now()
        assert (await use(pool, "cold")).succeeded
        assert now() - began == engine.start_takes
        await use(pool, "cold")
        assert len(engine.sandboxes) == 1
        assert [header["op"] for header, _ in engine.sandboxes[0].heard] == ["execute", "execute"]


@in_virtual_time
async def test_a_warm_sandbox_is_ready_immediately_and_is_replaced() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, ready_session_instances=2) as pool:
        await asyncio.sleep(10)
        assert len(engine.alive) == 2
        began = now()
        await use(pool, "warm")
        assert now() == began
        await asyncio.sleep(10)
        status = await pool.status()
        assert (status.ready, status.idle, len(engine.alive)) == (2, 1, 3)


@in_virtual_time
async def test_a_warm_sandbox_imports_while_it_waits() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, ready_session_instances=1, preload="numpy,pandas"):
        await asyncio.sleep(10)
        assert engine.sandboxes[0].heard == [({"op": "preload"}, b'["numpy", "pandas"]')]


@in_virtual_time
async def test_two_sessions_never_share_a_sandbox() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, max_concurrent_sessions=5) as pool:
        for _ in range(3):
            await asyncio.gather(*[use(pool, f"user-{number}") for number in range(5)])
        assert len(engine.sandboxes) == 5
        await asyncio.gather(*[pool.delete(f"user-{number}") for number in range(5)])
        await asyncio.gather(*[use(pool, f"user-{number}") for number in range(5)])
        assert len(engine.sandboxes) == 10, "and none is used again"


@in_virtual_time
async def test_a_start_gives_way_unless_a_caller_waits_for_it() -> None:
    engine = ScriptedEngine()
    engine.ready_takes = 2
    async with pool_of(engine, ready_session_instances=1) as pool:
        await asyncio.sleep(engine.start_takes + 1)
        assert not engine.sandboxes[0].has_full_share, "it has started, and is not ready"
        await use(pool, "user")
        assert engine.sandboxes[0].has_full_share
    engine = ScriptedEngine()
    async with pool_of(engine, ready_session_instances=1):
        await asyncio.sleep(engine.start_takes + engine.ready_takes + 1)
        assert engine.sandboxes[0].has_full_share, "it is warm, and its first execution must not wait for that"
    engine = ScriptedEngine()
    engine.ready_takes = 2
    async with pool_of(engine) as pool:
        execution = begin(pool, "user")
        await asyncio.sleep(engine.start_takes + 1)
        assert engine.sandboxes[0].has_full_share, "before it is ready"
        await execution


@in_virtual_time
async def test_calls_of_one_new_session_share_its_sandbox() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:
        await asyncio.gather(*[use(pool, "same") for _ in range(10)])
        assert len(engine.sandboxes) == 1


@in_virtual_time
async def test_fifty_in_the_queue_for_three_places_are_served_in_the_order_of_arrival() -> None:
    engine = ScriptedEngine()
    served: list[int] = []

    async def visit(number: int) -> None:
        identifier = f"visitor-{number}"
        await use(pool, identifier)
        served.append(number)
        assert len(await held(pool)) <= 3
        await asyncio.sleep(0.5)
        await pool.delete(identifier)

    async with pool_of(engine, max_concurrent_sessions=3, acquire_timeout=1000) as pool:
        await asyncio.gather(*[visit(number) for number in range(50)])
        assert served == list(range(50))
        assert len(engine.sandboxes) == 50
        assert (await pool.status()).waiting == 0


@in_virtual_time
async def test_starts_do_not_crowd_the_machine() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, max_concurrent_sessions=100, ready_session_instances=20) as pool:
        await asyncio.gather(*[use(pool, f"user-{number}") for number in range(20)])
        await asyncio.sleep(100)
        assert (await pool.status()).ready == 20
        assert engine.most_under_way == max(2, os.cpu_count() or 2)


@in_virtual_time
async def test_a_slow_start_is_not_a_full_pool() -> None:
    engine = ScriptedEngine()
    engine.start_takes = 20
    async with pool_of(engine, max_concurrent_sessions=100, acquire_timeout=0) as pool:
        executions = await asyncio.gather(*[use(pool, f"user-{number}") for number in range(10)])
        assert all(execution.succeeded for execution in executions)


@in_virtual_time
async def test_a_full_pool_raises_and_estimates_when_a_place_becomes_free() -> None:
    async with pool_of(ScriptedEngine(), max_concurrent_sessions=2, cooldown_period=300, acquire_timeout=10) as pool:
        await use(pool, "first")
        await asyncio.sleep(100)
        await use(pool, "second")
        with pytest.raises(PoolFull) as caught:
            await use(pool, "third")
        assert str(caught.value) == (
            "The pool is full: 2 of 2 sessions are in use, and none became free within 10 seconds. One may become free "
            "in 189 seconds. Delete sessions that are no longer needed, shorten cooldown_period, or raise "
            "max_concurrent_sessions."
        )
        assert caught.value.sessions == 2
        assert caught.value.retry_after == pytest.approx(189)


@in_virtual_time
async def test_sessions_that_start_or_end_take_their_places_in_a_full_pool() -> None:
    engine = ScriptedEngine()
    engine.start_takes = engine.kill_takes = 20
    async with pool_of(engine, max_concurrent_sessions=3, acquire_timeout=0) as pool:
        await asyncio.gather(use(pool, "held"), use(pool, "ending"))
        ending, starting = asyncio.create_task(pool.delete("ending")), begin(pool, "starting")
        await asyncio.sleep(10)
        with pytest.raises(PoolFull, match="The pool is full: 3 of 3 sessions are in use") as caught:
            await use(pool, "late")
        assert caught.value.sessions == 3
        await asyncio.gather(ending, starting)


@in_virtual_time
async def test_a_pool_full_of_busy_sessions_gives_no_estimate() -> None:
    async with pool_of(ScriptedEngine(), max_concurrent_sessions=1, acquire_timeout=10) as pool:
        busy = begin(pool, "busy", "wait")
        await asyncio.sleep(5)  # the one that comes first is the one that is served
        with pytest.raises(PoolFull) as caught:
            await use(pool, "late")
        assert caught.value.retry_after is None
        assert "may become free" not in str(caught.value)
        assert (await busy).status == "timed_out"


@in_virtual_time
async def test_a_free_place_goes_to_a_waiting_caller() -> None:
    async with pool_of(ScriptedEngine(), max_concurrent_sessions=1, acquire_timeout=100) as pool:
        await use(pool, "first")
        second, third = begin(pool, "second"), begin(pool, "third")
        await asyncio.sleep(1)
        await pool.delete("first")
        assert (await second).succeeded
        assert not third.done()
        await pool.delete("second")
        assert (await third).succeeded


@in_virtual_time
async def test_a_waiting_caller_that_gives_up_leaves_no_trace() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, max_concurrent_sessions=1, acquire_timeout=100) as pool:
        await use(pool, "first")
        gone, patient = begin(pool, "gone"), begin(pool, "patient")
        await asyncio.sleep(1)
        gone.cancel()
        await asyncio.wait([gone])
        assert (await pool.status()).waiting == 1
        await pool.delete("first")
        await patient
        assert await held(pool) == ["patient"]
        assert len(engine.sandboxes) == 2, "none was started for who is gone"


@in_virtual_time
async def test_one_of_two_callers_of_a_session_can_give_up() -> None:
    async with pool_of(ScriptedEngine()) as pool:
        one, other = begin(pool, "same"), begin(pool, "same")
        await asyncio.sleep(0.5)
        one.cancel()
        assert (await other).succeeded


@in_virtual_time
async def test_a_caller_that_gives_up_at_the_moment_of_its_refusal_leaves_no_trace() -> None:
    async with pool_of(ScriptedEngine(), max_concurrent_sessions=1, acquire_timeout=10) as pool:
        await use(pool, "first")
        late = begin(pool, "late")
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(10, late.cancel)  # at the same turn of the loop, and before
        await asyncio.sleep(20)
        assert late.done()


@in_virtual_time
async def test_a_sandbox_without_a_waiting_caller_is_kept_for_a_while() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:
        gone = begin(pool, "gone")
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(10)
        assert (await pool.status()).ready == 1
        await asyncio.sleep(60)
        assert engine.alive == []


# Starts that fail


@in_virtual_time
async def test_a_failed_start_fails_only_the_first_in_the_queue() -> None:
    engine = ScriptedEngine()
    engine.failures = [EngineUnavailable("The disk is full.")]
    async with pool_of(engine) as pool:
        first, second = begin(pool, "first"), begin(pool, "second")
        with pytest.raises(EngineUnavailable, match="The disk is full"):
            await first
        assert (await second).succeeded
        assert (await use(pool, "first")).succeeded, "the next one is tried again"


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (InvalidRequest("The memory is too small."), InvalidRequest, "The memory is too small."),
        (SandboxLost("gone"), EngineUnavailable, "A sandbox of scripted did not start: gone"),
        (OSError(28, "No space left"), EngineUnavailable, r"did not start: \[Errno 28\] No space left"),
    ],
)
def test_a_failed_start_states_the_reason(failure: Exception, kind: type[Exception], message: str) -> None:
    @in_virtual_time
    async def fail() -> None:
        engine = ScriptedEngine()
        engine.failures = [failure]
        async with pool_of(engine) as pool:
            with pytest.raises(kind, match=message):
                await use(pool, "user")
            assert (await use(pool, "user")).succeeded

    fail()


@in_virtual_time
async def test_failed_warm_starts_are_not_retried_immediately() -> None:
    engine = ScriptedEngine()
    engine.failures = [EngineUnavailable("Not now.") for _ in range(100)]
    async with pool_of(engine, ready_session_instances=2) as pool:
        await asyncio.sleep(60)
        assert len(engine.failures) > 60, "a few were tried, and no storm"
        engine.failures.clear()
        await asyncio.sleep(60)
        assert (await pool.status()).ready == 2


@pytest.mark.parametrize("what", ["start_takes", "ready_takes"])
def test_a_sandbox_that_never_becomes_ready_is_abandoned(what: str) -> None:
    @in_virtual_time
    async def wait() -> None:
        engine = ScriptedEngine()
        setattr(engine, what, 1e6)
        async with pool_of(engine) as pool:
            began = now()
            with pytest.raises(EngineUnavailable, match="not ready after 60 seconds"):
                await use(pool, "user")
            assert now() - began < 100
            await asyncio.sleep(1)  # its end is nothing to wait for
            assert engine.alive == []
            assert engine.under_way == 0

    wait()


@in_virtual_time
async def test_a_sandbox_that_ends_immediately_is_a_failed_start_with_its_diagnosis() -> None:
    class Stillborn(ScriptedEngine):
        async def start(self, spec: SandboxSpec) -> StreamSandbox:
            sandbox = await super().start(spec)
            self.sandboxes[-1].end("no module named IPython")
            return sandbox

    async with pool_of(Stillborn()) as pool:
        with pytest.raises(EngineUnavailable, match="no module named IPython"):
            await use(pool, "user")


@in_virtual_time
async def test_a_sandbox_that_ends_as_it_becomes_ready_is_not_leased() -> None:
    class Faint(ScriptedEngine):
        async def start(self, spec: SandboxSpec) -> StreamSandbox:
            sandbox = await super().start(spec)
            if len(self.sandboxes) == 1:
                self.sandboxes[-1].say(READY)
                self.sandboxes[-1].end("killed")
            return sandbox

    async with pool_of(Faint()) as pool:
        with pytest.raises(EngineUnavailable, match="killed"):
            await use(pool, "user")
        assert (await use(pool, "user")).succeeded


# Limits of a session


@in_virtual_time
async def test_a_session_ends_after_its_own_idle_time() -> None:
    async with pool_of(ScriptedEngine(), cooldown_period=300) as pool:
        short = Overrides(idle_timeout=60)
        pool.configure("short", short)
        await use(pool, "short")
        await use(pool, "long")
        for identifier, seconds in (("short", 60), ("long", 300)):
            info = await pool.session(identifier)
            assert info is not None
            assert info.expires is not None
            assert round((info.expires - info.last_used).total_seconds()) == seconds
        await asyncio.sleep(55)
        assert await held(pool) == ["long", "short"]
        await asyncio.sleep(6)
        assert await held(pool) == ["long"]
        assert (await use(pool, "short")).session_restarted == "cooled_down"


async def test_a_time_without_use_beyond_the_pools_is_refused() -> None:
    async with pool_of(ScriptedEngine(), cooldown_period=300) as pool:
        pool.configure("user", Overrides(idle_timeout=300))
        with pytest.raises(InvalidRequest, match=r"at most its pool's cooldown_period of 300 seconds, not 301"):
            pool.configure("user", Overrides(idle_timeout=301))
    async with pool_of(ScriptedEngine(), lifecycle="on_container_exit") as pool:
        with pytest.raises(InvalidRequest, match="lifecycle timed, not on_container_exit"):
            pool.configure("user", Overrides(idle_timeout=1))


@in_virtual_time
async def test_variables_are_sent_before_the_first_import_and_when_they_change() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, env={"A": "1"}, ready_session_instances=1, preload="numpy") as pool:
        await asyncio.sleep(10)
        mine = Overrides(env=Environment({"B": "2"}))
        await use(pool, "user")
        pool.configure("user", mine)
        await use(pool, "user")
        await use(pool, "user")
        heard = [(header["op"], body) for header, body in engine.sandboxes[0].heard]
        assert heard == [
            ("environment", b'{"A": "1"}'),
            ("preload", b'["numpy"]'),
            ("execute", b"x"),
            ("environment", b'{"A": "1", "B": "2"}'),
            ("execute", b"x"),
            ("execute", b"x"),
        ]


# Sandboxes that are lost


@in_virtual_time
async def test_a_loss_while_code_runs_is_raised_and_the_next_use_restarts_the_session() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:
        running = begin(pool, "user", "wait")
        await asyncio.sleep(5)
        engine.sandboxes[0].end("out of memory")
        with pytest.raises(SandboxLost, match="out of memory"):
            await running
        assert await held(pool) == []
        assert (await use(pool, "user")).succeeded
        assert len(engine.sandboxes) == 2
        assert engine.sandboxes[0].kills == 1


@in_virtual_time
async def test_a_loss_between_two_uses_restarts_the_session() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:
        await use(pool, "user")
        engine.sandboxes[0].end()
        await asyncio.sleep(1)
        assert await held(pool) == []
        assert (await use(pool, "user")).succeeded


@in_virtual_time
async def test_a_warm_sandbox_that_is_lost_is_replaced() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, ready_session_instances=1) as pool:
        await asyncio.sleep(5)
        engine.sandboxes[0].end()
        await asyncio.sleep(5)
        assert (await pool.status()).ready == 1
        assert engine.alive == engine.sandboxes[1:]
        assert (await use(pool, "user")).succeeded


@in_virtual_time
async def test_a_sandbox_lost_while_it_imports_is_replaced() -> None:
    class Fragile(ScriptedEngine):
        async def start(self, spec: SandboxSpec) -> StreamSandbox:
            sandbox = await super().start(spec)
            if len(self.sandboxes) == 1:
                self.sandboxes[0].answer = self.die
            return sandbox

        def die(self, header: dict[str, Any], _body: bytes) -> Iterable[bytes]:
            assert header["op"] == "preload"
            self.sandboxes[0].end("killed")
            return []

    engine = Fragile()
    async with pool_of(engine, ready_session_instances=1, preload="numpy") as pool:
        await asyncio.sleep(10)
        assert (await pool.status()).ready == 1
        assert engine.alive == engine.sandboxes[1:]
        assert len(engine.sandboxes) == 2


# The end of sessions


@in_virtual_time
async def test_a_session_cools_down_after_its_last_use_and_not_before() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, cooldown_period=300) as pool:
        await use(pool, "user")
        await asyncio.sleep(200)
        await use(pool, "user")
        await asyncio.sleep(299)
        assert await held(pool) == ["user"]
        await asyncio.sleep(2)
        assert await held(pool) == []
        assert engine.alive == []
        assert (await pool.status()).evictions == {"cooled down": 1}


@in_virtual_time
async def test_a_session_in_use_does_not_cool_down() -> None:
    async with pool_of(ScriptedEngine(), cooldown_period=300, timeout=220) as pool:
        await use(pool, "user")
        await asyncio.sleep(290)
        running = begin(pool, "user", "wait")
        await asyncio.sleep(100)
        assert await held(pool) == ["user"]
        assert (await pool.sessions())[0].expires is None
        assert (await running).status == "timed_out"
        await asyncio.sleep(299)
        assert await held(pool) == ["user"]
        await asyncio.sleep(2)
        assert await held(pool) == []


@in_virtual_time
async def test_a_use_costs_the_same_however_many_sessions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = 0

    def counting(*arguments: Any) -> Any:
        nonlocal planned
        planned += 1
        return plan(*arguments)

    monkeypatch.setattr(allocator, "plan", counting)
    async with pool_of(ScriptedEngine(), max_concurrent_sessions=20) as pool:
        for number in range(20):
            await use(pool, f"session-{number}")
        await asyncio.sleep(10)
        before = planned
        for number in range(200):
            await use(pool, f"session-{number % 20}")
        assert planned == before
        await asyncio.sleep(299)
        assert len(await held(pool)) == 20
        await asyncio.sleep(2)
        assert await held(pool) == []


@in_virtual_time
async def test_without_cool_down_a_session_ends_at_its_maximum_age() -> None:
    async with pool_of(ScriptedEngine(), lifecycle="on_container_exit", max_alive_period=3600) as pool:
        await use(pool, "user")
        await asyncio.sleep(3590)
        await use(pool, "user")
        assert await held(pool) == ["user"]
        await asyncio.sleep(20)
        assert await held(pool) == []


# Sessions that begin again


@in_virtual_time
async def test_a_restarted_session_reports_it_once() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, cooldown_period=300) as pool:
        assert (await use(pool, "user")).session_restarted is None
        await asyncio.sleep(301)
        await pool.files("user", "/mnt/data", recursive=False)  # which begins it, and has nothing to say it with
        first, second = await asyncio.gather(use(pool, "user"), use(pool, "user"))
        assert (first.session_restarted, first.state_lost) == ("cooled_down", True)
        assert (second.session_restarted, second.state_lost) == (None, False)
        assert (await use(pool, "other")).session_restarted is None
        engine.sandboxes[-2].end("killed")
        await asyncio.sleep(1)
        assert (await use(pool, "user")).session_restarted == "lost"
        text = (await use(pool, "user")).text_for_model()
        assert "started again" not in text


@in_virtual_time
async def test_a_session_that_reached_its_maximum_age_reports_it() -> None:
    async with pool_of(ScriptedEngine(), lifecycle="on_container_exit", max_alive_period=3600) as pool:
        await use(pool, "user")
        await asyncio.sleep(3610)
        events: list[object] = []
        execution = await pool.execute("user", "x", timeout=None, on_event=events.append)
        assert execution.session_restarted == "limit_reached"
        assert events[-1] == execution
        assert execution.text_for_model().startswith("The session reached its maximum age and started again: its")


@in_virtual_time
async def test_a_deleted_session_does_not_start_again() -> None:
    async with pool_of(ScriptedEngine(), cooldown_period=300) as pool:
        for asleep in (1, 301):
            await use(pool, "user")
            await asyncio.sleep(asleep)
            await pool.delete("user")
            assert (await use(pool, "user")).session_restarted is None


@in_virtual_time
async def test_the_pool_remembers_a_bounded_number_of_ended_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.local.allocator._MAX_REMEMBERED", 2)
    async with pool_of(ScriptedEngine(), cooldown_period=300) as pool:
        for user in ("one", "two", "three"):
            await use(pool, user)
            await asyncio.sleep(10)
        await asyncio.sleep(301)
        told = [(await use(pool, user)).session_restarted for user in ("one", "two", "three")]
        assert told == [None, "cooled_down", "cooled_down"]


@in_virtual_time
async def test_deleting_a_session_ends_its_executions() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:
        running, queued = begin(pool, "user", "wait"), begin(pool, "user")
        await asyncio.sleep(5)
        await pool.delete("user")
        assert engine.alive == []
        for ended in (running, queued):
            with pytest.raises(SandboxLost, match="its session was deleted"):
                await ended
        await pool.delete("user")
        assert (await use(pool, "user")).succeeded


@in_virtual_time
async def test_a_session_deleted_while_its_code_is_stopped_is_reported() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, timeout=60) as pool:
        running = begin(pool, "user", "wait")
        await asyncio.sleep(5)
        engine.sandboxes[0].answer = keep_silent
        await asyncio.sleep(58)
        await pool.delete("user")
        with pytest.raises(SandboxLost, match="its session was deleted"):
            await running


@in_virtual_time
async def test_deleting_waits_for_the_end_of_the_sandbox_and_so_does_its_place() -> None:
    engine = ScriptedEngine()
    engine.kill_takes = 3
    async with pool_of(engine, max_concurrent_sessions=1, acquire_timeout=100) as pool:
        await use(pool, "first")
        began = now()
        second = begin(pool, "second")
        await pool.delete("first")
        assert now() - began == 3
        await second
        assert now() - began == 3 + engine.start_takes


# The end of the pool


@in_virtual_time
async def test_a_closed_pool_has_ended_everything_and_refuses_calls() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, ready_session_instances=2) as pool:
        await use(pool, "user")
        await pool.close()
        assert engine.alive == []
        assert engine.closed == 1
        for call in (lambda: use(pool, "user"), lambda: use(pool, "other"), pool.status):
            with pytest.raises(PoolClosed):
                await call()
        await pool.close()


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.5])
def test_closing_during_a_start_ends_it(moment: float) -> None:
    @in_virtual_time
    async def close() -> None:
        engine = ScriptedEngine()
        engine.ready_takes = 1
        async with pool_of(engine, ready_session_instances=2) as pool:
            waiting = begin(pool, "user")
            await asyncio.sleep(moment)
            await pool.close()
            with pytest.raises(PoolClosed):
                await waiting
            assert engine.under_way == 0
            assert engine.alive == []

    close()


@in_virtual_time
async def test_closing_ends_running_calls_and_refuses_waiting_ones() -> None:
    async with pool_of(ScriptedEngine(), max_concurrent_sessions=1) as pool:
        running, waiting = begin(pool, "one", "wait"), begin(pool, "other")
        await asyncio.sleep(5)
        await asyncio.gather(pool.close(), pool.close())
        with pytest.raises(SandboxLost, match="its pool was closed"):
            await running
        with pytest.raises(PoolClosed):
            await waiting


@in_virtual_time
async def test_closing_is_bounded_when_a_sandbox_cannot_be_killed() -> None:
    engine = ScriptedEngine()
    engine.kill_takes = 1e6
    async with pool_of(engine) as pool:
        await use(pool, "user")
        deletion = asyncio.create_task(pool.delete("user"))
        await use(pool, "other")
        began = now()
        await pool.close()
        assert now() - began < 20
        assert engine.closed == 1
        await asyncio.wait_for(deletion, 1)


@in_virtual_time
async def test_cancelled_calls_while_the_pool_closes_are_harmless() -> None:
    async with pool_of(ScriptedEngine(), max_concurrent_sessions=1) as pool:
        running, waiting = begin(pool, "one", "wait"), begin(pool, "other")
        await asyncio.sleep(5)
        running.cancel()
        waiting.cancel()
        await pool.close()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)


@in_virtual_time
async def test_an_idle_pool_wakes_for_nothing() -> None:
    """The timer is for what is due: no polling, and none left when all sessions are gone."""
    async with pool_of(ScriptedEngine(), ready_session_instances=1) as pool:
        await use(pool, "user")
        await pool.delete("user")
        await asyncio.sleep(100)
        loop: Any = asyncio.get_running_loop()
        assert [handle for handle in loop._scheduled if not handle.cancelled()] == []


@pytest.mark.filterwarnings("ignore::greenroom.local.AzureRangeWarning")
@in_virtual_time
async def test_a_session_does_not_cool_down_before_its_first_use() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, cooldown_period=1e-9) as pool:
        assert (await use(pool, "user-1")).succeeded
        callers = [begin(pool, "user-2", code) for code in ("x", "y", "z")]
        assert all([(await caller).succeeded for caller in callers])
        await asyncio.sleep(1)
        assert not engine.alive, "and it cools down after its last"


@in_virtual_time
async def test_callers_that_give_up_do_not_leave_a_session_in_use() -> None:
    for moment in (0.0, 0.5, 1.0, 1.5):
        engine = ScriptedEngine()
        async with pool_of(engine, cooldown_period=300) as pool:
            callers = [begin(pool, "user-1", "wait") for _ in range(2)]
            await asyncio.sleep(moment)
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)
            await asyncio.sleep(60)
            assert (await pool.status()).executing == 0
            await asyncio.sleep(600)
            assert not engine.alive
