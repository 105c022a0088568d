"""The calls of one execution, within its limits. They come from hostile code and are passed on to be answered."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from greenroom.errors import GreenroomError
from greenroom.runner.protocol import MAX_BODY, MAX_CALL, MAX_REFUSAL, MAX_TOOL_NAME, FrameError
from greenroom.telemetry import CallOutcome
from greenroom.tools.definitions import ToolLimits
from greenroom.tools.stubs import ToolStub

if TYPE_CHECKING:
    from greenroom.tools.pending import CallLog


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that code makes, as it was received."""

    number: int
    """Unique within the execution, and higher than the numbers of earlier calls."""
    tool: str
    """The name that the code gave."""
    arguments: bytes
    """Claimed by the code to be a JSON object."""
    most: int
    """The maximum size of its result in bytes."""
    park: Callable[[bool], None] = lambda _: None
    """Called with `True` while nothing works on the call: its time limit is then suspended, for up to
    `ToolLimits.parked_timeout`."""
    again: bool = False
    """Whether it was delivered before, and neither answered nor deferred."""


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """The answer to a call."""

    content: bytes
    """The result as JSON; if the call failed, a message in UTF-8."""
    failed: bool = False
    deferred: bool = False
    """Whether this is not an answer: the call waits until another client takes it over."""
    refused: bool = False
    """Whether it failed before anything was called."""

    @classmethod
    def failure(cls, message: str, *, refused: bool = False) -> ToolAnswer:
        """Return the answer to a call that failed."""
        return cls(message.encode("utf-8", "replace")[:MAX_REFUSAL], failed=True, refused=refused)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one execution, for the pool that runs it."""

    stubs: tuple[ToolStub, ...]
    limits: ToolLimits
    answer: Callable[[ToolCall], Awaitable[ToolAnswer]]
    """Called on the pool's loop; cancelled when its call is abandoned or ends in another way."""
    log: CallLog | None = None
    """Receives the calls of an execution that can be resumed; calls of other executions cannot be deferred."""
    note: Callable[[CallOutcome, float], None] = lambda _outcome, _duration: None
    """Called at the end of each call, with its duration in seconds."""


class RunningCalls:
    """The calls of one running execution. Used on one event loop.

    Calls that wait for their turn take little memory, as there can be many: only the others are tasks.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        send: Callable[[int, ToolAnswer], Awaitable[None]],
        on_waiting: Callable[[bool], None] = lambda _: None,
        on_parked: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """
        Args:
            toolbox: answers them.
            send: sends an answer to the code.
            on_waiting: called when the first call starts to wait, and when the last one has been answered.
            on_parked: called when the first call is parked, and when no call is parked any more.
        """
        self._toolbox = toolbox
        self._limits = toolbox.limits
        self._names = {stub.name for stub in toolbox.stubs}
        self._send = send
        self._on_waiting = on_waiting
        self._on_parked = on_parked
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # with the execution's span, which the context of `take` lacks
        self._queue: OrderedDict[int, _Queued] = OrderedDict()
        self._turns = self._limits.concurrent
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._parked: dict[int, asyncio.Timeout] = {}
        self._parked_left = self._limits.parked_timeout
        self._parked_since = 0.0
        self._parked_timer: asyncio.TimerHandle | None = None
        self._last = 0
        self._calls_left = self._limits.calls
        self._arguments_left = self._limits.argument_bytes
        self._results_left = self._limits.result_bytes
        self._waits_since: datetime | None = None
        self._ended = False

    @property
    def arguments_left(self) -> int:
        """The maximum size of the arguments of the next call in bytes."""
        return min(self._arguments_left, MAX_BODY)

    @property
    def waiting(self) -> int:
        """How many calls wait for their answers."""
        return len(self._tasks) + len(self._queue)

    @property
    def waits_since(self) -> datetime | None:
        """The time since which the code has waited for at least one call; `None` if it does not wait."""
        return self._waits_since

    def take(
        self, number: object, tool: object, arguments: bytes, most: int = MAX_BODY, *, again: bool = False
    ) -> None:
        """Start a call whose result can have that many bytes, if as many are left.

        Raises:
            FrameError: an honest runner would not send it: its number was used before, or it exceeds a limit.
        """
        if isinstance(number, bool) or not isinstance(number, int) or not self._last < number <= MAX_CALL:
            raise FrameError("a call whose number is not new")
        if not isinstance(tool, str) or len(tool) > MAX_TOOL_NAME:
            raise FrameError("a call without a tool's name")
        self._last = number
        self._calls_left -= 1
        self._arguments_left -= len(arguments)
        if self._calls_left < 0 or self._arguments_left < 0:
            raise FrameError("more calls than allowed")
        self._queue[number] = _Queued(tool, arguments, most, again)
        self._go_on()

    def is_known(self, number: int) -> bool:
        """Whether the call was taken before."""
        return number <= self._last

    def repeat(self, number: int, answer: ToolAnswer | None) -> None:
        """Send an answer again."""
        if answer is not None and not self._ended:
            self._begin(number, self._sent(number, answer))

    def withdraw(self, number: object) -> None:
        """Cancel a call for which the code no longer waits. Unknown numbers are ignored."""
        if not isinstance(number, int):
            return
        self._queue.pop(number, None)
        if (task := self._tasks.get(number)) is not None:
            task.cancel()

    def end(self) -> None:
        """Cancel all calls: the execution has ended. Idempotent."""
        self._ended = True
        self._queue.clear()
        for task in self._tasks.values():
            task.cancel()

    def _go_on(self) -> None:
        """Start the calls whose turn has come."""
        while self._queue and self._turns:
            number, queued = self._queue.popitem(last=False)
            self._turns -= 1
            self._begin(number, self._serve(number, queued)).add_done_callback(lambda _: self._leave())

    def _leave(self) -> None:
        self._turns += 1
        self._go_on()
        self._note_end()

    def _begin(self, number: int, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._waits_since is None:
            self._waits_since = datetime.now(UTC)
            self._on_waiting(True)
        task = self._tasks[number] = asyncio.create_task(work, context=self._context.copy())
        task.add_done_callback(lambda _: self._forget(number, task))
        return task

    def _forget(self, number: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(number) is task:  # else its answer is being sent again
            del self._tasks[number]
        if not self._queue:
            self._note_end()

    def _note_end(self) -> None:
        if not self._tasks and self._waits_since is not None:
            self._waits_since = None
            self._on_waiting(False)

    async def _serve(self, number: int, call: _Queued) -> None:
        began, outcome = self._loop.time(), CallOutcome.CANCELLED
        try:
            answer = await self._answered(number, call)
            if answer is None:
                outcome = CallOutcome.TIMED_OUT
                answer = ToolAnswer.failure(self._too_late(number, call.tool))
            elif not answer.failed and len(answer.content) > min(self._results_left, call.most):
                # Other results have used up the limit meanwhile.
                text = f"The results of {call.tool} and other calls exceed the limit of this execution."
                outcome, answer = CallOutcome.FAILED, ToolAnswer.failure(text)
            elif answer.failed:
                outcome = CallOutcome.REFUSED if answer.refused else CallOutcome.FAILED
            else:
                outcome = CallOutcome.ANSWERED
                self._results_left -= len(answer.content)
        finally:
            self._unpark(number)
            self._toolbox.note(outcome, self._loop.time() - began)
        await self._sent(number, answer)

    async def _answered(self, number: int, queued: _Queued) -> ToolAnswer | None:
        """Return the answer to a call, or `None` if it did not arrive in time."""
        tool, limit = queued.tool, asyncio.timeout(self._limits.timeout)
        if self._ended:  # clean-up of code that is being stopped must not wait
            return ToolAnswer.failure(f"{tool} was not called: the execution is ending.", refused=True)
        if tool not in self._names:
            return ToolAnswer.failure("This execution has no tool with that name.", refused=True)
        most = min(self._results_left, queued.most)
        call = ToolCall(number, tool, queued.arguments, most, partial(self._park, number, limit), queued.again)
        try:
            async with limit:
                return await self._toolbox.answer(call)
        except TimeoutError:
            return None
        except Exception as error:  # noqa: BLE001  the code must not wait for an answer that never comes
            return ToolAnswer.failure(f"{tool} failed: {type(error).__name__}.")

    def _too_late(self, number: int, tool: str) -> str:
        if number in self._parked:
            seconds = self._limits.parked_timeout
            return f"{tool} was not answered: no decision was made within {seconds:g} seconds."
        return f"{tool} did not return within {self._limits.timeout:g} seconds."

    async def _sent(self, number: int, answer: ToolAnswer) -> None:
        with contextlib.suppress(GreenroomError):  # the execution reports that the sandbox or the connection is lost
            await self._send(number, answer)

    # Parked calls: nothing works on them

    def _park(self, number: int, limit: asyncio.Timeout, parked: bool) -> None:
        if parked == (number in self._parked) or limit.expired():
            return
        if not parked:
            self._unpark(number)
            limit.reschedule(self._loop.time() + self._limits.timeout)
            return
        limit.reschedule(None)
        self._parked[number] = limit
        if len(self._parked) == 1:
            self._parked_since = self._loop.time()
            if math.isfinite(self._parked_left):
                self._parked_timer = self._loop.call_later(max(self._parked_left, 0), self._give_up)
            self._on_parked(True)

    def _unpark(self, number: int) -> None:
        if self._parked.pop(number, None) is None or self._parked:
            return
        self._parked_left -= self._loop.time() - self._parked_since
        if self._parked_timer is not None:
            self._parked_timer.cancel()
            self._parked_timer = None
        self._on_parked(False)

    def _give_up(self) -> None:
        for limit in self._parked.values():
            limit.reschedule(self._loop.time())


@dataclass(frozen=True, slots=True)
class _Queued:
    """A call that waits for its turn."""

    tool: str
    arguments: bytes
    most: int
    again: bool
