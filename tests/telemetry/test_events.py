"""The events of a pool: what happened, why, and what it used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from greenroom.engines.base import SandboxSpec, StreamSandbox
from greenroom.errors import EngineUnavailable, FileMissing, PoolFull, SandboxLost
from greenroom.telemetry import (
    AllocationRefusal,
    AllocationRefused,
    CallEnded,
    CallOutcome,
    Direction,
    EndCause,
    EngineLost,
    EngineRecovered,
    ExecutionBegan,
    ExecutionEnded,
    Outcome,
    RequestRefusal,
    SandboxEnded,
    SandboxRemoved,
    SandboxStarted,
    SandboxStarting,
    SessionAllocated,
    StartFailed,
    StartFailure,
    TelemetryEvent,
    TransferEnded,
    Work,
)
from greenroom.testing.memory_engine import MemoryEngine
from greenroom.tools import ToolAnswer, Toolbox, ToolCall, ToolLimits, ToolStub

from .watched import pool_with_events


async def run(pool: Any, code: str, identifier: str = "session") -> Any:
    return await pool.execute(identifier, code, timeout=None, on_event=None)


async def test_a_session_reports_its_life_in_order() -> None:
    async with pool_with_events() as (pool, events):
        await run(pool, "print('x')")
        await pool.delete("session")
        await asyncio.sleep(0)
    kinds: list[type[TelemetryEvent]] = [
        SandboxStarting,
        SandboxStarted,
        SessionAllocated,
        ExecutionBegan,
        ExecutionEnded,
        SandboxEnded,
        SandboxRemoved,
    ]
    assert [type(event) for event in events] == kinds
    ended, removed = events[4], events[6]
    assert isinstance(ended, ExecutionEnded)
    assert (ended.identifier, ended.status, ended.work, ended.output, ended.error) == (
        "session", "succeeded", Work.CODE, 2, None,
    )  # fmt: skip
    assert isinstance(removed, SandboxRemoved)
    assert (removed.cause, removed.identifier) == (EndCause.DELETED, "session")
    assert removed.usage.executions == 1
    assert removed.usage.wall > 0


async def test_errors_are_reported_by_a_class_that_the_code_cannot_choose() -> None:
    async with pool_with_events() as (pool, events):
        await run(pool, "1 / 0")
        await run(pool, "raise type('the secret', (Exception,), {})")
        await pool.shell("session", _command("exit 3"), timeout=None, on_event=None)
    ends = [event for event in events if isinstance(event, ExecutionEnded)]
    assert [(end.work, end.status, end.error) for end in ends] == [
        (Work.CODE, "failed", "ZeroDivisionError"),
        (Work.CODE, "failed", "_OTHER"),
        (Work.COMMAND, "failed", "ExitCode"),
    ]


def _command(text: str) -> Any:
    from greenroom.backend import ShellCommand

    return ShellCommand(text)


async def test_transfers_report_their_size_and_their_end_but_no_name() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"12345"

    async with pool_with_events() as (pool, events):
        await pool.upload("session", "/mnt/data/secret.txt", chunks())
        assert [chunk async for chunk in pool.download("session", "/mnt/data/secret.txt")] == [b"12345"]
        with pytest.raises(FileMissing):
            [chunk async for chunk in pool.download("session", "/mnt/data/secret2.txt")]
        usage = await pool.usage("session")
    transfers = [event for event in events if isinstance(event, TransferEnded)]
    assert [(each.direction, each.size, each.outcome) for each in transfers] == [
        (Direction.UPLOAD, 5, Outcome.SUCCEEDED),
        (Direction.DOWNLOAD, 5, Outcome.SUCCEEDED),
        (Direction.DOWNLOAD, 0, Outcome.FAILED),
    ]
    assert usage is not None
    assert (usage.uploaded, usage.downloaded) == (5, 5)
    assert "secret" not in repr(events)


async def test_a_full_pool_reports_the_refused_session() -> None:
    async with pool_with_events(max_concurrent_sessions=1, acquire_timeout=0) as (pool, events):
        await run(pool, "1")
        with pytest.raises(PoolFull):
            await run(pool, "1", "other")
    (refused,) = (event for event in events if isinstance(event, AllocationRefused))
    assert (refused.identifier, refused.reason) == ("other", AllocationRefusal.POOL_FULL)


class Failing(MemoryEngine):
    """An engine that raises an error until it has none any more."""

    error: Exception | None = None

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        if self.error is not None:
            raise self.error
        return await super().start(spec)


async def test_the_loss_and_the_return_of_an_engine_are_each_reported_once() -> None:
    engine = Failing()
    engine.error = EngineUnavailable("a text with the secret")
    async with pool_with_events(engine) as (pool, events):
        for _ in range(2):
            with pytest.raises(EngineUnavailable):
                await run(pool, "1")
        engine.error = None
        await run(pool, "1")
    told = [event for event in events if isinstance(event, EngineLost | EngineRecovered | StartFailed)]
    failed = StartFailed(StartFailure.ENGINE_LOST)
    assert told == [failed, EngineLost(), failed, EngineRecovered()]
    reasons = [event.reason for event in events if isinstance(event, AllocationRefused)]
    assert reasons == [AllocationRefusal.START_FAILED] * 2
    assert "secret" not in repr(events)


async def test_a_cancelled_execution_is_reported() -> None:
    async with pool_with_events() as (pool, events):
        task = asyncio.create_task(run(pool, "import time\nwhile True: time.sleep(0.01)"))
        await _until(lambda: any(isinstance(event, ExecutionBegan) for event in events))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (end,) = (event for event in events if isinstance(event, ExecutionEnded))
    assert (end.status, end.error) == ("cancelled", "CancelledError")


async def test_an_execution_whose_sandbox_is_lost_is_reported() -> None:
    class Losing(MemoryEngine):
        sandboxes: list[StreamSandbox] = []

        async def start(self, spec: SandboxSpec) -> StreamSandbox:
            sandbox = await super().start(spec)
            self.sandboxes.append(sandbox)
            return sandbox

    async with pool_with_events(Losing()) as (pool, events):
        task = asyncio.create_task(run(pool, "import time\nwhile True: time.sleep(0.01)"))
        await _until(lambda: any(isinstance(event, ExecutionBegan) for event in events))
        await Losing.sandboxes[0].kill()
        with pytest.raises(SandboxLost):
            await task
    (end,) = (event for event in events if isinstance(event, ExecutionEnded))
    assert (end.status, end.error) == ("failed", "SandboxLost")


async def test_an_observer_that_raises_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: TelemetryEvent) -> None:
        raise RuntimeError("the observer's own")

    async with pool_with_events(observer=broken) as (pool, events):
        assert (await run(pool, "1 + 1")).result == "2"
    assert any(isinstance(event, ExecutionEnded) for event in events)
    assert "The observer failed on SandboxStarting" in caplog.text


@pytest.mark.parametrize("names", [EndCause, StartFailure, AllocationRefusal, RequestRefusal, Work, Direction, Outcome])
def test_names_that_become_labels_are_words(names: Any) -> None:
    assert all((each.label if isinstance(each, EndCause) else each.value).replace("_", "").isalpha() for each in names)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  the engine has no signal for it
            await asyncio.sleep(0.01)


async def test_each_call_of_a_tool_ends_once_with_its_outcome() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        match call.number:
            case 1:
                return ToolAnswer(b"1")
            case 2:
                return ToolAnswer.failure("It raised.")
            case 3:
                return ToolAnswer.failure("The arguments are not valid.", refused=True)
            case 5:
                call.park(True)
            case _:
                pass
        await asyncio.sleep(600)
        raise AssertionError

    code = "for n in range(6):\n    try: f()\n    except ToolError: pass"
    limits = ToolLimits(timeout=0.2, parked_timeout=0.2)
    tools = Toolbox((ToolStub("f"),), limits, answer)
    async with pool_with_events() as (pool, events):
        await pool.execute("session", code, timeout=None, on_event=None, tools=tools)
        tools = Toolbox((ToolStub("f"),), ToolLimits(), answer)
        code = (
            "import asyncio\nasync def main():\n"
            "    await asyncio.wait([asyncio.ensure_future(f()) for _ in range(4)])\n"
            "asyncio.run(main())"
        )
        running = asyncio.create_task(pool.execute("session", code, timeout=60, on_event=None, tools=tools))
        await _until(lambda: sum(isinstance(event, CallEnded) for event in events) >= 9)
        async with asyncio.timeout(60):  # the fourth call of this code is the only one that waits
            while ((status := await pool.status()).parked, status.parked_calls) != (1, 1):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        await _until(lambda: sum(isinstance(event, CallEnded) for event in events) >= 10)
        ended = [event for event in events if isinstance(event, CallEnded)]
    assert [event.outcome for event in ended[:6]] == [
        CallOutcome.ANSWERED,
        CallOutcome.FAILED,
        CallOutcome.REFUSED,
        CallOutcome.TIMED_OUT,
        CallOutcome.TIMED_OUT,
        CallOutcome.TIMED_OUT,
    ]
    assert {event.outcome for event in ended[9:]} == {CallOutcome.CANCELLED}
    assert len(ended) == 10
    assert all(event.identifier == "session" and event.duration >= 0 for event in ended)
