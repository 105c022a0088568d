"""How many sandboxes should be ready: a pure function, in every state and over time."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.local.demand import (
    HOLD,
    MOST_ARRIVALS,
    STEP,
    Decision,
    Observed,
    ReadyGoal,
    decide,
    needed_by_rate,
    needed_recently,
)
from greenroom.local.memory import Memory
from greenroom.models import ReadyReason

NOW = 10_000.0
GIB = 1 << 30
PLENTY = Memory(16 * GIB, 12 * GIB)
WIDE = ReadyGoal(wait=0.1, floor=0, ceiling=1000)
NOTHING = Decision()

start_times = st.floats(0, 60)
ages = st.lists(st.floats(0, 890), max_size=60).map(lambda found: sorted(found, reverse=True))


def observed_of(
    *ages: float, start_time: float = 0.5, starts: int = 4, ready: int = 0, memory: Memory | None = None
) -> Observed:
    """What is known if sessions came so many seconds ago."""
    return Observed([NOW - age for age in ages], start_time, starts, ready, memory=memory)


def every(interval: float, *, until: float = NOW, count: int = MOST_ARRIVALS) -> list[float]:
    return [until - interval * number for number in range(count - 1, -1, -1)]


def goal_of(wait: float, floor: int, more: int) -> ReadyGoal:
    return ReadyGoal(wait, floor, floor + more)


def memory_of(total: int, part: float, stalled: float) -> Memory:
    return Memory(total, int(total * part), stalled)


def seen(
    *, ages: list[float], start_time: float, starts: int, ready: int, starting: int, memory: Memory | None
) -> Observed:
    return Observed([NOW - age for age in ages], start_time, starts, ready, starting, memory)


def decided(target: int, keep_until: float) -> Decision:
    return Decision(target, keep_until=keep_until)


goals = st.builds(goal_of, st.floats(0, 10), st.integers(0, 50), st.integers(0, 50))
memories = st.none() | st.builds(memory_of, st.integers(1 << 28, 1 << 40), st.floats(0, 1), st.floats(0, 1))
observations = st.builds(
    seen,
    ages=ages,
    start_time=start_times,
    starts=st.integers(1, 16),
    ready=st.integers(0, 100),
    starting=st.integers(0, 16),
    memory=memories,
)
decisions = st.builds(decided, st.integers(0, 1000), st.floats(NOW - 2 * HOLD, NOW + HOLD) | st.just(-math.inf))


# Examples


def test_without_demand_the_floor_is_kept() -> None:
    decision = decide(NOTHING, observed_of(), replace(WIDE, floor=3), NOW)
    assert (decision.target, decision.reason, decision.review_at) == (3, ReadyReason.FLOOR, None)


def test_a_session_every_ten_seconds_needs_one_ready_sandbox() -> None:
    observed = Observed(every(10), start_time=0.5, starts=4)
    assert decide(NOTHING, observed, WIDE, NOW).target == 1


def test_a_rate_needs_more_ready_sandboxes_than_its_mean() -> None:
    """Two per second during a start: three would be enough for half of the sessions only."""
    observed = Observed(every(0.5), start_time=1.0, starts=100)
    decision = decide(NOTHING, observed, replace(WIDE, wait=0), NOW)
    assert decision.target == 6  # Poisson's quantile for a mean of 2 is 5, and the next one must not wait either
    assert decision.reason is ReadyReason.DEMAND


def test_few_starts_at_the_same_time_need_more_ready_sandboxes() -> None:
    many, few = (Observed(every(0.5), start_time=1.0, starts=starts) for starts in (100, 3))
    assert decide(NOTHING, few, WIDE, NOW).target > decide(NOTHING, many, WIDE, NOW).target


def test_the_ceiling_is_kept_when_starts_cannot_keep_up() -> None:
    observed = Observed(every(0.5), start_time=1.0, starts=1)
    decision = decide(NOTHING, observed, replace(WIDE, ceiling=20), NOW)
    assert (decision.target, decision.reason) == (20, ReadyReason.CEILING)


def test_an_accepted_wait_longer_than_a_start_needs_no_ready_sandbox() -> None:
    observed = Observed(every(10), start_time=0.5, starts=4)
    assert decide(NOTHING, observed, replace(WIDE, wait=0.5), NOW).target == 0


def test_a_burst_is_remembered_for_the_next_one() -> None:
    burst = [NOW - 600 + number / 100 for number in range(20)]
    observed = Observed(burst, start_time=0.5, starts=2)
    assert 15 <= decide(NOTHING, observed, WIDE, NOW).target <= 20
    assert decide(NOTHING, observed, WIDE, NOW + 1500).target == 0


def test_the_number_needed_recently_would_have_been_enough() -> None:
    """Against a simulation of a pool with a fixed number of ready sandboxes."""
    chance = random.Random(7)
    times = [NOW - 800 + 40 * number + chance.random() for number in range(20) for _ in range(chance.randint(1, 9))]
    observed = Observed(sorted(times), start_time=1.5, starts=3)
    needed = needed_recently(observed, 0.2, NOW)
    assert late(observed, 0.2, needed) <= 0.05
    assert late(observed, 0.2, needed - 1) > 0.05


def late(observed: Observed, wait: float, ready: int) -> float:
    """The share of sessions that wait too long, with so many sandboxes ready."""
    free = [-math.inf] * observed.starts
    ends = [-math.inf] * ready
    count = 0
    for number, time in enumerate(observed.arrivals):
        slot = min(range(len(free)), key=free.__getitem__)
        free[slot] = max(time, free[slot]) + observed.start_time
        ends.append(free[slot])
        count += ends[number] > time + wait
    return count / len(observed.arrivals)


def test_short_memory_lowers_the_number_and_starts_nothing() -> None:
    before = Decision(20, ReadyReason.DEMAND, NOW + HOLD)
    observed = Observed(every(0.1), 1.0, 2, ready=20, memory=Memory(16 * GIB, GIB))
    decision = decide(before, observed, ReadyGoal(0.1, 2, 20), NOW)
    assert decision.reason is ReadyReason.MEMORY
    assert decision.target == 13  # six parts of a hundred of 16 GiB are missing, at 100 MiB each
    assert decision.held
    assert decision.review_at is not None


def test_one_session_at_its_own_limit_blocks_no_other() -> None:
    observed = Observed(every(0.1), 1.0, 2, ready=20, memory=replace(PLENTY, stalled=0.9))
    assert decide(NOTHING, observed, ReadyGoal(0.1, 2, 20), NOW).target == 20
    scarce = replace(observed, memory=Memory(16 * GIB, 3 * GIB, stalled=0.9))
    assert decide(NOTHING, scarce, ReadyGoal(0.1, 2, 20), NOW).target == 2


# Every observation


@settings(max_examples=examples(200))
@given(before=decisions, observed=observations, goal=goals)
def test_it_is_never_above_the_ceiling_or_below_the_floor(
    before: Decision, observed: Observed, goal: ReadyGoal
) -> None:
    decision = decide(before, observed, goal, NOW)
    assert goal.floor <= decision.target <= goal.ceiling
    assert decision.review_at is None or decision.review_at > NOW


@settings(max_examples=examples(200))
@given(before=decisions, observed=observations, goal=goals, memory=memories)
def test_memory_only_ever_lowers_it(
    before: Decision, observed: Observed, goal: ReadyGoal, memory: Memory | None
) -> None:
    free = decide(before, replace(observed, memory=None), goal, NOW)
    limited = decide(before, replace(observed, memory=memory), goal, NOW)
    assert not free.held
    assert limited.target <= free.target
    if limited.reason is ReadyReason.MEMORY:
        assert limited.target == goal.floor or limited.target < free.target
    else:
        assert limited == free


@settings(max_examples=examples(200))
@given(ages=ages, start_time=start_times, longer=st.floats(1, 10), starts=st.integers(1, 16), goal=goals)
def test_it_rises_with_the_time_of_a_start(
    ages: list[float], start_time: float, longer: float, starts: int, goal: ReadyGoal
) -> None:
    short = decide(NOTHING, observed_of(*ages, start_time=start_time, starts=starts), goal, NOW)
    long = decide(NOTHING, observed_of(*ages, start_time=start_time * longer, starts=starts), goal, NOW)
    assert short.target <= long.target


@settings(max_examples=examples(200))
@given(ages=ages, start_time=start_times, faster=st.floats(0, 1), starts=st.integers(1, 16), goal=goals)
def test_it_rises_with_the_rate(
    ages: list[float], start_time: float, faster: float, starts: int, goal: ReadyGoal
) -> None:
    """The same sessions in less time."""
    slow = decide(NOTHING, observed_of(*ages, start_time=start_time, starts=starts), goal, NOW)
    fast_ages = [faster * age for age in ages]
    fast = decide(NOTHING, observed_of(*fast_ages, start_time=start_time, starts=starts), goal, NOW)
    assert slow.target <= fast.target


@settings(max_examples=examples(100))
@given(ages=ages, start_time=start_times, starts=st.integers(1, 15), goal=goals, longer=st.floats(0, 10))
def test_it_falls_with_more_starts_and_with_longer_waits(
    ages: list[float], start_time: float, starts: int, goal: ReadyGoal, longer: float
) -> None:
    base = observed_of(*ages, start_time=start_time, starts=starts)
    assert needed_by_rate(replace(base, starts=starts + 1), goal, NOW) <= needed_by_rate(base, goal, NOW)
    assert needed_recently(replace(base, starts=starts + 1), goal.wait, NOW) <= needed_recently(base, goal.wait, NOW)
    patient = replace(goal, wait=goal.wait + longer)
    assert decide(NOTHING, base, patient, NOW).target <= decide(NOTHING, base, goal, NOW).target


# Over time


def follow(
    times: list[float], goal: ReadyGoal, end: float, *, start_time: float, starts: int
) -> list[tuple[float, int]]:
    """The targets of a pool to which sessions come at these times: when, and how many, at each change."""
    decision, now, seen = NOTHING, times[0], 0
    found: list[tuple[float, int]] = []
    while now <= end:
        while seen < len(times) and times[seen] <= now:
            seen += 1
        observed = Observed(times[max(0, seen - MOST_ARRIVALS) : seen], start_time, starts, PLENTY.total, memory=PLENTY)
        decision = decide(decision, observed, goal, now)
        if not found or found[-1][1] != decision.target:
            found.append((now, decision.target))
        due = [times[seen]] if seen < len(times) else []
        due += [] if decision.review_at is None else [decision.review_at]
        if not due:
            break
        now = min(due)
    return found


@settings(max_examples=examples(30))
@given(interval=st.floats(0.05, 250), start_time=st.floats(0.05, 20), starts=st.integers(1, 8), floor=st.integers(0, 5))
def test_it_does_not_oscillate_under_constant_load(interval: float, start_time: float, starts: int, floor: int) -> None:
    times = [NOW + interval * number for number in range(int(min(600, 3000 / interval)) + 4)]
    goal = ReadyGoal(0.1, floor, 50)
    targets = [target for _, target in follow(times, goal, times[-1], start_time=start_time, starts=starts)]
    falls = [before for before, after in pairwise(targets) if after < before]
    assert not falls, targets


@settings(max_examples=examples(20))
@given(count=st.integers(2, 60), start_time=st.floats(0.2, 20), floor=st.integers(0, 5))
def test_it_grows_within_a_burst_and_falls_to_the_floor_step_by_step(count: int, start_time: float, floor: int) -> None:
    goal = ReadyGoal(0.1, floor, floor + 40)
    times = [NOW + number / 50 for number in range(count)]
    found = follow(times, goal, NOW + 9000, start_time=start_time, starts=2)
    peak = max(target for _, target in found)
    grown = next(when for when, target in found if target == peak)
    assert grown <= times[-1], "it grows at once"
    assert found[-1][1] == floor, "and ends at the floor"
    after = [(when, target) for when, target in found if when >= grown]
    for (first, before), (second, target) in pairwise(after):
        assert before > target >= before - math.ceil(before / 10)
        assert second - first >= STEP - 5.1 if first > grown else second - first >= HOLD


def test_a_late_decision_lowers_the_target_in_steps() -> None:
    before = Decision(100, keep_until=NOW - 1000)
    assert decide(before, observed_of(), WIDE, NOW).target >= 40
