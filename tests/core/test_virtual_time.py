"""The tests' own clock, as tests of time are only as good as their clock."""

from __future__ import annotations

import asyncio
import time

import pytest

from .virtual_time import in_virtual_time


def test_an_hour_of_virtual_time_passes_immediately() -> None:
    @in_virtual_time
    async def sleep() -> float:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - began

    began = time.monotonic()
    assert sleep() == pytest.approx(3600)
    assert time.monotonic() - began < 60


def test_waiting_for_an_event_that_never_comes_fails() -> None:
    @in_virtual_time
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="nothing is left that could happen"):
        wait()


def test_a_leftover_task_fails() -> None:
    @in_virtual_time
    async def leave() -> None:
        leave.task = asyncio.create_task(asyncio.sleep(1))  # type: ignore[attr-defined]

    with pytest.raises(AssertionError, match="sleep"):
        leave()


def test_an_unretrieved_exception_fails() -> None:
    async def fail() -> None:
        raise RuntimeError("unheard")

    @in_virtual_time
    async def forget() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    with pytest.raises(AssertionError, match="unheard"):
        forget()
