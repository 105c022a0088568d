"""The thread behind every log: whatever its writes do, each item is written once and in order, or counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.telemetry import writer
from greenroom.telemetry.writer import Writer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in ("_GATHER", "_SHORTEST_PAUSE", "_LONGEST_PAUSE"):
            patch.setattr(writer, name, 0.0001)
        patch.setattr(writer, "_BATCH", 3)
        yield


class Unsuitable(Exception):
    """An error after which trying again is of no use."""


OUTCOMES = st.lists(st.sampled_from([None, OSError("disk full"), Unsuitable("an item")]), max_size=20)
STEPS = st.lists(st.sampled_from(["put", "minor", "flush"]), max_size=60)


@given(outcomes=OUTCOMES, steps=STEPS)
@settings(max_examples=examples(200))
def test_each_item_is_written_once_and_in_order_or_counted(outcomes: list[Exception | None], steps: list[str]) -> None:
    written: list[int] = []
    reported: list[int] = []
    results = iter(outcomes)

    def write(items: Sequence[int]) -> None:
        if (error := next(results, None)) is not None:
            raise error
        written.extend(items)

    tested = Writer[int](write, "test", limit=8, on_dropped=reported.append)
    number = 0
    for step in steps:
        if step == "flush":
            tested.flush(10)
        else:
            number += 1
            tested.put(number, minor=step == "minor")
    tested.close()
    tested.close()
    assert written == sorted(set(written))
    assert tested.dropped == number - len(written)
    assert sum(reported) <= tested.dropped
    tested.put(0)
    assert tested.dropped == number - len(written) + 1, "after its end, everything is dropped"


def test_a_flush_waits_for_what_was_put_before_it() -> None:
    written: list[int] = []
    tested = Writer[int](written.extend, "test")
    for number in range(10):
        tested.put(number)
    tested.flush(60)
    assert written == list(range(10))
    tested.close()


def test_items_that_are_minor_leave_room_for_the_others() -> None:
    entered, going_on = threading.Event(), threading.Event()

    def write(_items: Sequence[int]) -> None:
        entered.set()
        assert going_on.wait(60)

    tested = Writer[int](write, "test", limit=8)
    tested.put(0)
    assert entered.wait(60)
    for number in range(20):
        tested.put(number, minor=True)
    assert tested.dropped == 20 - 3
    for number in range(20):
        tested.put(number)
    assert tested.dropped == 20 - 3 + 20 - 4
    going_on.set()
    tested.close()


def test_no_thread_starts_before_the_first_item_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "test"]

    tested = Writer[int](lambda _: None, "test")
    assert threads() == []
    tested.put(1)
    assert threads() == ["test"]
    tested.close()
    assert threads() == []

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    late = Writer[int](lambda _: None, "test")
    late.put(1)
    assert late.dropped == 1
    late.close()
