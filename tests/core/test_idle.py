"""Sessions that are frozen while they are idle, over a scripted engine, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from greenroom.config.containers import CustomContainer
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.local import PoolSettings

from .scripted import ScriptedSandbox
from .test_local_pool import ScriptedEngine, begin, pool_of, use
from .virtual_time import in_virtual_time


async def idle(seconds: float = 11) -> None:
    await asyncio.sleep(seconds)


@in_virtual_time
async def test_a_session_is_frozen_when_it_was_idle_for_so_long_and_its_next_use_thaws_it() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=10) as pool:
        await use(pool, "one")
        [sandbox] = engine.sandboxes
        for count in range(3):
            await use(pool, "one")
            assert engine.sandboxes == [sandbox]
            await idle(9)
            assert not sandbox.frozen
            await idle(2)
            assert sandbox.frozen
            assert sandbox.freezings == count + 1
            status = await pool.status()
            assert (status.idle, status.frozen) == (1, 1)
            assert "1 frozen" in repr(status)
    assert sandbox.kills == 1


@in_virtual_time
async def test_nothing_is_frozen_by_default_or_without_engine_support(caplog: pytest.LogCaptureFixture) -> None:
    class Unable(ScriptedEngine):
        @property
        def freezes(self) -> bool:
            return False

    for engine, options in ((ScriptedEngine(), {}), (Unable(), {"idle_after": 10})):
        async with pool_of(engine, **options) as pool:
            await use(pool, "one")
            await idle(200)
            assert engine.sandboxes[0].freezings == 0
    assert "not frozen" in caplog.text


def test_custom_containers_cannot_be_frozen() -> None:
    with pytest.raises(InvalidRequest, match="idle_after cannot be combined with the container type CustomContainer"):
        PoolSettings.parse({"container": CustomContainer(image="alpine", target_port=80), "idle_after": 10})


@in_virtual_time
async def test_changing_the_pool_starts_and_stops_freezing() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:
        await use(pool, "one")
        settings = pool.settings
        await pool.change(settings.model_copy(update={"idle_after": 10.0}), lambda: engine, outdated=False)
        await idle()
        assert engine.sandboxes[0].frozen
        await pool.change(settings, lambda: engine, outdated=False)
        await use(pool, "one")
        await idle(200)
        assert engine.sandboxes[0].freezings == 1


@in_virtual_time
async def test_a_use_during_freezing_waits_for_both_steps() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=10) as pool:
        await use(pool, "one")
        [sandbox] = engine.sandboxes
        sandbox.freeze_takes = 2
        await idle()
        assert not sandbox.frozen
        await asyncio.gather(*(use(pool, "one") for _ in range(3)))
        assert not sandbox.frozen
        assert sandbox.freezings == 1


@in_virtual_time
async def test_a_session_whose_caller_gives_up_is_thawed_and_frozen_again() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=10) as pool:
        await use(pool, "one")
        [sandbox] = engine.sandboxes
        await idle()
        sandbox.freeze_takes = 2
        call = begin(pool, "one")
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.sleep(2)
        assert not sandbox.frozen
        await idle(15)
        assert (sandbox.frozen, sandbox.freezings) == (True, 2)


@in_virtual_time
async def test_a_session_that_could_not_be_frozen_is_tried_again() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=10) as pool:
        await use(pool, "one")
        [sandbox] = engine.sandboxes
        sandbox.freezes = [False, False]
        await idle()
        assert (await pool.status()).frozen == 0
        await idle(11)
        assert sandbox.frozen


@in_virtual_time
async def test_an_engine_that_does_not_answer_fails_the_call_and_the_next_tries_again() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=10) as pool:
        await use(pool, "one")
        [sandbox] = engine.sandboxes
        await idle()
        sandbox.thaw_fails = True
        with pytest.raises(EngineUnavailable):
            await use(pool, "one")
        sandbox.thaw_fails = False
        await use(pool, "one")
        assert engine.sandboxes == [sandbox], "the session is the same"


@in_virtual_time
async def test_code_that_runs_is_never_frozen() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=1) as pool:
        call = begin(pool, "one", "wait")
        await idle(30)
        assert engine.sandboxes[0].freezings == 0
        await call


@in_virtual_time
async def test_interrupted_code_has_ended_before_its_session_is_frozen() -> None:
    """The caller is gone; that the code stops is still awaited."""
    engine = ScriptedEngine()

    def slow(sandbox: ScriptedSandbox) -> None:
        answer = sandbox.answer
        loop = asyncio.get_running_loop()

        def later(header: dict[str, object], body: bytes) -> list[bytes]:
            if header["op"] == "interrupt":
                for said in answer(header, body):
                    loop.call_later(3, sandbox.say, said)
                return []
            return list(answer(header, body))

        sandbox.answer = later

    async with pool_of(engine, idle_after=1) as pool:
        await use(pool, "one")
        slow(engine.sandboxes[0])
        call = begin(pool, "one", "wait")
        await asyncio.sleep(0.5)
        call.cancel()
        await asyncio.sleep(2)
        assert engine.sandboxes[0].freezings == 0
        await idle(10)
        assert engine.sandboxes[0].frozen
        await use(pool, "one")


@pytest.mark.parametrize("moment", [0, 1, 3])
@in_virtual_time
async def test_a_session_is_deleted_in_every_state(moment: float) -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=10) as pool:
        await use(pool, "one")
        engine.sandboxes[0].freeze_takes = 2
        await idle(10 + moment)
        await pool.delete("one")
        assert engine.sandboxes[0].kills == 1
        await use(pool, "one")
        assert len(engine.sandboxes) == 2


@in_virtual_time
async def test_a_frozen_session_cools_down_like_any_other() -> None:
    engine = ScriptedEngine()
    async with pool_of(engine, idle_after=10) as pool:
        await use(pool, "one")
        await idle(301)
        assert await pool.sessions() == []
        assert engine.sandboxes[0].kills == 1
