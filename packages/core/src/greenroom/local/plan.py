"""What a pool should do next, as a pure function of its state and the time. I/O is somebody else's."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Cause: TypeAlias = Literal["cooled down", "reached its maximum age", "was one too many", "pool closed"]


SURPLUS_PATIENCE = 30.0
"""How long a ready sandbox that is one too many is kept, as it may be wanted yet; in seconds."""

_RATE_WINDOWS = (5.0, 60.0)  # seconds: what comes in bursts, and what comes steadily


@dataclass(slots=True)
class Slot:
    """One sandbox in the pool's books."""

    number: int
    phase: Literal["starting", "ready", "leased", "ending"]
    since: float
    """When it entered its phase."""
    identifier: str | None = None
    """The session it serves; set for its life when it is leased."""
    last_used: float = 0.0
    users: int = 0
    """Calls under way."""
    memory: int | None = None
    """Bytes, where they are not those of the pool."""


@dataclass(slots=True)
class Waiter:
    """An identifier in want of a sandbox, in the order of arrival."""

    identifier: str
    since: float


@dataclass(slots=True)
class State:
    """The pool's books. Only `LocalPool` and the tests change them."""

    slots: dict[int, Slot] = field(default_factory=dict[int, Slot])
    waiters: list[Waiter] = field(default_factory=list[Waiter])
    closing: bool = False
    arrivals: deque[float] = field(default_factory=lambda: deque[float](maxlen=1000))
    """When sessions were allocated, lately."""
    start_time: float = 0.0
    """How long a sandbox takes to start, as measured; in seconds."""
    hold_starts_until: float = 0.0
    """After a failed start nobody waited for: when the next may be tried."""

    def count(self, *phases: str) -> int:
        return sum(slot.phase in phases for slot in self.slots.values())


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that a plan follows; times in seconds."""

    maximum: int
    ready: int | None
    """How many sandboxes wait for sessions; `None`: as many as the rate of allocations asks for."""
    cooldown: float | None
    """From the last use; `None` where a session ends with its sandbox."""
    maximum_age: float | None
    acquire_timeout: float
    starts_at_once: int
    starts_beside_work: int | None = None
    """The same while code runs; `None`: as many."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a sandbox."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Give a ready sandbox to the first in the queue."""

    slot: int
    identifier: str


@dataclass(frozen=True, slots=True)
class End:
    """End a sandbox, and its session if it has one."""

    slot: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell one in the queue that the pool is full."""

    identifier: str


Action: TypeAlias = Start | Lease | End | Refuse


def plan(state: State, rules: Rules, now: float) -> list[Action]:
    """The actions that are due, in the order in which they are to be entered in the books."""
    if state.closing:
        return [End(slot.number, "pool closed") for slot in _alive(state)]
    actions: list[Action] = [
        End(slot.number, cause) for slot in state.slots.values() if (cause := _expiry(slot, rules, now)) is not None
    ]

    ready = sorted((slot for slot in state.slots.values() if slot.phase == "ready"), key=lambda slot: slot.since)
    served = min(len(ready), len(state.waiters))
    actions += [Lease(slot.number, waiter.identifier) for slot, waiter in zip(ready, state.waiters, strict=False)]

    starting, room = state.count("starting"), _room(state, rules)
    waiting = state.waiters[served:]
    refused = [waiter for waiter in waiting[starting + room :] if now >= waiter.since + rules.acquire_timeout]
    actions += [Refuse(waiter.identifier) for waiter in refused]

    wanted = len(waiting) - len(refused)
    spare = len(ready) - served
    missing = wanted + ready_target(state, rules, now) - starting - spare
    if now < state.hold_starts_until:
        missing = min(missing, wanted - starting)
    at_once = rules.starts_at_once
    if rules.starts_beside_work is not None and any(slot.users for slot in state.slots.values()):
        at_once = min(at_once, rules.starts_beside_work)
    actions += [Start()] * max(0, min(missing, room, at_once - starting))
    surplus = 0 if waiting else max(0, min(-missing, spare))
    patient = [slot for slot in ready[served:] if now >= slot.since + SURPLUS_PATIENCE]
    actions += [End(slot.number, "was one too many") for slot in patient[:surplus]]
    return actions


def ready_target(state: State, rules: Rules, now: float) -> int:
    """How many sandboxes should be ready: as set, or twice what is allocated while one starts, and one more."""
    if rules.ready is not None:
        return rules.ready
    rates = (sum(now - window < time <= now for time in state.arrivals) / window for window in _RATE_WINDOWS)
    return min(1 + math.ceil(2 * max(rates) * state.start_time), rules.maximum)


def next_due(state: State, rules: Rules, now: float) -> float | None:
    """When `plan`, which has just been followed, will have something to do if nothing happens before."""
    times = [due for slot in state.slots.values() if (due := _due(slot, rules)) is not None]
    # Those at the head of the queue get what is starting or has room to, however long that takes.
    sure = state.count("starting") + _room(state, rules)
    times += [waiter.since + rules.acquire_timeout for waiter in state.waiters[sure:]]
    times.append(state.hold_starts_until)
    ready = [slot.since for slot in state.slots.values() if slot.phase == "ready"]
    if len(ready) > ready_target(state, rules, now):
        times.append(max(now + 1, min(ready) + SURPLUS_PATIENCE))
    return min((due for due in times if due > now), default=None)


def _room(state: State, rules: Rules) -> int:
    # A sandbox counts until it is gone, so one that is ending holds its place.
    return rules.maximum - len(state.slots)


def _alive(state: State) -> Iterable[Slot]:
    return (slot for slot in state.slots.values() if slot.phase != "ending")


def _expiry(slot: Slot, rules: Rules, now: float) -> Cause | None:
    due = _due(slot, rules)
    if due is None or now < due:
        return None
    return "cooled down" if rules.cooldown is not None else "reached its maximum age"


def _due(slot: Slot, rules: Rules) -> float | None:
    if slot.phase != "leased":
        return None
    if rules.cooldown is not None:
        return None if slot.users else slot.last_used + rules.cooldown
    return None if rules.maximum_age is None else slot.since + rules.maximum_age
