"""Code whose calls may wait for a person: a process attends to it, leaves, and another returns with an answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import replace
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final

from greenroom.adapters.code import strip_fence
from greenroom.adapters.execution import OnOutput, not_asynchronous
from greenroom.errors import GreenroomError, InvalidRequest
from greenroom.models import Execution, Output, StreamText
from greenroom.sessions import ExecutionHandle, Session
from greenroom.sessions.events import Events
from greenroom.sessions.rules import check_code
from greenroom.sessions.session import begin, resume
from greenroom.tools import CallDeferred, MadeCall, Tool, ToolLimits, current_call
from greenroom.tools.pending import as_new


class _Marker:
    """A marker between the events of an execution."""


_PATIENCE = 0.01
"""Seconds after which calls in transit are checked again."""
_SETTLED: Final = _Marker()  # perhaps nothing continues until a call is answered
_BEHIND: Final = _Marker()  # this code waits for its turn, and an earlier one waits for a person


class Attendance:
    """Attends to an execution: its calls and its output, until it ends or waits for calls that were deferred.

    A handler that raises `CallDeferred` leaves its call without an answer. Once all others have returned, `wait`
    returns `None`, and later calls are deferred too. The code continues with the next attendance, which gets all of
    these calls.
    """

    def __init__(
        self, session: Session, execution_id: str, tools: Iterable[Tool], *, turn: str, on_output: OnOutput | None
    ) -> None:
        """
        Args:
            session: runs the code.
            execution_id: the id by which the execution is found again; it must be new in its session.
            tools: the functions that the code can call; their handlers are asynchronous with `await_end`, but not with
                `wait`.
            turn: a value that all executions that a model requested at the same time have in common. Code of a later
                turn ends code in the session that still waits for a person; code of the same turn is refused meanwhile.
            on_output: called with each piece of output, by `wait` or `await_end`.
        """
        self.turn = turn
        self.session = session
        self.id = execution_id
        self._tools = [replace(tool, handler=self._attended(tool.handler)) for tool in tools]
        self._on_output = on_output
        self._lock = threading.Lock()
        self._working = 0
        self._deferred: set[int] = set()
        self._expected: int | None = None
        self._left = False
        self._goes_on = False
        """Whether the previous attendance was in this process, so that it left no call that may have been made."""
        self._patience: float | None = None
        self._unheard = 0
        self._heard: Callable[[], None] | None = None
        self._events = Events[_Marker](self._note)
        self._abandoned: ExecutionHandle | None = None
        self._handle: ExecutionHandle

    def begin(self, code: str, *, timeout: float | None, limits: ToolLimits | None) -> None:
        """Start a model's code, without the Markdown fence around it; arguments as for `run_code`.

        Raises:
            InvalidRequest: code of the same turn waits for a person; or an argument breaks a rule.
        """
        code = strip_fence(check_code(code), self.session.container_type)
        parked = _book.parked(self.session.identifier)
        if parked is not None and parked.turn == self.turn:
            raise _behind()
        if parked is not None:
            self._abandoned = resume(self.session, parked.id, lambda _: None, ())
        put = self._events.put
        self._take(begin(self.session, code, timeout, put, tools=self._tools, limits=limits, id=self.id, waits=True))

    def resume(self, expected: int | None = None) -> None:
        """Attend to code that was started before; waiting calls are made again.

        Args:
            expected: the number of a call that has been answered: until this call has been made again, the code does
                not count as waiting.
        """
        self._expected = expected
        before = _book.parked(self.session.identifier)
        self._goes_on = before is not None and before.id == self.id
        self._take(resume(self.session, self.id, self._events.put, self._tools))

    def expect_nothing(self) -> None:
        """Stop expecting a call: the expected one no longer waits."""
        with self._lock:
            self._expected = None
        self._events.put(_SETTLED)

    def calls(self) -> list[MadeCall]:
        """Return the calls so far, as `ExecutionHandle.calls`."""
        return self._handle.calls()

    async def acalls(self) -> list[MadeCall]:
        """As `calls`."""
        return await self._handle.acalls()

    def wait(self) -> Execution | None:
        """Return the execution when it has ended, or `None` when it waits for deferred calls.

        An exception, such as that of `on_output`, ends the code.

        Raises:
            InvalidRequest: it did not start, as code of the same turn waits for a person.
            GreenroomError: it could not run.
        """
        arrived = threading.Semaphore(0)
        self._listen(arrived.release)
        try:
            if self._abandoned is not None:
                with contextlib.suppress(GreenroomError):  # it has already ended
                    self._abandoned.cancel()
            while True:
                event = self._events.take() if arrived.acquire(timeout=self._patience) else _SETTLED
                if isinstance(event, Future):
                    return event.result()
                if isinstance(event, _Marker):
                    if _may_be_settled(event) and self._settle(self.calls()):
                        return None
                elif self._on_output is not None and isawaitable(returned := self._on_output(event)):
                    not_asynchronous(returned)
        except BaseException:
            self._leave()
            with contextlib.suppress(GreenroomError):  # the first error is more useful
                self._handle.cancel()
            raise
        finally:
            _book.leave(self)

    async def await_end(self) -> Execution | None:
        """As `wait`. Cancelling it ends the code."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Semaphore(0)

        def release() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(arrived.release)

        self._listen(release)
        try:
            if self._abandoned is not None:
                with contextlib.suppress(GreenroomError):  # it has already ended
                    await self._abandoned.acancel()
            while True:
                event: Output | StreamText | Future[Execution] | _Marker = _SETTLED
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience):
                        await arrived.acquire()
                    event = self._events.take()
                if isinstance(event, Future):
                    return event.result()
                if isinstance(event, _Marker):
                    if _may_be_settled(event) and self._settle(await self.acalls()):
                        return None
                elif self._on_output is not None and isawaitable(returned := self._on_output(event)):
                    await returned
        except BaseException:
            self._leave()
            with contextlib.suppress(GreenroomError):  # the first error is more useful
                await asyncio.shield(self._handle.acancel())
            raise
        finally:
            _book.leave(self)

    def put_behind(self) -> None:
        """End this attendance while its code waits for its turn."""
        self._leave()
        self._events.put(_BEHIND)

    def _take(self, handle: ExecutionHandle) -> None:
        self._handle = handle
        _book.enter(self)
        handle.add_done_callback(self._ended)

    def _ended(self, future: Future[Execution]) -> None:
        self._events.put(future)
        _book.forget(self)

    def _attended(self, handler: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def blocking(arguments: dict[str, Any]) -> Any:
            with self._work():
                return handler(arguments)

        async def awaited(arguments: dict[str, Any]) -> Any:
            with self._work():
                return await handler(arguments)

        return awaited if iscoroutinefunction(handler) else blocking

    @contextlib.contextmanager
    def _work(self) -> Generator[None]:
        number = current_call().number
        with self._lock:
            if self._left:
                raise CallDeferred
            self._working += 1
        if self._goes_on:  # this call arrived after the previous attendance had left
            as_new()
        deferred = False
        try:
            yield
        except CallDeferred:
            deferred = True
            raise
        finally:
            with self._lock:
                self._working -= 1
                if deferred:
                    self._deferred.add(number)
                if number == self._expected:
                    self._expected = None
                settled = self._is_settled()
            if settled:
                self._events.put(_SETTLED)

    def _is_settled(self) -> bool:
        return bool(self._deferred) and not self._working and self._expected is None

    def _settle(self, made: Iterable[MadeCall]) -> bool:
        """Return whether everything now waits for a person, and no call is in transit."""
        waiting = {call.number for call in made if call.state == "waiting"}
        with self._lock:
            settled = self._is_settled()
            # Calls deferred here count too, until the pool knows. A call can end before it reaches its handler, for
            # example if its arguments are not valid.
            self._patience = _PATIENCE if settled and waiting else None
            if not settled or self._patience is not None:
                return False
            self._left = True
        _book.park(self)
        return True

    def _leave(self) -> None:
        with self._lock:
            self._left = True

    def _note(self) -> None:
        with self._lock:
            heard = self._heard
            if heard is None:
                self._unheard += 1
        if heard is not None:
            heard()

    def _listen(self, heard: Callable[[], None]) -> None:
        with self._lock:
            self._heard = heard
            unheard, self._unheard = self._unheard, 0
        for _ in range(unheard):
            heard()


def _may_be_settled(marker: _Marker) -> bool:
    """Whether the code may be waiting for a person.

    Raises:
        InvalidRequest: it waits behind other code that waits for a person.
    """
    if marker is _BEHIND:
        raise _behind()
    return True


def _behind() -> InvalidRequest:
    return InvalidRequest(
        "Nothing was run: a person is being asked to approve a call of other code in this session. Run it again "
        "afterwards."
    )


class _Book:
    """The attendances by session, and the code there that waits for a person."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attending: defaultdict[str, list[Attendance]] = defaultdict(list)
        self._parked: dict[str, Attendance] = {}

    def parked(self, session: str) -> Attendance | None:
        with self._lock:
            return self._parked.get(session)

    def enter(self, attendance: Attendance) -> None:
        session = attendance.session.identifier
        with self._lock:
            self._attending[session].append(attendance)
            self._parked.pop(session, None)

    def leave(self, attendance: Attendance) -> None:
        session = attendance.session.identifier
        with self._lock:
            attending = self._attending[session]
            if attendance in attending:
                attending.remove(attendance)
            if not attending:
                del self._attending[session]

    def park(self, attendance: Attendance) -> None:
        """Record that it waits for a person; other code in the session could otherwise wait for its turn for hours."""
        session = attendance.session.identifier
        with self._lock:
            self._parked[session] = attendance
            others = [each for each in self._attending[session] if each is not attendance]
        for each in others:
            each.put_behind()

    def forget(self, attendance: Attendance) -> None:
        session = attendance.session.identifier
        with self._lock:
            if self._parked.get(session) is attendance:
                del self._parked[session]


_book = _Book()
