"""How many sandboxes should be ready, from what was observed of the demand. Pure: observations in, a number out.

A ready sandbox that is leased is replaced by one that starts now. So the sessions that a number of ready sandboxes can
serve without a wait are those that come while the replacements start: a queue, whose servers are the starts that may
run at the same time. Two forecasts say how many replacements will be under way; the greater one counts:

- by the rate: of M/M/c, at the present rate of arrivals and the time that starts take. It sees a rise at once.
- by the recent past: the number that would have been enough for the sessions of the last half hour as they came, in
  bursts or not.

The number grows at once and shrinks slowly, as a sandbox too many costs a little memory and one too few a wait.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from greenroom.local.memory import Memory
from greenroom.models import ReadyReason

QUANTILE = 0.95
"""The share of sessions for which the wait is to be short enough."""
HOLD = 60.0
"""How long the number is kept at least after it was last needed, in seconds."""
STEP = 10.0
"""The time between two steps down, in seconds; a step is a tenth of the number."""
MOST_ARRIVALS = 500
"""How many arrivals are remembered."""

_FAST, _SLOW, _RECENT = 10.0, 300.0, 1800.0  # seconds: for a rise, for a steady rate, and for bursts
_REVIEW = 5.0
"""How often memory is looked at while more are ready than the least, or while it is short; in seconds."""
FOOTPRINT = 100 << 20
"""What one more sandbox is expected to need, in bytes, before others were measured: one of Python has 60 MB."""
LEAST_FOOTPRINT = 16 << 20
"""The same however little others have: a part of what the kernel keeps for a sandbox is not counted there."""
QUICK, NO_LONGER_QUICK = 0.10, 0.15
"""The seconds in which a sandbox becomes warm where none needs to wait, and those from which on some are kept again."""
_FEWEST = 3  # sandboxes, before which neither their start time nor their memory is known

_GROW_ABOVE, _SHRINK_BELOW = 0.15, 0.10  # of the memory that there is
_STALLED, _STALLED_BELOW = 0.10, 0.25
"""The share of time at which waiting for memory counts, if less than so much is available: without that condition, one
session at its own limit could keep sandboxes from everyone."""


@dataclass(frozen=True, slots=True)
class ReadyGoal:
    """What the number of ready sandboxes aims at."""

    wait: float
    """What at most one session in twenty should wait longer than, in seconds."""
    floor: int
    ceiling: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a pool at one moment. Times are in seconds, on the clock of `decide`."""

    arrivals: Sequence[float]
    """When sessions asked for a sandbox, the latest last."""
    start_time: float
    """How long a sandbox takes to start; 0 before the first has."""
    starts: int
    """How many can start at the same time."""
    ready: int = 0
    starting: int = 0
    memory: Memory | None = None
    footprint: int = FOOTPRINT
    """What one more sandbox is expected to need, in bytes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many sandboxes should be ready, and why."""

    target: int = 0
    reason: ReadyReason = ReadyReason.FLOOR
    keep_until: float = -math.inf
    """When the next step down is due."""
    held: bool = False
    """Whether no sandbox may start that no session waits for, as memory is short."""
    review_at: float | None = field(default=None, compare=False)
    """When to decide again if nothing happens before."""


def decide(before: Decision, observed: Observed, goal: ReadyGoal, now: float) -> Decision:
    """Return how many sandboxes should be ready from now on.

    Args:
        before: the last decision.
        observed: what is known now.
        goal: what to aim at.
        now: the time.
    """
    needed = max(needed_by_rate(observed, goal, now), needed_recently(observed, goal.wait, now))
    wanted = min(max(needed, goal.floor), goal.ceiling)
    target = min(max(before.target, goal.floor), goal.ceiling)
    kept, keep_until = _slowly(target, before.keep_until, wanted, now, _hold(observed, now))
    if kept > wanted:
        reason = ReadyReason.SHRINKING
    elif needed > goal.ceiling:
        reason = ReadyReason.CEILING
    else:
        reason = ReadyReason.DEMAND if needed > goal.floor else ReadyReason.FLOOR
    decision = _within_memory(Decision(kept, reason, keep_until), observed, goal)
    watched = decision.held or decision.target > goal.floor or decision.reason is ReadyReason.MEMORY
    return replace(decision, review_at=now + _REVIEW if watched else None)


def needed_by_rate(observed: Observed, goal: ReadyGoal, now: float) -> int:
    """Return how many the present rate of arrivals needs; more than the ceiling if no number is enough."""
    times = observed.arrivals
    rate = 0.0
    for window in (_FAST, _SLOW):
        count = _since(times, now - window)
        if count == len(times) >= MOST_ARRIVALS:  # those before are forgotten
            window = max(now - times[0], 0.001)  # noqa: PLW2901
        # One arrival alone is no rate: it would let the number rise and fall with every session of a quiet pool.
        rate = max(rate, (count - 1 if window < _SLOW else count) / window)
    return _replacements(rate, observed.start_time, goal.wait, observed.starts, goal.ceiling + 1)


def needed_recently(observed: Observed, wait: float, now: float) -> int:
    """Return how many would have been enough for the sessions of the last half hour.

    A session gets the sandbox that replaces the one of the session as many places before it as were ready, so the
    number it needed is that of the replacements that were still to come when its wait became too long.
    """
    if not observed.start_time or not observed.arrivals:
        return 0
    free = [-math.inf] * observed.starts
    ends: list[float] = []
    needs: list[int] = []
    for time in observed.arrivals:
        end = max(time, free[0]) + observed.start_time
        heapq.heapreplace(free, end)
        ends.append(end)  # never earlier than the one before
        if time > now - _RECENT:
            needs.append(len(ends) - bisect_right(ends, time + wait))
    needs.sort()
    return needs[math.ceil(QUANTILE * len(needs)) - 1] if needs else 0


def is_quick(before: bool, times: Sequence[float]) -> bool:
    """Return whether sandboxes start so quickly that none needs to wait for sessions.

    Args:
        before: what was returned last.
        times: the seconds in which the last sandboxes became warm.
    """
    if len(times) < _FEWEST:
        return before
    return median(times) < (NO_LONGER_QUICK if before else QUICK)


def footprint(before: int, used: Sequence[int]) -> int:
    """Return what one more sandbox is expected to need, in bytes: the median of the others.

    Args:
        before: what was returned last.
        used: the most memory that each of the present sandboxes has used.
    """
    if not used:
        return FOOTPRINT
    return before if len(used) < _FEWEST else max(LEAST_FOOTPRINT, int(median(used)))


def _since(times: Sequence[float], since: float) -> int:
    return len(times) - bisect_right(times, since)


def _replacements(rate: float, start_time: float, wait: float, starts: int, most: int) -> int:
    """Return the number that replacements under way reach in one case of twenty at most, by M/M/c; `most` if that is
    less, or if starts cannot keep up. Only what is left of a start after an acceptable wait counts."""
    load = rate * max(0.0, start_time - wait)
    if load <= 0.0:
        return 0
    if rate * start_time >= starts:
        return most
    blocking = 1.0  # Erlang B
    for servers in range(1, starts + 1):
        blocking = load * blocking / (servers + load * blocking)
    use = min(load / starts, 1 - 1e-9)
    at_least = blocking / (1 - use * (1 - blocking))  # Erlang C: the probability that all starts are taken
    rare = 1 - QUANTILE
    number = starts
    if at_least > rare:
        return min(most, starts + math.ceil(math.log(rare / at_least) / math.log(use)))
    exactly = at_least * (1 - use)
    while number > 0:
        exactly *= number / load
        at_least += exactly
        if at_least > rare:
            break
        number -= 1
    return min(most, number)


def _hold(observed: Observed, now: float) -> float:
    """How long a number is kept: through two intervals between sessions, or it would rise and fall with each."""
    count = _since(observed.arrivals, now - _SLOW)
    return max(HOLD, 2 * _SLOW / count) if count else HOLD


def _slowly(target: int, keep_until: float, wanted: int, now: float, hold: float) -> tuple[int, float]:
    """The next target on the way to the one that is wanted, and until when it is kept."""
    if wanted >= target:
        return wanted, now + hold
    while target > wanted and now >= keep_until:
        target = max(wanted, target - math.ceil(target / 10))
        keep_until = max(keep_until, now - HOLD) + STEP
    return target, keep_until


def _within_memory(decision: Decision, observed: Observed, goal: ReadyGoal) -> Decision:
    """The decision as far as there is memory for it: never below the floor, but nothing is started for that either."""
    memory = observed.memory
    if memory is None:
        return decision
    if memory.available < _SHRINK_BELOW * memory.total:
        room = -math.ceil((_SHRINK_BELOW * memory.total - memory.available) / observed.footprint)
    else:
        room = max(0, math.floor((memory.available - _GROW_ABOVE * memory.total) / observed.footprint))
    if memory.stalled >= _STALLED and memory.available < _STALLED_BELOW * memory.total:
        room = min(room, -observed.ready)
    affordable = observed.ready + room
    if affordable >= decision.target:
        return decision
    return replace(
        decision,
        target=max(goal.floor, affordable),
        reason=ReadyReason.MEMORY,
        held=observed.ready + observed.starting >= affordable,
    )
