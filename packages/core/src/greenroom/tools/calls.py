"""The calls of one execution, within its limits: they come from hostile code and go to whoever answers them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from greenroom.errors import GreenroomError
from greenroom.runner.protocol import MAX_BODY, MAX_CALL, MAX_REFUSAL, MAX_TOOL_NAME, FrameError
from greenroom.tools.definitions import ToolLimits
from greenroom.tools.stubs import ToolStub


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that code makes, as it was received."""

    number: int
    """Its own within the execution; higher than those of the calls before it."""
    tool: str
    """A name that the code has given."""
    arguments: bytes
    """A JSON object, as the code says."""
    most: int
    """Bytes that its result can have."""


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """The answer to a call."""

    content: bytes
    """The result as JSON; if the call failed, a message in UTF-8."""
    failed: bool = False

    @classmethod
    def failure(cls, message: str) -> ToolAnswer:
        """Return the answer to a call that failed."""
        return cls(message.encode("utf-8", "replace")[:MAX_REFUSAL], failed=True)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one execution, for the pool that runs it."""

    stubs: tuple[ToolStub, ...]
    limits: ToolLimits
    answer: Callable[[ToolCall], Awaitable[ToolAnswer]]
    """Called on the pool's loop; cancelled when its call is given up, or ends in another way."""


class RunningCalls:
    """The calls of one execution that runs. Used on one event loop."""

    def __init__(
        self,
        toolbox: Toolbox,
        send: Callable[[int, ToolAnswer], Awaitable[None]],
        on_waiting: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """
        Args:
            toolbox: what answers them.
            send: sends an answer to the code.
            on_waiting: called when the first call begins to wait, and when the last one has been answered.
        """
        self._toolbox = toolbox
        self._limits = toolbox.limits
        self._names = {stub.name for stub in toolbox.stubs}
        self._send = send
        self._on_waiting = on_waiting
        self._turns = asyncio.Semaphore(self._limits.concurrent)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._last = 0
        self._calls_left = self._limits.calls
        self._arguments_left = self._limits.argument_bytes
        self._results_left = self._limits.result_bytes
        self._ended = False

    @property
    def arguments_left(self) -> int:
        """Bytes that the arguments of the next call can have."""
        return min(self._arguments_left, MAX_BODY)

    def take(self, number: object, tool: object, arguments: bytes, most: int = MAX_BODY) -> None:
        """Begin a call, whose result can have that many bytes if as much is left.

        Raises:
            FrameError: an honest runner does not send it: its number was used before, or it is over a limit.
        """
        if isinstance(number, bool) or not isinstance(number, int) or not self._last < number <= MAX_CALL:
            raise FrameError("a call whose number is not new")
        if not isinstance(tool, str) or len(tool) > MAX_TOOL_NAME:
            raise FrameError("a call of no tool")
        self._last = number
        self._calls_left -= 1
        self._arguments_left -= len(arguments)
        if self._calls_left < 0 or self._arguments_left < 0:
            raise FrameError("more calls than the execution can make")
        if self._ended:  # code that is being stopped and cleans up must not wait
            self._begin(number, self._sent(number, ToolAnswer.failure(f"{tool} was not called: the execution ends.")))
            return
        self._begin(number, self._serve(number, tool, arguments, most))

    def is_known(self, number: int) -> bool:
        """Whether the call was taken before."""
        return number <= self._last

    def repeat(self, number: int, answer: ToolAnswer | None) -> None:
        """Send an answer again."""
        if answer is not None and not self._ended:
            self._begin(number, self._sent(number, answer))

    def withdraw(self, number: object) -> None:
        """Cancel a call that the code no longer waits for. Unknown numbers are ignored."""
        task = self._tasks.get(number) if isinstance(number, int) else None
        if task is not None:
            task.cancel()

    def end(self) -> None:
        """Cancel all calls: the execution has ended. Idempotent."""
        self._ended = True
        for task in self._tasks.values():
            task.cancel()

    def _begin(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        if not self._tasks:
            self._on_waiting(True)
        task = self._tasks[number] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._forget(number, task))

    def _forget(self, number: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(number) is task:  # else its answer is being sent again
            del self._tasks[number]
            if not self._tasks:
                self._on_waiting(False)

    async def _serve(self, number: int, tool: str, arguments: bytes, most: int) -> None:
        timeout = self._limits.timeout
        try:
            async with asyncio.timeout(timeout), self._turns:
                answer = await self._answer(ToolCall(number, tool, arguments, min(self._results_left, most)))
        except TimeoutError:
            answer = ToolAnswer.failure(f"{tool} did not answer within {timeout:g} seconds.")
        except Exception as error:  # noqa: BLE001  the code must not wait for an answer that never comes
            answer = ToolAnswer.failure(f"{tool} failed: {type(error).__name__}.")
        if not answer.failed:
            if len(answer.content) > min(self._results_left, most):  # others have been faster
                answer = ToolAnswer.failure(f"The results of {tool} and others are over the limit of this execution.")
            else:
                self._results_left -= len(answer.content)
        await self._sent(number, answer)

    async def _sent(self, number: int, answer: ToolAnswer) -> None:
        with contextlib.suppress(GreenroomError):  # the sandbox or the connection is lost, which its execution reports
            await self._send(number, answer)

    async def _answer(self, call: ToolCall) -> ToolAnswer:
        if call.tool not in self._names:
            return ToolAnswer.failure("This execution has no tool of that name.")
        return await self._toolbox.answer(call)
