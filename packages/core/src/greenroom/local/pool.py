"""A pool on this machine: the books, and the I/O that a plan asks for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from weakref import WeakValueDictionary

from greenroom.backend import OnEvent, Overrides
from greenroom.engines.base import Engine
from greenroom.errors import (
    EngineUnavailable,
    InvalidRequest,
    PoolClosed,
    PoolFull,
    SandboxLost,
)
from greenroom.local.channel import Channel
from greenroom.local.collecting import ExecutionLimits
from greenroom.local.plan import Action, End, Lease, Refuse, Rules, Slot, Start, State, Waiter, next_due, plan
from greenroom.local.settings import PoolSettings
from greenroom.local.statistics import Statistics
from greenroom.models import Execution, PoolStatus, RemoteFile, SessionInfo

_CLOSE_PATIENCE = 15.0
_START_PATIENCE = 60.0
_HOLD_AFTER_FAILURE = 5.0


class _Arrival:
    """What the callers of one identifier in the queue wait for."""

    def __init__(self, place: asyncio.Future[Slot], since: float) -> None:
        self.place = place
        self.since = since
        self.callers = 0


class LocalPool:
    """A `Backend` over one engine. Made and used on one event loop.

    Every change of the books happens between two awaits, in `_advance`; what it decides is done by tasks
    afterwards, so that nobody waits for anybody else's sandbox.
    """

    def __init__(self, engine: Engine, settings: PoolSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = asyncio.get_running_loop().time  # which the timers go by, too
        self._rules = Rules(
            maximum=settings.max_concurrent_sessions,
            ready=None if settings.ready_session_instances == "auto" else settings.ready_session_instances,
            cooldown=settings.cooldown_period if settings.lifecycle == "timed" else None,
            maximum_age=settings.max_alive_period if settings.lifecycle == "on_container_exit" else None,
            acquire_timeout=settings.acquire_timeout,
            starts_at_once=max(2, os.cpu_count() or 2),
            starts_beside_work=None if engine.starts_give_way else 1,
        )
        self._state = State()
        self._statistics = Statistics()
        self._overrides: WeakValueDictionary[str, Overrides] = WeakValueDictionary()
        self._numbers = itertools.count(1)
        self._channels: dict[int, Channel] = {}
        self._slots: dict[str, Slot] = {}
        """The leased slots by identifier."""
        self._arrivals: dict[str, _Arrival] = {}
        """What those in the queue wait for, by identifier."""
        self._starts: dict[int, asyncio.Task[None]] = {}
        self._ends: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, engine: Engine, settings: PoolSettings) -> Self:
        """Check the engine, remove what dead owners left, and begin to fill up.

        Raises:
            EngineUnavailable: no sandbox can be made.
        """
        await engine.check()
        await engine.sweep()
        pool = cls(engine, settings)
        pool._advance()
        return pool

    def __repr__(self) -> str:
        state = self._state
        return (
            f"{self._engine.name}: {state.count('leased')} of {self._rules.maximum} sessions, "
            f"{state.count('ready')} ready, {state.count('starting')} starting"
        )

    # The work of sessions

    async def execute(
        self, identifier: str, code: str, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        settings = self._settings
        limits = ExecutionLimits(
            timeout=timeout or settings.timeout,
            grace=settings.grace,
            text=settings.output_limit,
            display=settings.display_limit,
        )
        async with self._use(identifier) as channel:
            return await channel.execute(code, limits, on_event)

    async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes]) -> RemoteFile:
        async with self._use(identifier) as channel:
            return await channel.upload(path, chunks, self._settings.file_limit)

    async def download(self, identifier: str, path: str) -> AsyncGenerator[bytes, None]:
        limit = self._settings.file_limit
        async with self._use(identifier) as channel, contextlib.aclosing(channel.download(path, limit)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        async with self._use(identifier) as channel:
            return await channel.files(path, recursive=recursive)

    async def file(self, identifier: str, path: str) -> RemoteFile:
        async with self._use(identifier) as channel:
            return await channel.file(path)

    async def delete_file(self, identifier: str, path: str) -> None:
        async with self._use(identifier) as channel:
            await channel.delete_file(path)

    async def delete(self, identifier: str) -> None:
        slot = self._slots.get(identifier)
        if slot is not None:
            await asyncio.wait([self._retire(slot, "its session was deleted")])

    def configure(self, identifier: str, overrides: Overrides) -> None:
        self._overrides[identifier] = overrides

    def adopt(self, identifier: str) -> None:
        """Nothing to note: every session of a local pool ends with it."""

    async def sessions(self) -> list[SessionInfo]:
        return [self._info(self._slots[identifier]) for identifier in sorted(self._slots)]

    async def session(self, identifier: str) -> SessionInfo | None:
        slot = self._slots.get(identifier)
        return None if slot is None else self._info(slot)

    def _info(self, slot: Slot) -> SessionInfo:
        wall = datetime.now(UTC)
        now = self._clock()
        lasts = self._rules.cooldown
        if lasts is not None:
            expires = None if slot.users else slot.last_used + lasts
        else:
            expires = slot.since + (self._rules.maximum_age or math.inf)
        return SessionInfo(
            identifier=slot.identifier or "",
            created=wall + timedelta(seconds=slot.since - now),
            last_used=wall + timedelta(seconds=slot.last_used - now),
            expires=None if expires is None else wall + timedelta(seconds=expires - now),
        )

    async def status(self) -> PoolStatus:
        if self._state.closing:
            raise PoolClosed("The pool was closed.")
        return self._statistics.status(self._state, self._rules.maximum)

    async def close(self) -> None:
        self._state.closing = True
        for identifier, arrival in list(self._arrivals.items()):
            self._leave_queue(identifier)
            arrival.place.set_exception(PoolClosed("The pool was closed."))
        self._advance()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_PATIENCE)
        for task in list(self._tasks):
            task.cancel()
        await self._engine.close()

    # Sandboxes for sessions

    @contextlib.asynccontextmanager
    async def _use(self, identifier: str) -> AsyncGenerator[Channel, None]:
        slot = await self._acquire(identifier)
        while slot.phase != "leased":  # it was lost before we could use it
            slot = await self._acquire(identifier)
        try:
            channel = self._channels[slot.number]
            overrides = self._overrides.get(identifier)
            if overrides is not None and overrides.memory is not None and overrides.memory != slot.memory:
                await channel.limit_memory(overrides.memory)
                slot.memory = overrides.memory
            yield channel
        finally:
            self._release(slot)

    async def _acquire(self, identifier: str) -> Slot:
        """The sandbox of a session, with one more user: it does not cool down before that one comes to use it."""
        if self._state.closing:
            raise PoolClosed("The pool was closed.")
        if (slot := self._slots.get(identifier)) is not None:
            slot.users += 1
            return slot
        now = self._clock()
        arrival = self._arrivals.get(identifier)
        if arrival is None:
            arrival = self._arrivals[identifier] = _Arrival(asyncio.get_running_loop().create_future(), now)
            self._state.waiters.append(Waiter(identifier, now))
        arrival.callers += 1
        self._advance(now)
        try:
            return await asyncio.shield(arrival.place)
        except asyncio.CancelledError:
            arrival.callers -= 1
            if not arrival.place.done():
                if not arrival.callers:  # all have given up
                    self._leave_queue(identifier)
                    self._advance()
            elif arrival.place.exception() is None:  # it came too late
                self._release(arrival.place.result())
            raise

    def _release(self, slot: Slot) -> None:
        slot.users -= 1
        slot.last_used = self._clock()
        self._advance()

    def _leave_queue(self, identifier: str) -> _Arrival:
        self._state.waiters = [waiter for waiter in self._state.waiters if waiter.identifier != identifier]
        return self._arrivals.pop(identifier)

    # The books

    def _advance(self, now: float | None = None) -> None:
        """Enter into the books what is due, and set about doing it."""
        now = self._clock() if now is None else now
        for action in plan(self._state, self._rules, now):
            self._enter(action, now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = None if self._state.closing else next_due(self._state, self._rules, now)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._advance)

    def _enter(self, action: Action, now: float) -> None:
        match action:
            case Start():
                slot = Slot(next(self._numbers), "starting", now)
                self._state.slots[slot.number] = slot
                self._starts[slot.number] = self._spawn(self._start(slot))
            case Lease(number, identifier):
                slot = self._state.slots[number]
                slot.phase, slot.since, slot.identifier, slot.last_used = "leased", now, identifier, now
                self._slots[identifier] = slot
                arrival = self._leave_queue(identifier)
                slot.users = arrival.callers
                self._statistics.allocated(now - arrival.since, warm=arrival.since == now)
                self._state.arrivals.append(now)
                arrival.place.set_result(slot)
                self._spawn(self._channels[number].take_full_share())
            case End(number, cause):
                self._retire(self._state.slots[number], cause)
            case Refuse(identifier):
                self._leave_queue(identifier).place.set_exception(self._full(now))

    def _full(self, now: float) -> PoolFull:
        due = next_due(State(slots=self._state.slots), self._rules, now)
        retry_after = None if due is None else due - now
        sessions = self._state.count("leased")
        hint = "" if retry_after is None else f" One may come free in {retry_after:.0f} seconds."
        return PoolFull(
            f"The pool is full: {sessions} of {self._rules.maximum} sessions are taken, and none came free within "
            f"{self._rules.acquire_timeout:g} seconds.{hint} Delete sessions that are done, shorten "
            "cooldown_period, or raise max_concurrent_sessions.",
            sessions=sessions,
            retry_after=retry_after,
        )

    # The doing

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, slot: Slot) -> None:
        try:
            async with asyncio.timeout(_START_PATIENCE):
                sandbox = await self._engine.start(self._settings.limits)
                channel = self._channels[slot.number] = Channel(sandbox, lambda: self._lost(slot))
                if self._state.waiters:  # somebody waits for this, so it gives way no longer
                    await channel.take_full_share()
                await channel.ready()
        except Exception as error:  # noqa: BLE001  whatever it is: the place must come free, and who waits be told
            self._failed(slot, error)
            return
        now = self._clock()
        self._statistics.started(now - slot.since)
        self._state.start_time = self._statistics.start_time
        slot.phase, slot.since = "ready", now
        self._advance()
        if slot.phase == "ready" and self._settings.preload:
            with contextlib.suppress(SandboxLost, TimeoutError):
                await channel.preload(self._settings.preload)

    def _failed(self, slot: Slot, error: Exception) -> None:
        if not isinstance(error, EngineUnavailable | InvalidRequest):
            late = isinstance(error, TimeoutError)
            reason = f"it was not ready after {_START_PATIENCE:g} seconds" if late else str(error) or repr(error)
            cause, error = error, EngineUnavailable(f"A sandbox of {self._engine.name} did not start: {reason}")
            error.__cause__ = cause
        self._retire(slot, "it did not start")
        if self._state.waiters:
            self._leave_queue(self._state.waiters[0].identifier).place.set_exception(error)
        else:
            self._state.hold_starts_until = self._clock() + _HOLD_AFTER_FAILURE
        self._advance()

    def _lost(self, slot: Slot) -> None:
        """A sandbox ended by itself: forget its session, and go on."""
        if slot.phase in {"ready", "leased"}:
            self._retire(slot, "it has ended")
            self._advance()

    def _retire(self, slot: Slot, reason: str) -> asyncio.Task[None]:
        """Take a sandbox out of service, and see it ended in the task that this returns."""
        if slot.phase != "ending":
            if slot.identifier is not None:
                del self._slots[slot.identifier]
            slot.phase, slot.since = "ending", self._clock()
            self._statistics.ended(reason)
            self._ends[slot.number] = self._spawn(self._dispose(slot, reason))
        return self._ends[slot.number]

    async def _dispose(self, slot: Slot, reason: str) -> None:
        start = self._starts.pop(slot.number)
        start.cancel()
        await asyncio.wait([start])
        channel = self._channels.pop(slot.number, None)
        if channel is not None:
            await channel.close(reason)
        del self._state.slots[slot.number], self._ends[slot.number]
        if not self._state.closing:
            self._advance()
