"""The plan of a pool, in every state that it can reach."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.effort import examples

from greenroom.local.demand import Decision, ReadyGoal
from greenroom.local.memory import READ_INTERVAL, Memory
from greenroom.local.plan import (
    SURPLUS_TIMEOUT,
    Action,
    End,
    Freeze,
    Lease,
    Lifetime,
    QueueEntry,
    Refuse,
    Rules,
    Slot,
    Start,
    State,
    admissible,
    cooldown,
    due_alone,
    full,
    is_satisfied,
    next_due,
    plan,
    ready_reason,
    ready_target,
)
from greenroom.models import ReadyReason
from greenroom.telemetry import AllocationRefusal, EndCause

NOW = 1000.0
GIB = 1 << 30


def rules_of(
    *,
    maximum: int = 3,
    ready: int | ReadyGoal = 0,
    cooldown: float | None = 300,
    maximum_age: float | None = None,
    acquire_timeout: float = 30,
    max_concurrent_starts: int = 2,
    **more: Any,
) -> Rules:
    return Rules(maximum, ready, cooldown, maximum_age, acquire_timeout, max_concurrent_starts, **more)


def state_of(*slots: Slot, waiting: str = "", hold_starts_until: float = 0.0) -> State:
    """Books with these slots, and a waiter that came now for every letter."""
    return State(
        {slot.number: slot for slot in slots},
        [QueueEntry(letter, NOW) for letter in waiting],
        hold_starts_until=hold_starts_until,
    )


def starting(number: int) -> Slot:
    return Slot(number, "starting", NOW)


def ready(number: int, since: float = NOW) -> Slot:
    return Slot(number, "ready", since)


def leased(number: int, *, idle_for: float = 0, users: int = 0, age: float = 0) -> Slot:
    return Slot(number, "leased", NOW - age, identifier=f"session-{number}", last_used=NOW - idle_for, users=users)


def ending(number: int) -> Slot:
    return Slot(number, "ending", NOW)


# Examples


def test_an_empty_pool_fills_up_to_its_ready_instances() -> None:
    assert plan(state_of(), rules_of(ready=2), NOW) == [Start(), Start()]


def test_concurrent_starts_are_limited_to_the_capacity_of_the_machine() -> None:
    assert plan(state_of(starting(1)), rules_of(maximum=9, ready=9, max_concurrent_starts=3), NOW) == [Start(), Start()]


def test_a_ready_sandbox_goes_to_the_first_in_the_queue_and_is_replaced() -> None:
    assert plan(state_of(ready(1), waiting="ab"), rules_of(ready=1), NOW) == [Lease(1, "a"), Start(), Start()]


def test_the_sandbox_that_waited_longest_goes_first() -> None:
    state = state_of(ready(1, since=NOW - 1), ready(2, since=NOW - 9), waiting="ab")
    assert plan(state, rules_of(), NOW) == [Lease(2, "a"), Lease(1, "b")]


def test_a_caller_of_an_empty_pool_gets_its_own_sandbox() -> None:
    assert plan(state_of(waiting="a"), rules_of(ready=0), NOW) == [Start()]


def test_a_call_that_does_not_wait_still_gets_a_free_place() -> None:
    assert plan(state_of(waiting="a"), rules_of(acquire_timeout=0), NOW) == [Start()]


def test_a_full_pool_refuses_a_caller_that_does_not_wait() -> None:
    assert plan(state_of(leased(1), waiting="a"), rules_of(maximum=1, acquire_timeout=0), NOW) == [Refuse("a")]


def test_a_full_pool_lets_a_caller_wait_before_refusing_it() -> None:
    state, rules = state_of(leased(1, users=1), waiting="a"), rules_of(maximum=1, acquire_timeout=30)
    assert plan(state, rules, NOW + 29.9) == []
    assert next_due(state, rules, NOW) == NOW + 30
    assert plan(state, rules, NOW + 30) == [Refuse("a")]


def test_no_call_is_refused_while_its_sandbox_starts() -> None:
    state, rules = state_of(starting(1), leased(2, users=1), waiting="ab"), rules_of(maximum=2)
    assert plan(state, rules, NOW + 99) == [Refuse("b")]


def test_no_call_is_refused_while_there_is_room_and_starts_are_queued() -> None:
    state, rules = state_of(starting(1), waiting="abc"), rules_of(maximum=9, max_concurrent_starts=1)
    assert plan(state, rules, NOW + 99) == []


def test_a_session_cools_down_after_its_last_use() -> None:
    state, rules = state_of(leased(1, idle_for=299)), rules_of(cooldown=300)
    assert plan(state, rules, NOW) == []
    assert next_due(state, rules, NOW) == NOW + 1
    assert plan(state, rules, NOW + 1) == [End(1, EndCause.COOLED_DOWN)]


def test_a_session_with_its_own_cool_down_time_uses_it() -> None:
    slot = leased(1, idle_for=59)
    slot.idle_timeout = 60
    state, rules = state_of(slot, leased(2, idle_for=59)), rules_of(cooldown=300)
    assert plan(state, rules, NOW) == []
    assert next_due(state, rules, NOW) == NOW + 1
    assert plan(state, rules, NOW + 1) == [End(1, EndCause.COOLED_DOWN)]
    slot.idle_timeout = 9999
    assert cooldown(slot, rules) == 300, "never longer than the pool's"
    assert cooldown(slot, rules_of(cooldown=None)) is None


def test_a_session_in_use_does_not_cool_down() -> None:
    state, rules = state_of(leased(1, idle_for=9999, users=1)), rules_of(cooldown=300)
    assert plan(state, rules, NOW) == []
    assert next_due(state, rules, NOW) is None


def test_a_session_that_ends_with_its_sandbox_reaches_its_maximum_age_even_in_use() -> None:
    state, rules = state_of(leased(1, age=3599, users=1)), rules_of(cooldown=None, maximum_age=3600)
    assert plan(state, rules, NOW) == []
    assert plan(state, rules, NOW + 1) == [End(1, EndCause.MAX_AGE)]


def test_a_sandbox_keeps_its_place_until_it_is_gone() -> None:
    assert plan(state_of(ending(1), waiting="a"), rules_of(maximum=1), NOW) == []


def test_a_sandbox_without_a_waiting_caller_is_surplus_after_a_while() -> None:
    state, rules = state_of(ready(1), ready(2)), rules_of(ready=1)
    assert plan(state, rules, NOW) == []
    assert next_due(state, rules, NOW) == NOW + SURPLUS_TIMEOUT
    assert plan(state, rules, NOW + SURPLUS_TIMEOUT) == [End(1, EndCause.SURPLUS)]


def test_the_number_that_is_decided_is_kept_ready_and_never_exceeds_the_maximum() -> None:
    goal = ReadyGoal(0.1, 1, 20)
    state = state_of(ready(1))
    state.decision = Decision(3)
    assert plan(state, rules_of(maximum=9, ready=goal, max_concurrent_starts=9), NOW) == [Start(), Start()]
    assert ready_target(state, rules_of(maximum=2, ready=goal)) == 2
    assert ready_target(state, rules_of(ready=1)) == 1, "a number that is set counts alone"


def test_where_memory_is_short_only_sandboxes_that_sessions_wait_for_start() -> None:
    rules = rules_of(ready=ReadyGoal(0.1, 2, 2))
    state = state_of(waiting="a")
    state.decision = Decision(2, held=True)
    assert plan(state, rules, NOW) == [Start()]
    assert plan(state, rules_of(ready=2), NOW) == [Start(), Start()], "a number that is set is not held back"


def test_after_a_failed_start_only_warm_starts_are_held_back() -> None:
    rules = rules_of(ready=1)
    held = state_of(hold_starts_until=NOW + 5)
    assert plan(held, rules, NOW) == []
    assert next_due(held, rules, NOW) == NOW + 5
    assert plan(held, rules, NOW + 5) == [Start()]
    assert plan(state_of(waiting="a", hold_starts_until=NOW + 5), rules, NOW) == [Start()]


def test_a_failed_start_makes_no_ready_sandbox_surplus() -> None:
    old = NOW - SURPLUS_TIMEOUT
    held = state_of(ready(1, old), ready(2, old), starting(3), hold_starts_until=NOW + 5)
    assert plan(held, rules_of(maximum=5, ready=4), NOW) == []


def test_an_idle_session_is_frozen_once() -> None:
    state, rules = state_of(leased(1, idle_for=59), leased(2, users=1, idle_for=99)), rules_of(idle_after=60)
    assert plan(state, rules, NOW) == []
    assert next_due(state, rules, NOW) == NOW + 1
    assert plan(state, rules, NOW + 1) == [Freeze(1)]
    state.slots[1].frozen = True
    assert plan(state, rules, NOW + 1) == []
    assert next_due(state, rules, NOW + 1) == NOW + 241, "it cools down"
    assert plan(state_of(leased(1, idle_for=99)), rules_of(), NOW) == [], "by default none is"


def test_a_session_that_could_not_be_frozen_is_not_retried_for_a_while() -> None:
    slot = leased(1, idle_for=99)
    slot.awake_until = NOW + 5
    state, rules = state_of(slot), rules_of(idle_after=60)
    assert plan(state, rules, NOW) == []
    assert next_due(state, rules, NOW) == NOW + 5


def test_a_session_that_ends_is_not_frozen_first() -> None:
    assert plan(state_of(leased(1, idle_for=300)), rules_of(idle_after=60), NOW) == [End(1, EndCause.COOLED_DOWN)]


def short_of_memory(state: State, available: int) -> State:
    state.memory, state.memory_read_at = Memory(16 * GIB, available, limit="the control group /a"), NOW
    return state


def test_where_memory_is_short_a_session_waits_for_it_and_is_refused() -> None:
    rules = rules_of(memory_reserve=GIB)
    state = short_of_memory(state_of(leased(1), waiting="a"), GIB)
    assert plan(state, rules, NOW) == []
    assert next_due(state, rules, NOW) == NOW + READ_INTERVAL, "it may have changed by then"
    assert plan(state, rules, NOW + 30) == [Refuse("a", AllocationRefusal.MEMORY_SHORT)]
    error = full(state, rules, NOW + 30, AllocationRefusal.MEMORY_SHORT)
    assert error.memory
    assert all(each in str(error) for each in ("1 GiB of 16 GiB of the control group /a", "memory_reserve", "Delete"))
    assert plan(short_of_memory(state, 2 * GIB), rules, NOW) == [Start()]


def test_a_full_pool_takes_precedence_over_short_memory() -> None:
    state = short_of_memory(state_of(leased(1), leased(2), leased(3), waiting="a"), 0)
    assert plan(state, rules_of(memory_reserve=GIB), NOW + 30) == [Refuse("a")]


def test_a_ready_sandbox_is_leased_even_if_memory_is_short() -> None:
    state = short_of_memory(state_of(ready(1), waiting="a"), 0)
    assert plan(state, rules_of(ready=1), NOW) == [Lease(1, "a")]


def test_short_memory_reduces_warm_sandboxes_first() -> None:
    rules = rules_of(maximum=9, ready=2, max_concurrent_starts=9, memory_reserve=GIB)
    enough_for_sessions = 2 * GIB - 1
    assert plan(short_of_memory(state_of(), enough_for_sessions), rules, NOW) == []
    assert plan(short_of_memory(state_of(waiting="a"), enough_for_sessions), rules, NOW) == [Start()]
    assert plan(short_of_memory(state_of(), 3 * GIB), rules, NOW) == [Start(), Start()]


def test_a_starting_sandbox_reserves_its_memory() -> None:
    rules = rules_of(maximum=9, max_concurrent_starts=9, memory_reserve=0)
    state = short_of_memory(state_of(waiting="abcd"), 250 << 20)
    assert plan(state, rules, NOW) == [Start(), Start()]
    state.slots = {1: starting(1), 2: Slot(2, "leased", NOW)}
    assert admissible(state, rules) == 0, "one is not ready, one has begun to work since memory was read"


def test_by_default_a_twentieth_of_the_memory_is_kept_free_and_at_most_a_gibibyte() -> None:
    assert Memory(2 * GIB, 0).default_reserve == 2 * GIB // 20
    assert Memory(512 * GIB, 0).default_reserve == GIB


def test_quickly_starting_sandboxes_are_kept_ready_only_if_a_number_is_set() -> None:
    state = state_of(ready(1))
    rules, as_set = rules_of(ready=1, none_if_quick=True), rules_of(ready=1)
    assert ready_target(state, rules) == 1
    state.quick = True
    assert (ready_target(state, rules), ready_reason(state, rules)) == (0, ReadyReason.QUICK)
    assert ready_target(state, as_set) == 1
    assert plan(state, rules, NOW + SURPLUS_TIMEOUT) == [End(1, EndCause.SURPLUS)]


def test_a_pool_that_closes_ends_everything_and_starts_nothing() -> None:
    state = state_of(starting(1), ready(2), leased(3, users=1), ending(4), waiting="a")
    state.closing = True
    assert plan(state, rules_of(ready=3), NOW) == [End(number, EndCause.POOL_CLOSED) for number in (1, 2, 3)]


# Every turn


GOAL = ReadyGoal(0.1, 0, 9)

times = st.floats(0.0, 40.0)
lifetimes = st.one_of(
    st.builds(Lifetime, st.floats(0.1, 60), st.none()),
    st.builds(Lifetime, st.none(), st.none() | st.floats(1, 60)),
)


class Pool(RuleBasedStateMachine):
    """A pool's books, kept as `LocalPool` keeps them, by a world that does what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.limits = rules_of()
        self.now = NOW
        self.count = 0

    @initialize(
        maximum=st.integers(1, 5),
        ready=st.integers(0, 5),
        cooldown=st.none() | st.floats(0.1, 60),
        acquire_timeout=st.floats(0, 30),
        max_concurrent_starts=st.integers(1, 4),
        idle_after=st.none() | st.floats(0.1, 30),
    )
    def open(
        self,
        *,
        maximum: int,
        ready: int,
        cooldown: float | None,
        acquire_timeout: float,
        max_concurrent_starts: int,
        idle_after: float | None,
    ) -> None:
        self.limits = Rules(
            maximum=maximum,
            ready=min(ready, maximum),
            cooldown=cooldown,
            maximum_age=None if cooldown is not None else 50,
            acquire_timeout=acquire_timeout,
            max_concurrent_starts=max_concurrent_starts,
            idle_after=idle_after,
            memory_reserve=GIB,
        )
        self.advance()

    # What may happen

    @precondition(lambda self: not self.state.closing)
    @rule()
    def someone_comes(self) -> None:
        self.count += 1
        self.state.waiters.append(QueueEntry(f"session-{self.count}", self.now))
        self.advance()

    @precondition(lambda self: self.state.waiters)
    @rule(data=st.data())
    def someone_gives_up(self, data: st.DataObject) -> None:
        self.state.waiters.remove(data.draw(st.sampled_from(self.state.waiters)))
        self.advance()

    @precondition(lambda self: self.slots("starting"))
    @rule(data=st.data())
    def one_becomes_ready(self, data: st.DataObject) -> None:
        self.becomes_ready(self.draw(data, "starting"))

    @precondition(lambda self: self.slots("starting"))
    @rule(data=st.data())
    def one_fails_to_start(self, data: st.DataObject) -> None:
        self.retire(self.draw(data, "starting"))
        if self.state.waiters:
            del self.state.waiters[0]
        else:
            self.state.hold_starts_until = self.now + 5
        self.advance()

    @precondition(lambda self: self.slots("ready", "leased"))
    @rule(data=st.data())
    def one_is_lost(self, data: st.DataObject) -> None:
        self.retire(self.draw(data, "ready", "leased"))
        self.advance()

    @precondition(lambda self: self.slots("leased"))
    @rule(data=st.data())
    def a_use_begins(self, data: st.DataObject) -> None:
        slot = self.draw(data, "leased")
        slot.users += 1
        slot.frozen = False
        slot.idle_timeout = data.draw(st.none() | st.floats(0.1, 90))

    @precondition(lambda self: any(slot.users for slot in self.slots("leased")))
    @rule(data=st.data())
    def a_use_ends(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from([slot for slot in self.slots("leased") if slot.users]))
        before = next_due(self.state, self.limits, self.now)
        slot.users -= 1
        slot.last_used = self.now
        assert plan(self.state, self.limits, self.now) == [], "only its own time is new"
        times = [due for due in (before, due_alone(slot, self.limits)) if due is not None]
        assert next_due(self.state, self.limits, self.now) == min(times, default=None)
        if is_satisfied(self.state, self.limits):
            beside_work = replace(self.limits, max_starts_beside_work=1)
            assert plan(self.state, beside_work, self.now) == [], "nothing waits for the end of this use"
        self.advance()

    @precondition(lambda self: any(slot.frozen for slot in self.slots("leased")))
    @rule(data=st.data())
    def one_cannot_be_frozen(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from([slot for slot in self.slots("leased") if slot.frozen]))
        slot.frozen, slot.awake_until = False, self.now + 5
        self.advance()

    @precondition(lambda self: self.slots("leased"))
    @rule(data=st.data())
    def one_is_deleted(self, data: st.DataObject) -> None:
        self.retire(self.draw(data, "leased"))

    @precondition(lambda self: self.slots("ending"))
    @rule(data=st.data())
    def one_is_gone(self, data: st.DataObject) -> None:
        del self.state.slots[self.draw(data, "ending").number]
        self.advance()

    @rule(seconds=times, part=st.floats(0, 1, exclude_max=True))
    def time_passes(self, seconds: float, part: float) -> None:
        """As the pool's timer sees it: every moment at which something is due, and none between."""
        end = self.now + seconds
        while not self.state.closing and (due := next_due(self.state, self.limits, self.now)) and due <= end:
            between = self.now + part * (due - self.now)
            assert between == due or plan(self.state, self.limits, between) == [], "the timer would have come too late"
            self.now = due
            self.advance()
        self.now = end
        assert plan(self.state, self.limits, self.now) == [], "the timer would not have come"

    @rule(seconds=times)
    def time_passes_unnoticed(self, seconds: float) -> None:
        """The loop was busy, and the timer comes late."""
        self.now += seconds
        self.advance()

    @rule(maximum=st.integers(1, 6), ready=st.integers(0, 6), outdated=st.booleans(), limits=lifetimes)
    def the_rules_change(self, maximum: int, ready: int, outdated: bool, limits: Lifetime) -> None:
        """As `Allocator.change` does."""
        before = self.limits
        for slot in self.slots("leased"):
            slot.lifetime = slot.lifetime or before.lifetime
        self.limits = replace(
            before,
            maximum=maximum,
            ready=min(ready, maximum),
            cooldown=limits.cooldown,
            maximum_age=limits.maximum_age,
            generation=before.generation + outdated,
        )
        self.state.hold_starts_until = 0
        self.advance()

    @rule(wanted=st.integers(0, 7), held=st.booleans())
    def the_demand_changes(self, wanted: int, held: bool) -> None:
        self.limits = replace(self.limits, ready=GOAL)
        self.state.decision = Decision(wanted, held=held)
        self.advance()

    @rule(megabytes=st.none() | st.integers(0, 4096))
    def memory_changes(self, megabytes: int | None) -> None:
        self.state.memory = None if megabytes is None else Memory(16 * GIB, megabytes << 20)
        self.state.memory_read_at = self.now
        self.advance()

    @rule(quick=st.booleans(), none=st.booleans())
    def starts_become_quick_or_slow(self, quick: bool, none: bool) -> None:
        self.state.quick = quick
        self.limits = replace(self.limits, none_if_quick=none)
        self.advance()

    @precondition(lambda self: not self.state.closing and self.count > 3)
    @rule()
    def the_pool_closes(self) -> None:
        self.state.closing = True
        self.state.waiters.clear()
        self.advance()

    # What has to hold

    def advance(self) -> None:
        if self.now - self.state.memory_read_at >= READ_INTERVAL:
            self.state.memory_read_at = self.now
        before = copy.deepcopy(self.state)
        actions = plan(self.state, self.limits, self.now)
        assert self.state == before, "a plan changes nothing"
        self.check(actions)
        for action in actions:
            self.enter(action)
        assert plan(self.state, self.limits, self.now) == [], "a plan that was followed leaves nothing to do"
        due = next_due(self.state, self.limits, self.now)
        assert due is None or due > self.now

    def check(self, actions: list[Action]) -> None:
        state, rules = self.state, self.limits
        waiting = [waiter.identifier for waiter in state.waiters]
        leases = [action for action in actions if isinstance(action, Lease)]
        ends = [action for action in actions if isinstance(action, End)]
        refused = [action.identifier for action in actions if isinstance(action, Refuse)]

        touched = [action.slot for action in (*leases, *ends)]
        assert len(touched) == len(set(touched)), "nothing is planned twice for one sandbox"
        assert [lease.identifier for lease in leases] == waiting[: len(leases)], "first come, first served"
        assert all(state.slots[lease.slot].phase == "ready" for lease in leases)
        assert all(state.slots[lease.slot].generation == rules.generation for lease in leases)

        frozen = {action.slot for action in actions if isinstance(action, Freeze)}
        assert not frozen & set(touched)
        for slot in map(state.slots.__getitem__, frozen):
            assert slot.phase == "leased"
            assert not slot.users
            assert not slot.frozen
            assert rules.idle_after is not None
            assert self.now >= slot.last_used + rules.idle_after

        places = max(0, rules.maximum - len(state.slots))
        room = min(places, admissible(state, rules))
        assert sum(isinstance(action, Start) for action in actions) <= room, "there is memory for what starts"
        for action in actions:
            if isinstance(action, Refuse):
                short = action.reason is AllocationRefusal.MEMORY_SHORT
                assert not short or (state.memory is not None and room < places)
        ended = {end.slot for end in ends}
        safe = len(leases) + sum(slot.number not in ended for slot in self.slots("starting")) + room
        assert not set(refused) & set(waiting[:safe]), "nobody is refused whose sandbox is starting, or could"
        for waiter in state.waiters:
            assert waiter.identifier not in refused or self.now >= waiter.since + rules.acquire_timeout

        for end in ends:
            slot = state.slots[end.slot]
            match end.cause:
                case EndCause.OUTDATED:
                    assert slot.phase in {"starting", "ready"}
                    assert slot.generation != rules.generation
                case EndCause.SURPLUS if len(state.slots) > rules.maximum:
                    assert slot.phase in {"starting", "ready"}, "a session drains"
                case EndCause.COOLED_DOWN:
                    assert slot.phase == "leased"
                    assert slot.users == 0, "a session in use never cools down"
                    assert self.now >= slot.last_used + (cooldown(slot, rules) or 0)
                case EndCause.MAX_AGE:
                    age = (slot.lifetime or rules.lifetime).maximum_age
                    assert age is not None
                    assert slot.phase == "leased"
                    assert self.now >= slot.since + age
                case EndCause.SURPLUS:
                    assert slot.phase == "ready"
                    assert not waiting or len(leases) == len(waiting)
                case EndCause.POOL_CLOSED:
                    assert state.closing
                case other:
                    pytest.fail(f"a plan does not end a sandbox because it {other}")

    def enter(self, action: Action) -> None:
        match action:
            case Start():
                self.count += 1
                self.state.slots[self.count] = Slot(self.count, "starting", self.now, generation=self.limits.generation)
            case Freeze(number):
                self.state.slots[number].frozen = True
            case Lease(number, identifier):
                slot = self.state.slots[number]
                slot.phase, slot.since, slot.identifier, slot.last_used = "leased", self.now, identifier, self.now
                self.leave(identifier)
            case End(number):
                self.retire(self.state.slots[number])
            case Refuse(identifier, _):
                self.leave(identifier)

    @invariant()
    def the_limits_are_kept(self) -> None:
        alive = self.slots("starting", "ready", "leased")
        assert len(alive) <= max(self.limits.maximum, len(self.slots("leased"))), "more than sessions that drain"
        assert all(slot.generation == self.limits.generation for slot in self.slots("starting", "ready"))
        assert self.state.count("starting") <= self.limits.max_concurrent_starts

    @invariant()
    def nobody_waits_beside_a_ready_sandbox(self) -> None:
        assert not (self.state.waiters and self.slots("ready"))

    @invariant()
    def nothing_waits_that_could_start(self) -> None:
        state, rules = self.state, self.limits
        may_start = len(state.slots) < rules.maximum and state.count("starting") < rules.max_concurrent_starts
        if not may_start or state.closing:
            return
        if admissible(state, rules):
            assert len(state.waiters) <= state.count("starting"), "everybody in the queue has a sandbox on its way"
        if not admissible(state, rules, margin=2):
            return
        if self.now >= state.hold_starts_until and not self.is_held():
            assert state.count("starting", "ready") >= ready_target(state, rules)

    @invariant()
    def idle_sessions_are_frozen_and_no_others(self) -> None:
        for slot in self.slots("leased"):
            assert not (slot.frozen and slot.users)
            idle_after = self.limits.idle_after
            if idle_after is not None and not slot.users and self.now >= slot.awake_until:
                assert slot.frozen or self.now < slot.last_used + idle_after

    @invariant()
    def no_more_stay_ready_than_the_pool_should_keep(self) -> None:
        for_long = [slot for slot in self.slots("ready") if self.now >= slot.since + SURPLUS_TIMEOUT]
        assert len(for_long) <= ready_target(self.state, self.limits)

    @invariant()
    def nothing_lives_past_its_time(self) -> None:
        for slot in self.slots("leased"):
            lifetime = slot.lifetime or self.limits.lifetime
            if lifetime.cooldown is not None:
                assert slot.users or self.now < slot.last_used + (cooldown(slot, self.limits) or 0)
            elif lifetime.maximum_age is not None:
                assert self.now < slot.since + lifetime.maximum_age

    def teardown(self) -> None:
        """From here on every start succeeds, memory suffices, and the callers do not change: the pool settles."""
        self.state.memory = None
        self.advance()
        for _ in self.steps_to_peace():
            self.the_limits_are_kept()
        state, rules = self.state, self.limits
        assert not state.waiters, "everybody was served or refused"
        if state.closing:
            assert not state.slots
        else:
            room = max(0, rules.maximum - state.count("leased"))
            wanted = min(ready_target(state, rules), room)
            found = len(self.slots("ready"))
            assert found <= wanted if self.is_held() else found == wanted, "as many are ready as there should be"

    def steps_to_peace(self) -> Iterator[None]:
        for _ in range(200):
            due = None if self.state.closing else next_due(self.state, self.limits, self.now)
            if waits_for_world := self.slots("ending"):
                del self.state.slots[waits_for_world[0].number]
                self.advance()
            elif waits_for_world := self.slots("starting"):
                self.becomes_ready(waits_for_world[0])
            elif due is not None:
                self.now = due
                self.advance()
            else:
                return
            yield
        raise AssertionError("the pool does not settle")

    def is_held(self) -> bool:
        return self.limits.ready is GOAL and self.state.decision.held

    # The world's hands

    def slots(self, *phases: str) -> list[Slot]:
        return [slot for slot in self.state.slots.values() if slot.phase in phases]

    def draw(self, data: st.DataObject, *phases: str) -> Slot:
        return data.draw(st.sampled_from(self.slots(*phases)), label="sandbox")

    def becomes_ready(self, slot: Slot) -> None:
        slot.phase, slot.since = "ready", self.now
        self.advance()

    def retire(self, slot: Slot) -> None:
        slot.phase, slot.since = "ending", self.now

    def leave(self, identifier: str) -> None:
        self.state.waiters = [waiter for waiter in self.state.waiters if waiter.identifier != identifier]


TestPool = pytest.mark.timeout(60)(Pool.TestCase)
TestPool.settings = settings(max_examples=examples(100), stateful_step_count=40)
