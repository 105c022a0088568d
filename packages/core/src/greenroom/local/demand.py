"""How many sandboxes should be ready, based on the observed demand. Pure: observations in, a number out.

A ready sandbox that is leased is replaced by one that starts now. So the sessions that a number of ready sandboxes can
serve without a wait are those that arrive while the replacements start: a queue, whose servers are the starts that can
run at the same time. Two forecasts estimate how many replacements will be pending; the greater one counts:

- from the rate: M/M/c, with the current arrival rate and the duration of starts. It reacts to a rise immediately.
- from the recent past: the number that would have been enough for the sessions of the last half hour, whether they
  came in bursts or not.

The number grows immediately and shrinks slowly, as a surplus sandbox costs a little memory and a missing one a wait.
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
"""The share of sessions whose wait must be short enough."""
HOLD = 60.0
"""How long the number is kept at least after it was last needed, in seconds."""
STEP = 10.0
"""The time between two steps down, in seconds; each step is a tenth of the number."""
MOST_ARRIVALS = 500
"""How many arrivals are remembered."""

_FAST, _SLOW, _RECENT = 10.0, 300.0, 1800.0  # seconds: for a rise, for a steady rate, and for bursts
_REVIEW = 5.0
"""How often memory is checked while more than the minimum are ready, or while it is short; in seconds."""
FOOTPRINT = 100 << 20
"""The expected memory of one more sandbox, in bytes, before any are measured: a Python sandbox takes 60 MB."""
LEAST_FOOTPRINT = 16 << 20
"""The minimum, however little others take: part of the kernel's memory for a sandbox is not counted there."""
QUICK, NO_LONGER_QUICK = 0.10, 0.15
"""The seconds of a warm start below which no sandboxes need to be kept ready, and above which they are again."""
_FEWEST = 3  # sandboxes before their start time or their memory is considered known

_GROW_ABOVE, _SHRINK_BELOW = 0.15, 0.10  # shares of the machine's memory
_STALLED, _STALLED_BELOW = 0.10, 0.25
"""The share of time spent waiting for memory that counts as a shortage, if less than this share of memory is available:
without that condition, one session at its own limit could keep everyone from getting sandboxes."""


@dataclass(frozen=True, slots=True)
class ReadyGoal:
    """The goal for the number of ready sandboxes."""

    wait: float
    """The wait that at most one session in twenty may exceed, in seconds."""
    floor: int
    ceiling: int


@dataclass(frozen=True, slots=True)
class Observed:
    """The known state of a pool at one moment. Times are in seconds, on the clock of `decide`."""

    arrivals: Sequence[float]
    """When sessions requested a sandbox, the most recent last."""
    start_time: float
    """How long a sandbox takes to start; 0 before the first has."""
    starts: int
    """How many can start at the same time."""
    ready: int = 0
    starting: int = 0
    memory: Memory | None = None
    footprint: int = FOOTPRINT
    """The expected memory of one more sandbox, in bytes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many sandboxes should be ready, and why."""

    target: int = 0
    reason: ReadyReason = ReadyReason.FLOOR
    keep_until: float = -math.inf
    """When the next step down is due."""
    held: bool = False
    """Whether memory is so short that sandboxes may start only for waiting sessions."""
    review_at: float | None = field(default=None, compare=False)
    """When to decide again if nothing happens before."""


def decide(before: Decision, observed: Observed, goal: ReadyGoal, now: float) -> Decision:
    """Return how many sandboxes should be ready from now on.

    Args:
        before: the previous decision.
        observed: the known state.
        goal: the goal to reach.
        now: the current time.
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
    """Return how many the current arrival rate needs; more than the ceiling if no number is enough."""
    times = observed.arrivals
    rate = 0.0
    for window in (_FAST, _SLOW):
        count = _since(times, now - window)
        if count == len(times) >= MOST_ARRIVALS:  # earlier ones are forgotten
            window = max(now - times[0], 0.001)  # noqa: PLW2901
        # A single arrival is not a rate: the number would rise and fall with every session of a quiet pool.
        rate = max(rate, (count - 1 if window < _SLOW else count) / window)
    return _replacements(rate, observed.start_time, goal.wait, observed.starts, goal.ceiling + 1)


def needed_recently(observed: Observed, wait: float, now: float) -> int:
    """Return how many would have been enough for the sessions of the last half hour.

    If N sandboxes are ready, a session gets the replacement for the session N places before it, so the number that it
    needed is the number of replacements that were still pending when its wait became too long.
    """
    if not observed.start_time or not observed.arrivals:
        return 0
    free = [-math.inf] * observed.starts
    ends: list[float] = []
    needs: list[int] = []
    for time in observed.arrivals:
        end = max(time, free[0]) + observed.start_time
        heapq.heapreplace(free, end)
        ends.append(end)  # never earlier than the previous one
        if time > now - _RECENT:
            needs.append(len(ends) - bisect_right(ends, time + wait))
    needs.sort()
    return needs[math.ceil(QUANTILE * len(needs)) - 1] if needs else 0


def is_quick(before: bool, times: Sequence[float]) -> bool:
    """Return whether sandboxes start so quickly that none need to be kept ready.

    Args:
        before: the previous result.
        times: the seconds in which the most recent sandboxes became warm.
    """
    if len(times) < _FEWEST:
        return before
    return median(times) < (NO_LONGER_QUICK if before else QUICK)


def footprint(before: int, used: Sequence[int]) -> int:
    """Return the expected memory of one more sandbox, in bytes: the median of the others.

    Args:
        before: the previous result.
        used: the peak memory of each current sandbox.
    """
    if not used:
        return FOOTPRINT
    return before if len(used) < _FEWEST else max(LEAST_FOOTPRINT, int(median(used)))


def _since(times: Sequence[float], since: float) -> int:
    return len(times) - bisect_right(times, since)


def _replacements(rate: float, start_time: float, wait: float, starts: int, most: int) -> int:
    """Return the number of pending replacements that is exceeded in at most one of twenty cases, by M/M/c; `most` if
    that is less, or if starts cannot keep up. Only the part of a start after an acceptable wait counts."""
    load = rate * max(0.0, start_time - wait)
    if load <= 0.0:
        return 0
    if rate * start_time >= starts:
        return most
    blocking = 1.0  # Erlang B
    for servers in range(1, starts + 1):
        blocking = load * blocking / (servers + load * blocking)
    use = min(load / starts, 1 - 1e-9)
    at_least = blocking / (1 - use * (1 - blocking))  # Erlang C: the probability that all starts are busy
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
    """How long a number is kept: two intervals between sessions at least, or it would rise and fall with each."""
    count = _since(observed.arrivals, now - _SLOW)
    return max(HOLD, 2 * _SLOW / count) if count else HOLD


def _slowly(target: int, keep_until: float, wanted: int, now: float, hold: float) -> tuple[int, float]:
    """The next number on the way to the target, and how long to keep it."""
    if wanted >= target:
        return wanted, now + hold
    while target > wanted and now >= keep_until:
        target = max(wanted, target - math.ceil(target / 10))
        keep_until = max(keep_until, now - HOLD) + STEP
    return target, keep_until


def _within_memory(decision: Decision, observed: Observed, goal: ReadyGoal) -> Decision:
    """The decision, limited by memory: never below the floor, but nothing is started for the floor either."""
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
