"""Plan the next actions of a pool, as a pure function of its state and the time. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from greenroom.errors import PoolFull, in_units
from greenroom.local.demand import FOOTPRINT, MOST_ARRIVALS, Decision, Observed, ReadyGoal, decide
from greenroom.local.memory import READ_INTERVAL, Memory
from greenroom.models import ReadyReason
from greenroom.telemetry import AllocationRefusal, EndCause

_POOL_FULL, _MEMORY_SHORT = AllocationRefusal.POOL_FULL, AllocationRefusal.MEMORY_SHORT

SURPLUS_TIMEOUT = 30.0
"""How long a surplus ready sandbox is kept in case it is needed, in seconds."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When a session ends, in seconds."""

    cooldown: float | None
    """From the last use; `None` if a session ends with its sandbox."""
    maximum_age: float | None


@dataclass(slots=True)
class Slot:
    """One sandbox in the pool's state."""

    number: int
    phase: Literal["starting", "ready", "leased", "ending"]
    since: float
    """When it entered its phase."""
    identifier: str | None = None
    """The session that it serves; set once, when it is leased."""
    last_used: float = 0.0
    users: int = 0
    """The number of running calls."""
    idle_timeout: float | None = None
    """The session's own time without use; `None` for the pool's."""
    began: float = 0.0
    """When it was decided to start it."""
    generation: int = 0
    """The generation of the rules under which it was started."""
    lifetime: Lifetime | None = None
    """The session's own lifetime, if the pool's has changed since the session began."""
    frozen: bool = False
    """Whether its processes should be suspended."""
    awake_until: float = 0.0
    """The earliest time at which it can be frozen."""


@dataclass(slots=True)
class QueueEntry:
    """An identifier that is queued for a sandbox, in the order of arrival."""

    identifier: str
    since: float


@dataclass(slots=True)
class State:
    """The state of a pool. Only the allocator and the tests change it."""

    slots: dict[int, Slot] = field(default_factory=dict[int, Slot])
    waiters: list[QueueEntry] = field(default_factory=list[QueueEntry])
    closing: bool = False
    arrivals: deque[float] = field(default_factory=lambda: deque[float](maxlen=MOST_ARRIVALS))
    """When identifiers were queued recently."""
    start_time: float = 0.0
    """The measured duration of a sandbox's start, in seconds."""
    decision: Decision = field(default_factory=Decision)
    """How many sandboxes should be ready, if that follows demand."""
    memory: Memory | None = None
    """The memory that is left for sandboxes; `None` if unknown."""
    memory_read_at: float = 0.0
    """When that was read."""
    footprint: int = FOOTPRINT
    """How much of it one more sandbox is expected to need, in bytes."""
    quick: bool = False
    """Whether sandboxes start so quickly that none need to be kept ready."""
    hold_starts_until: float = 0.0
    """After a failed start that no caller was waiting for: the earliest time of the next attempt."""

    def count(self, *phases: str) -> int:
        return sum(slot.phase in phases for slot in self.slots.values())


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that a plan follows. Times are in seconds."""

    maximum: int
    ready: int | ReadyGoal
    """How many sandboxes are kept ready, or the goal for their number."""
    cooldown: float | None
    """From the last use; `None` if a session ends with its sandbox."""
    maximum_age: float | None
    acquire_timeout: float
    max_concurrent_starts: int
    max_starts_beside_work: int | None = None
    """`max_concurrent_starts` while code runs; `None`: no difference."""
    none_if_quick: bool = False
    """Whether none are kept ready if sandboxes start quickly, instead of a fixed number."""
    idle_after: float | None = None
    """From the last use until a session is frozen; `None`: never."""
    memory_reserve: int | None = None
    """How many bytes of memory are kept free of sandboxes; `None`: the default."""
    generation: int = 0
    """The generation of sandboxes that can serve new sessions; others are ended unless they serve one."""

    @property
    def lifetime(self) -> Lifetime:
        """The lifetime of a session, unless it has its own."""
        return Lifetime(self.cooldown, self.maximum_age)


@dataclass(frozen=True, slots=True)
class Start:
    """Start a sandbox."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Lease a ready sandbox to the first in the queue."""

    slot: int
    identifier: str


@dataclass(frozen=True, slots=True)
class End:
    """End a sandbox, and its session if it has one."""

    slot: int
    cause: EndCause


@dataclass(frozen=True, slots=True)
class Freeze:
    """Suspend the processes of an unused session."""

    slot: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail the callers of a queued identifier: the pool is full, or memory is short."""

    identifier: str
    reason: AllocationRefusal = AllocationRefusal.POOL_FULL


Action: TypeAlias = Start | Lease | End | Freeze | Refuse


def plan(state: State, rules: Rules, now: float) -> list[Action]:
    """The actions that are due, in the order in which they must be applied to the state."""
    if state.closing:
        return [End(slot.number, EndCause.POOL_CLOSED) for slot in _alive(state)]
    actions: list[Action] = [
        End(slot.number, cause) for slot in state.slots.values() if (cause := _expiry(slot, rules, now)) is not None
    ]
    actions += [
        Freeze(slot.number)
        for slot in state.slots.values()
        if (due := _freeze_due(slot, rules)) is not None and now >= due and _expiry(slot, rules, now) is None
    ]

    dropped = _dropped(state, rules)
    actions += [End(number, cause) for number, cause in dropped.items()]

    ready = _in_phase(state, "ready", dropped)
    served = min(len(ready), len(state.waiters))
    actions += [Lease(slot.number, waiter.identifier) for slot, waiter in zip(ready, state.waiters, strict=False)]

    starting, room = len(_in_phase(state, "starting", dropped)), _room(state, rules)
    admitted = min(room, admissible(state, rules))
    waiting = state.waiters[served:]
    refused = [
        Refuse(waiter.identifier, _MEMORY_SHORT if place < starting + room else _POOL_FULL)
        for place, waiter in enumerate(waiting)
        if place >= starting + admitted and now >= waiter.since + rules.acquire_timeout
    ]
    actions += refused

    wanted = len(waiting) - len(refused)
    spare = len(ready) - served
    missing = wanted + ready_target(state, rules) - starting - spare
    surplus = 0 if waiting else max(0, min(-missing, spare))
    if now < state.hold_starts_until or (state.decision.held and isinstance(rules.ready, ReadyGoal)):
        missing = min(missing, wanted - starting)
    # If memory is short, sandboxes that no session waits for are the first not to be started.
    missing = min(missing, max(min(wanted - starting, admitted), admissible(state, rules, margin=2)))
    most = rules.max_concurrent_starts
    if rules.max_starts_beside_work is not None and any(slot.users for slot in state.slots.values()):
        most = min(most, rules.max_starts_beside_work)
    actions += [Start()] * max(0, min(missing, room, most - starting))
    expired = [slot for slot in ready[served:] if now >= slot.since + SURPLUS_TIMEOUT]
    actions += [End(slot.number, EndCause.SURPLUS) for slot in expired[:surplus]]
    return actions


def admissible(state: State, rules: Rules, *, margin: int = 1) -> int:
    """For how many more sandboxes there is memory.

    Args:
        state: the pool's state.
        rules: the pool's rules.
        margin: how many times the reserve must remain.
    """
    memory = state.memory
    if memory is None:
        return rules.maximum
    left = memory.available - margin * _reserve(memory, rules)
    # The memory of earlier sandboxes must not keep the pool empty: a new one shows what it needs itself.
    each = min(state.footprint, max(FOOTPRINT, left))
    # Those that are using memory now, or have begun to since it was read.
    unseen = sum(slot.phase == "starting" or slot.since >= state.memory_read_at for slot in _alive(state))
    return min(rules.maximum, max(0, left // each - unseen))


def review(state: State, rules: Rules, memory: Memory | None, now: float) -> Decision:
    """The decision how many sandboxes should be ready, which becomes part of the state."""
    if not isinstance(rules.ready, ReadyGoal):
        return Decision(rules.ready, ReadyReason.FIXED)
    beside_work = rules.max_starts_beside_work
    starts = rules.max_concurrent_starts if beside_work is None else min(beside_work, rules.max_concurrent_starts)
    ready, starting = state.count("ready"), state.count("starting")
    observed = Observed(state.arrivals, state.start_time, starts, ready, starting, memory, state.footprint)
    return decide(state.decision, observed, rules.ready, now)


def ready_target(state: State, rules: Rules) -> int:
    """How many sandboxes should be ready: as set, or as decided."""
    if isinstance(rules.ready, ReadyGoal):
        return min(state.decision.target, rules.maximum)
    return 0 if state.quick and rules.none_if_quick else rules.ready


def ready_reason(state: State, rules: Rules) -> ReadyReason:
    """The reason for that number."""
    if isinstance(rules.ready, ReadyGoal):
        return state.decision.reason
    if state.quick and rules.none_if_quick:
        return ReadyReason.QUICK
    lacks_all = ready_target(state, rules) > 0 and not state.count("starting", "ready")
    return ReadyReason.MEMORY if lacks_all and not admissible(state, rules, margin=2) else state.decision.reason


def next_due(state: State, rules: Rules, now: float) -> float | None:
    """When `plan` will return the next action if the state does not change before; due actions have been applied."""
    times = [due for slot in state.slots.values() if (due := _due(slot, rules)) is not None]
    # The first in the queue gets the sandboxes that are starting or can start, however long that takes.
    starting = len(_in_phase(state, "starting", _dropped(state, rules)))
    sure = starting + min(_room(state, rules), admissible(state, rules))
    times += [due for slot in state.slots.values() if (due := _freeze_due(slot, rules)) is not None]
    if state.memory is not None and _room(state, rules) and _is_short(state, rules):
        times.append(state.memory_read_at + READ_INTERVAL)
    times += [waiter.since + rules.acquire_timeout for waiter in state.waiters[sure:]]
    times.append(state.hold_starts_until)
    if isinstance(rules.ready, ReadyGoal) and state.decision.review_at is not None:
        times.append(state.decision.review_at)
    ready = [slot.since for slot in state.slots.values() if slot.phase == "ready"]
    if len(ready) + starting > ready_target(state, rules):
        times += [since + SURPLUS_TIMEOUT for since in ready]
    return min((due for due in times if due > now), default=None)


def due_alone(slot: Slot, rules: Rules) -> float | None:
    """When `plan` will end or freeze the sandbox of a session, whatever happens to the others."""
    times = [_due(slot, rules), _freeze_due(slot, rules)]
    return min((due for due in times if due is not None), default=None)


def is_satisfied(state: State, rules: Rules) -> bool:
    """Whether no session waits for a sandbox, and as many are ready or starting as should be."""
    return not state.waiters and state.count("starting", "ready") >= ready_target(state, rules)


def full(state: State, rules: Rules, now: float, reason: AllocationRefusal = _POOL_FULL) -> PoolFull:
    """The error for a caller that got no sandbox, with the time when one may become free."""
    due = min((at for slot in state.slots.values() if (at := _due(slot, rules)) is not None and at > now), default=None)
    retry_after = None if due is None else due - now
    hint = "" if retry_after is None else f" One may become free in {retry_after:.0f} seconds."
    # A sandbox that starts for an earlier caller, or that is ending, also takes up a place: none is left.
    sessions = rules.maximum
    if reason is _MEMORY_SHORT and (memory := state.memory) is not None:
        return PoolFull(
            f"The pool cannot start another sandbox, because memory is short: {in_units(memory.available)} of "
            f"{in_units(memory.total)} of {memory.limit} are available, {in_units(_reserve(memory, rules))} must stay "
            f"free (memory_reserve), and this did not change within {rules.acquire_timeout:g} seconds. Delete sessions "
            "that are no longer needed, or lower max_concurrent_sessions, memory or memory_reserve.",
            sessions=sessions,
            retry_after=retry_after,
            memory=True,
        )
    return PoolFull(
        f"The pool is full: {sessions} of {sessions} sessions are in use, and none became free within "
        f"{rules.acquire_timeout:g} seconds.{hint} Delete sessions that are no longer needed, shorten "
        "cooldown_period, or raise max_concurrent_sessions.",
        sessions=sessions,
        retry_after=retry_after,
    )


def cooldown(slot: Slot, rules: Rules) -> float | None:
    """How long a session lasts without use, in seconds; `None` if it ends with its sandbox."""
    pools = rules.cooldown if slot.lifetime is None else slot.lifetime.cooldown
    return pools if pools is None or slot.idle_timeout is None else min(slot.idle_timeout, pools)


def expires_at(slot: Slot, rules: Rules) -> float | None:
    """When a session's sandbox is due to end; `None` while it is in use, or if nothing ends it."""
    if (lasts := cooldown(slot, rules)) is not None:
        return None if slot.users else slot.last_used + lasts
    maximum_age = rules.maximum_age if slot.lifetime is None else slot.lifetime.maximum_age
    return None if maximum_age is None else slot.since + maximum_age


def _in_phase(state: State, phase: str, dropped: Mapping[int, EndCause]) -> list[Slot]:
    """The slots in a phase that are not about to end, the oldest first."""
    found = (slot for slot in state.slots.values() if slot.phase == phase and slot.number not in dropped)
    return sorted(found, key=lambda slot: slot.since)


def _dropped(state: State, rules: Rules) -> dict[int, EndCause]:
    """The sandboxes without a session that the current rules do not allow: of an older generation, or too many."""
    unused = [slot for phase in ("starting", "ready") for slot in _in_phase(state, phase, {})]
    dropped = {slot.number: EndCause.OUTDATED for slot in unused if slot.generation != rules.generation}
    current = [slot.number for slot in unused if slot.number not in dropped]
    excess = sum(1 for _ in _alive(state)) - len(dropped) - rules.maximum
    return {**dropped, **dict.fromkeys(current[: max(0, excess)], EndCause.SURPLUS)}


def _room(state: State, rules: Rules) -> int:
    # A sandbox counts until it is gone, so one that is ending keeps its place.
    return max(0, rules.maximum - len(state.slots))  # the maximum was lowered if there are more


def _alive(state: State) -> Iterable[Slot]:
    return (slot for slot in state.slots.values() if slot.phase != "ending")


def _expiry(slot: Slot, rules: Rules, now: float) -> EndCause | None:
    due = _due(slot, rules)
    if due is None or now < due:
        return None
    return EndCause.COOLED_DOWN if cooldown(slot, rules) is not None else EndCause.MAX_AGE


def _reserve(memory: Memory, rules: Rules) -> int:
    return memory.default_reserve if rules.memory_reserve is None else rules.memory_reserve


def _is_short(state: State, rules: Rules) -> bool:
    """Whether a start waits for memory."""
    coming = state.count("starting", "ready")
    wanted = len(state.waiters) - coming
    return wanted > admissible(state, rules) or wanted + ready_target(state, rules) > admissible(state, rules, margin=2)


def _freeze_due(slot: Slot, rules: Rules) -> float | None:
    """When to freeze a session; `None` while it is in use or frozen, or if no sessions are frozen."""
    if rules.idle_after is None or slot.phase != "leased" or slot.users or slot.frozen:
        return None
    return max(slot.last_used + rules.idle_after, slot.awake_until)


def _due(slot: Slot, rules: Rules) -> float | None:
    return expires_at(slot, rules) if slot.phase == "leased" else None
