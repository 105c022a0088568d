"""A pool's statistics, in bounded memory; computed from its events."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from statistics import median

from greenroom.local.demand import QUANTILE, is_quick
from greenroom.local.plan import Rules, State, ready_reason, ready_target
from greenroom.models import PoolStatus
from greenroom.telemetry import SandboxEnded, SandboxStarted, SessionAllocated, TelemetryEvent

_KEPT = 1000
_RECENT = 50  # starts: a machine is not always equally busy


class Statistics:
    """Counts and recent durations, in seconds."""

    def __init__(self) -> None:
        self._warm = 0
        self._cold = 0
        self._waits: deque[float] = deque(maxlen=_KEPT)
        self._starts: deque[float] = deque(maxlen=_KEPT)
        self._warm_times: deque[float] = deque(maxlen=_RECENT)
        self._evictions: Counter[str] = Counter()

    def observe(self, event: TelemetryEvent) -> None:
        """Count an event."""
        match event:
            case SessionAllocated(wait=wait, warm=warm):
                self._warm += warm
                self._cold += not warm
                self._waits.append(wait)
            case SandboxStarted(duration=duration):
                self._starts.append(duration)
            case SandboxEnded(cause=cause):
                self._evictions[cause.value] += 1
            case _:
                pass

    def warmed_up(self, duration: float, *, prepared: bool, quick: bool) -> bool:
        """Count a sandbox that can reply now; return whether sandboxes start so quickly that none need to be kept.

        Args:
            duration: seconds since it was ordered.
            prepared: whether it finished its preload; if a session got it before, its time only counts if others are
                known to be quick.
            quick: the previous result.
        """
        if not prepared and not quick:
            return quick
        self._warm_times.append(duration)
        return is_quick(quick, self._warm_times)

    @property
    def start_time(self) -> float:
        """The median duration of the most recent starts, 0 before the first."""
        return _median(list(self._starts)[-_RECENT:])

    def status(self, state: State, rules: Rules) -> PoolStatus:
        """Return the counts together with the pool's current state."""
        # Another thread may be asking.
        state = replace(state, slots=dict(state.slots), waiters=list(state.waiters))
        waits = sorted(self._waits)
        leased = [slot for slot in state.slots.values() if slot.phase == "leased"]
        executing = sum(slot.users > 0 for slot in leased)
        return PoolStatus(
            limit=rules.maximum,
            ready=state.count("ready"),
            starting=state.count("starting"),
            executing=executing,
            idle=len(leased) - executing,
            waiting=len(state.waiters),
            allocations_warm=self._warm,
            allocations_cold=self._cold,
            wait_median=_median(waits),
            wait_max=waits[-1] if waits else 0.0,
            start_median=_median(self._starts),
            start_max=max(tuple(self._starts), default=0.0),
            evictions=dict(self._evictions),
            wait_p95=waits[math.ceil(QUANTILE * len(waits)) - 1] if waits else 0.0,
            ready_target=ready_target(state, rules),
            ready_reason=ready_reason(state, rules),
            frozen=sum(slot.frozen for slot in leased),
        )


def _median(values: Iterable[float]) -> float:
    copied = tuple(values)
    return median(copied) if copied else 0.0
