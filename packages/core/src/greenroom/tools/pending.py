"""The unanswered calls of one execution, which another client can take over."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from greenroom.errors import InvalidRequest
from greenroom.tools.calls import ToolAnswer, Toolbox, ToolCall
from greenroom.tools.values import ArgumentsMalformed, decode_arguments

CallState: TypeAlias = Literal["waiting", "deferred", "answered", "failed"]

_MOST_ANSWERED = 1_000
_MOST_BYTES = 256 << 10


class CallDeferred(Exception):
    """Raised in a tool whose call cannot be answered yet, for example because a person must decide. The call waits for
    `Session.resume`. Meanwhile it occupies no thread or event loop of the application. If the pool is on a `greenroom
    serve`, another process can answer it.
    """


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A call that code has made."""

    number: int
    """Unique within the execution, and higher than the numbers of earlier calls."""
    tool: str
    content: bytes = field(repr=False)
    """The arguments as they were sent, claimed by the code to be a JSON object."""
    state: CallState = "waiting"
    """`waiting` for an answer; `deferred`: it was not made, and is delivered when the execution is resumed; `answered`;
    or `failed`, also if it was not answered in time."""
    delivered_again: bool = False
    """Whether it was delivered before and neither answered nor deferred: it may have been made already."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments, not validated; empty if they cannot be read."""
        try:
            return decode_arguments(self.content)
        except ArgumentsMalformed:
            return {}


_current: ContextVar[MadeCall] = ContextVar("_current")


def current_call() -> MadeCall:
    """Return the call that the current tool handles.

    Raises:
        InvalidRequest: the caller is not a tool.
    """
    try:
        return _current.get()
    except LookupError:
        raise InvalidRequest("current_call() must be called in a tool while code calls that tool.") from None


def set_current(call: ToolCall) -> None:
    """Set the call that is handled in this context."""
    _current.set(_made(call))


def as_new() -> None:
    """Record in this context that the call is delivered for the first time, so it cannot have been made before."""
    _current.set(dataclasses.replace(_current.get(), delivered_again=False))


class CallLog:
    """The calls of one execution: the waiting ones, and the latest 1,000 others, with at most 256 KiB of arguments."""

    def __init__(self, *, known: bool = True) -> None:
        """
        Args:
            known: whether it starts with the execution; otherwise `known` is set once the earlier calls are in it.
        """
        self.known = asyncio.Event()
        if known:
            self.known.set()
        self._waiting: dict[int, MadeCall] = {}
        self._ended: OrderedDict[int, MadeCall] = OrderedDict()
        self._bytes = 0

    def __iter__(self) -> Iterator[MadeCall]:
        """In the order in which they were made."""
        calls = {**self._ended, **self._waiting}
        return iter([calls[number] for number in sorted(calls)])

    @property
    def size(self) -> int:
        """Bytes of the arguments of calls that do not wait."""
        return self._bytes

    @property
    def ended(self) -> list[MadeCall]:
        """The calls that do not wait."""
        return list(self._ended.values())

    def begin(self, call: ToolCall) -> None:
        """Record a waiting call."""
        self._waiting[call.number] = _made(call)

    def defer(self, number: int) -> None:
        """Record that a call was deferred, and that its pool knows."""
        if (call := self._waiting.get(number)) is not None:
            self._waiting[number] = dataclasses.replace(call, state="deferred")

    def end(self, number: int, *, failed: bool) -> None:
        """Record the end of a waiting call."""
        if (call := self._waiting.pop(number, None)) is not None:
            self.add(dataclasses.replace(call, state="failed" if failed else "answered"))

    def add(self, call: MadeCall) -> None:
        """Record a call that has ended."""
        if call.number in self._ended:
            return
        self._ended[call.number] = call
        self._bytes += len(call.content)
        while len(self._ended) > _MOST_ANSWERED or self._bytes > _MOST_BYTES:
            _, oldest = self._ended.popitem(last=False)
            self._bytes -= len(oldest.content)


def _made(call: ToolCall) -> MadeCall:
    return MadeCall(call.number, call.tool, call.arguments, delivered_again=call.again)


class Answerer(Protocol):
    """Receives calls, and answers them with `PendingCalls.settle`."""

    def deliver(self, call: ToolCall) -> None: ...

    def withdraw(self, number: int) -> None:
        """Handle that a call no longer waits."""
        ...


@dataclass(slots=True)
class _Waiting:
    call: ToolCall
    answer: asyncio.Future[ToolAnswer]
    delivered: bool = False
    """Whether it is delivered, or was delivered and may have been made."""


class PendingCalls:
    """The waiting calls of one execution, and their current answerer. Used on one event loop.

    A call without an answerer, or one that was deferred, is parked: its time limit is suspended.
    """

    def __init__(self, log: CallLog | None = None) -> None:
        self.log = log or CallLog()
        self._waiting: dict[int, _Waiting] = {}
        self._answerer: Answerer | None = None

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def waiting(self) -> list[ToolCall]:
        """The waiting calls, in order; `again` says whether each is or was delivered and may have been made."""
        return [dataclasses.replace(each.call, again=each.delivered) for each in self._waiting.values()]

    @property
    def has_answerer(self) -> bool:
        return self._answerer is not None

    async def answer(self, call: ToolCall) -> ToolAnswer:
        """Wait for the answer to a call; the `answer` of a `Toolbox`."""
        waiting = self._waiting[call.number] = _Waiting(call, asyncio.get_running_loop().create_future())
        self.log.begin(call)
        self._offer(waiting)
        failed = True
        try:
            answer = await waiting.answer
            failed = answer.failed
            return answer
        except asyncio.CancelledError:
            if self._answerer is not None:
                self._answerer.withdraw(call.number)
            raise
        finally:
            del self._waiting[call.number]
            self.log.end(call.number, failed=failed)

    def attach(self, answerer: Answerer) -> None:
        """Send calls to this answerer in place of the previous one, starting with the waiting ones, in order."""
        self._answerer = answerer
        for each in list(self._waiting.values()):
            self._offer(each)

    def detach(self, answerer: Answerer) -> None:
        """Send no more calls to this answerer; they wait for the next."""
        if self._answerer is answerer:
            self._answerer = None
            for each in self._waiting.values():
                each.call.park(True)

    def settle(self, number: int, answer: ToolAnswer) -> bool:
        """Answer or defer a call; return whether it was waiting for that."""
        waiting = self._waiting.get(number)
        if waiting is None or waiting.answer.done():
            return False
        if answer.deferred:
            waiting.delivered = False
            waiting.call.park(True)
            self.log.defer(number)
        else:
            waiting.answer.set_result(answer)
        return True

    def _offer(self, waiting: _Waiting) -> None:
        if waiting.answer.done():
            return
        waiting.call.park(self._answerer is None)
        if self._answerer is not None:
            call = dataclasses.replace(waiting.call, again=waiting.delivered)
            waiting.delivered = True
            self.log.begin(call)
            self._answerer.deliver(call)


class TakenCalls:
    """Answers calls with the tools of this process, until another answerer takes over."""

    def __init__(self, pending: PendingCalls, toolbox: Toolbox) -> None:
        self._pending = pending
        self._toolbox = toolbox
        self._names = {stub.name for stub in toolbox.stubs}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def deliver(self, call: ToolCall) -> None:
        task = self._tasks[call.number] = asyncio.create_task(self._work(call))
        task.add_done_callback(lambda _: self._tasks.pop(call.number, None))

    def withdraw(self, number: int) -> None:
        if (task := self._tasks.get(number)) is not None:
            task.cancel()

    def end(self) -> None:
        """Cancel running calls: their answers no longer count."""
        self._pending.detach(self)
        for task in self._tasks.values():
            task.cancel()

    async def _work(self, call: ToolCall) -> None:
        if call.tool in self._names:
            try:
                answer = await self._toolbox.answer(call)
            except Exception as error:  # noqa: BLE001  the code must not wait for an answer that never comes
                answer = ToolAnswer.failure(f"{call.tool} failed: {type(error).__name__}.")
        else:
            answer = ToolAnswer.failure("This execution has no tool with that name.", refused=True)
        self._pending.settle(call.number, answer)
