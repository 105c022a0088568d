"""Lease instances by identifier, warm or newly started ones. The allocator does not know what an instance is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic

from greenroom.errors import EngineUnavailable, GreenroomError, InvalidRequest, PoolClosed
from greenroom.local.demand import ReadyGoal, footprint
from greenroom.local.freezing import Freezing
from greenroom.local.instance import REASONS, InstanceT, start_failure
from greenroom.local.memory import Memory, MemoryWatch, read_memory
from greenroom.local.metering import Metering
from greenroom.local.plan import (
    Action,
    End,
    Freeze,
    Lease,
    QueueEntry,
    Refuse,
    Rules,
    Slot,
    Start,
    State,
    due_alone,
    expires_at,
    full,
    is_satisfied,
    next_due,
    plan,
    review,
)
from greenroom.local.statistics import Statistics
from greenroom.models import PoolStatus, SessionInfo
from greenroom.telemetry import (
    AllocationRefusal,
    AllocationRefused,
    EndCause,
    EngineLost,
    EngineRecovered,
    Observer,
    SandboxEnded,
    SandboxRemoved,
    SandboxStarted,
    SandboxStarting,
    SessionAllocated,
    StartFailed,
    StartFailure,
    TelemetryEvent,
    tracing,
)

_CLOSE_TIMEOUT = 15.0
_START_TIMEOUT = 60.0
_HOLD_AFTER_FAILURE = 5.0
_GIVE_WAY = 0.02  # a start takes both processors of a small machine, and a session's first code milliseconds
_MAX_REMEMBERED = 10_000  # identifiers whose instances have ended; a few megabytes


class _PendingLease:
    """A session that is queued for an instance, with its waiting callers."""

    def __init__(self, place: asyncio.Future[Slot], since: float) -> None:
        self.place = place
        self.since = since
        self.callers = 0
        self.failed_starts = 0
        """Instances that were meant to serve it and failed to start."""


class Allocator(Generic[InstanceT]):
    """Keeps ready instances, leases one per identifier, and ends those that are due.

    Every change of state happens between two awaits, in `_advance`; its side effects run in tasks afterwards, so that
    no caller waits for the instance of another caller. Created and used on one event loop.

    Args:
        start: starts an instance, which calls its argument once when it ends by itself. If cancelled, it leaves
            nothing behind.
        description: the kind of instance for messages, such as the engine's name.
        start_timeout: in seconds; `None` if instances have their own limits.
        most_failed_starts: how many starts can fail for one session while others are pending, before its callers fail.
        memory: measures the memory that is left for instances; none starts while it is short.
    """

    def __init__(
        self,
        start: Callable[[Callable[[], None]], Coroutine[Any, Any, InstanceT]],
        rules: Rules,
        description: str,
        observer: Observer,
        *,
        start_timeout: float | None = _START_TIMEOUT,
        most_failed_starts: int = 1,
        memory: Callable[[], Memory | None] | None = None,
    ) -> None:
        self._start_instance = start
        self._start_timeout = start_timeout
        self._most_failed_starts = most_failed_starts
        self._rules = rules
        self._description = description
        self._observer = observer
        self._clock = asyncio.get_running_loop().time  # the timers use it, too
        self._memory = MemoryWatch(memory or read_memory, self._clock)
        self._state = State()
        self._statistics = Statistics()
        self.metering = Metering(self._clock)
        self.start_error: GreenroomError | None = None
        """Why the last start failed; `None` if it succeeded."""
        self._engine_lost = False
        self._numbers = itertools.count(1)
        self._instances: dict[int, InstanceT] = {}
        self._freezing = Freezing(self._instances, self._clock, self._advance)
        self._slots: dict[str, Slot] = {}
        """The leased slots by identifier."""
        self._ended: dict[str, EndCause] = {}
        """Why the last instance of each identifier ended, the most recent one last; without deleted sessions."""
        self._pending: dict[str, _PendingLease] = {}
        """The queued sessions by identifier."""
        self._starts: dict[int, asyncio.Task[None]] = {}
        self._ends: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._satisfied = False
        self._awaited = asyncio.Event()  # a caller waits for a start
        """Whether nothing was waiting when the state was last advanced."""
        self._review(self._clock())
        self._advance()

    def __repr__(self) -> str:
        state = self._state
        return (
            f"{self._description}: {state.count('leased')} of {self._rules.maximum} sessions, "
            f"{state.count('ready')} ready, {state.count('starting')} starting"
        )

    @contextlib.asynccontextmanager
    async def lease(self, identifier: str, idle_timeout: float | None = None) -> AsyncGenerator[InstanceT, None]:
        """Hold the instance of an identifier, which keeps it from cooling down. Any number of callers can hold it.

        With an `idle_timeout` in seconds, it cools down after that time without use, rather than after the pool's.

        Raises:
            PoolFull: no instance became free in time.
            PoolClosed: the allocator was closed.
            EngineUnavailable: an instance did not start.
        """
        slot = await self._acquire(identifier)
        while slot.phase != "leased":  # the instance was lost before this caller could use it
            slot = await self._acquire(identifier)
        if idle_timeout is not None:
            slot.idle_timeout = idle_timeout
        try:
            instance = self._instances[slot.number]
            await self._thaw(slot)
            yield instance
        finally:
            self._release(slot)

    async def _thaw(self, slot: Slot) -> None:
        slot.frozen = False
        if self._freezing.involves(slot):  # if this caller is cancelled, no step is left half done
            thawing = self._spawn(self._freezing.thaw(slot))
            thawing.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait([thawing])
            thawing.result()

    def ended(self, identifier: str) -> EndCause | None:
        """Return why the last instance of an identifier ended, unless the session was deleted or is forgotten."""
        return self._ended.get(identifier)

    def forget_end(self, identifier: str) -> EndCause | None:
        """Like `ended`, but only once."""
        return self._ended.pop(identifier, None)

    def remember_end(self, identifier: str, cause: EndCause) -> None:
        """Make `ended` return this for an identifier."""
        self._ended.pop(identifier, None)
        if cause is EndCause.DELETED:
            return
        self._ended[identifier] = cause
        if len(self._ended) > _MAX_REMEMBERED:
            del self._ended[next(iter(self._ended))]

    async def end(self, identifier: str) -> None:
        """End the instance of an identifier, if any, and wait until it is gone."""
        self.forget_end(identifier)
        slot = self._slots.get(identifier)
        if slot is not None:
            await asyncio.wait([self._retire(slot, EndCause.DELETED)])

    def sessions(self) -> list[SessionInfo]:
        """The identifiers that hold an instance, in order."""
        return [self._info(self._slots[identifier]) for identifier in sorted(self._slots)]

    def session(self, identifier: str) -> SessionInfo | None:
        """The session of one identifier, or None."""
        slot = self._slots.get(identifier)
        return None if slot is None else self._info(slot)

    def holds(self, identifier: str) -> bool:
        """Whether the identifier has an instance or waits for one."""
        return identifier in self._slots or identifier in self._pending

    def leased(self) -> dict[str, InstanceT]:
        """The instances that serve sessions, by identifier; can be called from any thread."""
        leased = [(identifier, self._instances.get(slot.number)) for identifier, slot in list(self._slots.items())]
        return {identifier: instance for identifier, instance in leased if instance is not None}

    def status(self) -> PoolStatus:
        """The current state and the statistics; can be called from any thread.

        Raises:
            PoolClosed: the allocator was closed.
        """
        if self._state.closing:
            raise PoolClosed("The pool was closed.")
        return self._statistics.status(self._state, self._rules)

    def change(self, rules: Rules, *, outdated: bool) -> None:
        """Apply other rules. Sessions keep their instances and their lifetimes; those over the maximum drain.

        Args:
            rules: the new ones.
            outdated: whether instances that serve no session must be replaced by new ones.
        """
        before = self._rules
        if rules.lifetime != before.lifetime:
            for slot in self._slots.values():
                slot.lifetime = slot.lifetime or before.lifetime
        self._rules = replace(rules, generation=before.generation + outdated)
        self._state.hold_starts_until = 0.0
        self._review(self._clock())
        if not self._state.closing:
            self._advance()

    @property
    def generation(self) -> int:
        """How many calls of `change` have made the instances outdated."""
        return self._rules.generation

    def generations(self) -> set[int]:
        """The generations of the existing instances."""
        return {slot.generation for slot in self._state.slots.values()}

    async def close(self) -> None:
        """End every instance. Idempotent, bounded in time."""
        self._state.closing = True
        for identifier, pending in list(self._pending.items()):
            self._leave_queue(identifier)
            pending.place.set_exception(PoolClosed("The pool was closed."))
            self._refused(identifier, AllocationRefusal.POOL_CLOSED, pending)
        self._advance()
        await self.metering.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT)
        for task in list(self._tasks):
            task.cancel()

    def _info(self, slot: Slot) -> SessionInfo:
        wall = datetime.now(UTC)
        now = self._clock()
        expires = expires_at(slot, self._rules)
        return SessionInfo(
            identifier=slot.identifier or "",
            created=wall + timedelta(seconds=slot.since - now),
            last_used=wall + timedelta(seconds=slot.last_used - now),
            expires=None if expires is None else wall + timedelta(seconds=expires - now),
        )

    async def _acquire(self, identifier: str) -> Slot:
        """The slot of an identifier, with its caller counted as a user, so that it cannot cool down before its use."""
        if self._state.closing:
            raise PoolClosed("The pool was closed.")
        if (slot := self._slots.get(identifier)) is not None:
            slot.users += 1
            return slot
        now = self._clock()
        pending = self._pending.get(identifier)
        if pending is None:
            pending = self._pending[identifier] = _PendingLease(asyncio.get_running_loop().create_future(), now)
            self._state.waiters.append(QueueEntry(identifier, now))
            self._state.arrivals.append(now)
            self._review(now)
        pending.callers += 1
        self._advance(now)
        if not pending.place.done():
            self._awaited.set()
        try:
            with tracing.spanning(tracing.ALLOCATE_SESSION, tracing.session_attributes(identifier)) as span:
                span.set({"greenroom.session.warm": pending.place.done()})
                return await asyncio.shield(pending.place)
        except asyncio.CancelledError:
            pending.callers -= 1
            if not pending.place.done():
                if not pending.callers:  # all callers were cancelled
                    self._leave_queue(identifier)
                    self._advance()
            elif pending.place.exception() is None:  # the instance arrived too late
                self._release(pending.place.result())
            raise

    def _release(self, slot: Slot) -> None:
        """Count the end of a use, in a time that does not depend on how many other instances there are."""
        slot.users -= 1
        slot.last_used = self._clock()
        if self._rules.max_starts_beside_work is not None and not self._satisfied:
            self._advance()  # once nothing runs in it, more can start
        elif not self._state.closing:
            self._wake_at(due_alone(slot, self._rules))

    def _leave_queue(self, identifier: str) -> _PendingLease:
        self._state.waiters = [entry for entry in self._state.waiters if entry.identifier != identifier]
        return self._pending.pop(identifier)

    # State

    def _advance(self, now: float | None = None) -> None:
        """Apply the due actions to the state, start their side effects, and set the timer for the next ones."""
        now = self._clock() if now is None else now
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (review_at := self._state.decision.review_at) is not None and now >= review_at:
            self._review(now)
        if not is_satisfied(self._state, self._rules):
            self._state.memory, self._state.memory_read_at = self._read_memory(), self._memory.read_at
        for action in plan(self._state, self._rules, now):
            self._apply(action, now)
        self._satisfied = is_satisfied(self._state, self._rules)
        if not self._state.closing:
            self._wake_at(next_due(self._state, self._rules, now))

    def _wake_at(self, due: float | None) -> None:
        """Advance at a certain time, unless that happens earlier anyway."""
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._advance)

    def _review(self, now: float) -> None:
        """Decide how many instances should be ready."""
        memory = self._read_memory() if isinstance(self._rules.ready, ReadyGoal) else None
        self._state.decision = review(self._state, self._rules, memory, now)

    def _read_memory(self) -> Memory | None:
        """Return how much memory is left, and record how much one more instance needs; at most once a second."""
        before = self._memory.read_at
        memory = self._memory.latest()
        if self._memory.read_at != before:
            self._state.footprint = footprint(self._state.footprint, self.metering.peaks())
        return memory

    def _apply(self, action: Action, now: float) -> None:
        match action:
            case Start():
                slot = Slot(next(self._numbers), "starting", now, began=now, generation=self._rules.generation)
                self._state.slots[slot.number] = slot
                self._emit(SandboxStarting())
                self._starts[slot.number] = self._spawn(self._start(slot))
            case Lease(number, identifier):
                slot = self._state.slots[number]
                slot.phase, slot.since, slot.identifier, slot.last_used = "leased", now, identifier, now
                self._slots[identifier] = slot
                pending = self._leave_queue(identifier)
                slot.users = pending.callers
                self.metering.allocate(number, identifier)
                self._emit(SessionAllocated(identifier, now - pending.since, warm=pending.since == now))
                pending.place.set_result(slot)
                self._spawn(self._instances[number].take_full_share())
            case End(number, cause):
                self._retire(self._state.slots[number], cause)
            case Freeze(number):
                slot = self._state.slots[number]
                slot.frozen = True
                self._spawn(self._freezing.freeze(slot))
            case Refuse(identifier, reason):
                pending = self._leave_queue(identifier)
                pending.place.set_exception(full(self._state, self._rules, now, reason))
                self._refused(identifier, reason, pending)

    def _refused(self, identifier: str, reason: AllocationRefusal, pending: _PendingLease) -> None:
        self._emit(AllocationRefused(identifier, reason, self._clock() - pending.since))

    def _emit(self, event: TelemetryEvent) -> None:
        self._statistics.observe(event)
        self._observer(event)

    # Side effects

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, slot: Slot) -> None:
        await self._give_way()
        slot.began = slot.since = self._clock()
        try:
            async with asyncio.timeout(self._start_timeout):
                instance = self._instances[slot.number] = await self._start_instance(lambda: self._lost(slot))
                self.metering.start(slot.number, instance, slot.began)
                if self._state.waiters:  # a caller waits for it, so it no longer yields
                    await instance.take_full_share()
                await instance.ready()
        except Exception as error:  # noqa: BLE001  on any error, the slot must become free and waiters must fail
            self._failed(slot, error)
            return
        self.start_error = None
        now = self._clock()
        self._emit(SandboxStarted(now - slot.since))
        if self._engine_lost:
            self._engine_lost = False
            self._emit(EngineRecovered())
        self._state.start_time = self._statistics.start_time
        slot.phase, slot.since = "ready", now
        self._review(now)
        self._advance()
        if prepared := slot.phase == "ready":
            await instance.warm_up()
            await instance.take_full_share()  # now rather than at the lease, where the session's code would wait for it
        self.metering.warmed_up(slot.number)
        before = self._state.quick
        quick = self._statistics.warmed_up(self._clock() - slot.began, prepared=prepared, quick=before)
        if quick is not before:
            self._state.quick = quick
            if not self._state.closing:
                self._advance()

    async def _give_way(self) -> None:
        """Let code run first that has just begun, unless a caller waits for a start."""
        if self._state.waiters or not any(slot.users for slot in self._state.slots.values()):
            return
        self._awaited.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GIVE_WAY):
                await self._awaited.wait()

    def _failed(self, slot: Slot, error: Exception) -> None:
        failure = start_failure(error, started=slot.number in self._instances)
        if not isinstance(error, EngineUnavailable | InvalidRequest):
            late = isinstance(error, TimeoutError)
            reason = (
                f"it was not ready after {self._start_timeout or 0:g} seconds" if late else str(error) or repr(error)
            )
            cause, error = error, EngineUnavailable(f"A sandbox of {self._description} did not start: {reason}")
            error.__cause__ = cause
        self.start_error = error
        self._emit(StartFailed(failure))
        if failure is StartFailure.ENGINE_LOST and not self._engine_lost:
            self._engine_lost = True
            self._emit(EngineLost())
        self._retire(slot, EndCause.START_FAILED)
        if self._state.waiters:
            pending = self._pending[self._state.waiters[0].identifier]
            pending.failed_starts += 1
            if pending.failed_starts >= self._most_failed_starts or not self._state.count("starting"):
                identifier = self._state.waiters[0].identifier
                self._leave_queue(identifier).place.set_exception(error)
                self._refused(identifier, AllocationRefusal.START_FAILED, pending)
        else:
            self._state.hold_starts_until = self._clock() + _HOLD_AFTER_FAILURE
        self._advance()

    def _lost(self, slot: Slot) -> None:
        """Forget the session of an instance that ended by itself."""
        if slot.phase in {"ready", "leased"}:
            self._retire(slot, EndCause.LOST)
            self._advance()

    def _retire(self, slot: Slot, cause: EndCause) -> asyncio.Task[None]:
        """Take an instance out of service; return the task that ends it."""
        if slot.phase != "ending":
            if slot.identifier is not None:
                del self._slots[slot.identifier]
                self.remember_end(slot.identifier, cause)
            now = self._clock()
            slot.phase, slot.since = "ending", now
            self._emit(SandboxEnded(cause, slot.identifier, now - slot.began))
            self._ends[slot.number] = self._spawn(self._dispose(slot, cause))
        return self._ends[slot.number]

    async def _dispose(self, slot: Slot, cause: EndCause) -> None:
        start = self._starts.pop(slot.number)
        start.cancel()
        await asyncio.wait([start])
        instance = self._instances.pop(slot.number, None)
        if instance is not None:
            await self.metering.before_end(slot.number)
            await instance.close(REASONS[cause])
        self._freezing.forget(slot)
        self._emit(SandboxRemoved(cause, slot.identifier, await self.metering.end(slot.number, slot.identifier)))
        del self._state.slots[slot.number], self._ends[slot.number]
        if not self._state.closing:
            self._advance()
