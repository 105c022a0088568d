"""Executions of a session run in the order in which they were asked for, whatever each of them waits for."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from greenroom.models import Execution

from .test_local_pool import ScriptedEngine, pool_of
from .virtual_time import in_virtual_time

# Seconds before the next call, around the start of a sandbox, which takes one.
DELAYS = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 1.5])
CANCELLED = st.sampled_from([None, None, None, 0.0, 0.5, 1.0])


@given(calls=st.lists(st.tuples(st.booleans(), DELAYS, CANCELLED), min_size=1, max_size=8))
def test_a_later_call_never_overtakes(calls: list[tuple[bool, float, float | None]]) -> None:
    _check(calls)


@in_virtual_time
async def _check(calls: list[tuple[bool, float, float | None]]) -> None:
    engine = ScriptedEngine()
    async with pool_of(engine) as pool:

        def begin(number: int, *, known: bool) -> asyncio.Task[Execution]:
            name = str(number) if known else None
            return asyncio.create_task(
                pool.execute("user", str(number), timeout=None, on_event=None, execution_id=name)
            )

        tasks = list[asyncio.Task[Execution]]()
        for number, (known, delay, cancelled_after) in enumerate(calls):
            tasks.append(begin(number, known=known))
            if cancelled_after is not None:
                asyncio.get_running_loop().call_later(cancelled_after, tasks[-1].cancel)
            if delay:
                await asyncio.sleep(delay)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        done = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Execution)]
        assert all(isinstance(outcome, Execution | asyncio.CancelledError) for outcome in outcomes)
        assert all(number in done for number, call in enumerate(calls) if call[2] is None)
        heard = [each for sandbox in engine.sandboxes for each in sandbox.heard]
        ran = [int(code) for header, code in heard if header["op"] == "execute"]
        assert [number for number in ran if number in done] == done
