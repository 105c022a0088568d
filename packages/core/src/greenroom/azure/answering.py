"""The client's end of calls: code in a session on a server calls tools of this application."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

from greenroom.errors import GreenroomError
from greenroom.runner.protocol import FrameError
from greenroom.tools import CallLog, MadeCall, RunningCalls, ToolAnswer, Toolbox, ToolCall
from greenroom.wire.executions import NOT_WAITING, Answer, Called, CallEvent, Made, Withdrawn
from greenroom.wire.values import WireError


class AnsweredCalls:
    """The calls of one execution. Each is made once, even if the connection breaks and the server repeats it."""

    def __init__(self, toolbox: Toolbox, send: Callable[[Answer], Awaitable[None]]) -> None:
        """
        Args:
            toolbox: answers them.
            send: sends an answer to the server.
        """
        self._calls = RunningCalls(toolbox, self._answer)
        self._log = toolbox.log or CallLog()
        self._send = send
        self._keys: dict[int, str] = {}
        """The keys of waiting calls."""
        self._unsent: dict[int, ToolAnswer] = {}
        """Answers that may not have arrived, including those that only defer a call."""

    def take(self, event: CallEvent) -> None:
        """Take a line about a call.

        Raises:
            WireError: there are more calls than the execution can have.
        """
        match event:
            case Called():
                self._take(event)
            case Withdrawn():
                self._forget(event.call, failed=True)
                self._calls.withdraw(event.call)
            case Made() if not self._calls.is_known(event.call):
                state = "failed" if event.failed else "answered"
                self._log.add(MadeCall(event.call, event.tool, event.arguments, state))
            case Made():
                pass
            case _:
                self._log.known.set()

    def end(self) -> None:
        """Cancel all calls: the execution has ended."""
        self._calls.end()

    def _take(self, event: Called) -> None:
        number = event.call
        if self._calls.is_known(number):
            if number in self._keys:
                self._keys[number] = event.key
                self._calls.repeat(number, self._unsent.get(number))
            return
        try:
            self._calls.take(number, event.tool, event.arguments, event.most, again=event.again)
        except FrameError as error:
            raise WireError(f"the calls of an execution must be within its limits: {error}") from None
        self._keys[number] = event.key
        self._log.begin(ToolCall(number, event.tool, event.arguments, event.most, again=event.again))

    def _forget(self, number: int, *, failed: bool) -> None:
        self._keys.pop(number, None)
        self._unsent.pop(number, None)
        self._log.end(number, failed=failed)

    async def _answer(self, number: int, answer: ToolAnswer) -> None:
        while (key := self._keys.get(number)) is not None:
            self._unsent[number] = answer  # if the call is repeated, the answer did not arrive
            try:
                await self._send(Answer(number, key, **dataclasses.asdict(answer)))
            except GreenroomError as error:
                if self._keys.get(number) != key:
                    continue  # the call was repeated meanwhile with another key
                if error.azure is not None and error.azure.code == NOT_WAITING:
                    self._forget(number, failed=answer.failed)
                raise
            if answer.deferred:
                self._log.defer(number)
            else:
                self._forget(number, failed=answer.failed)
            return
