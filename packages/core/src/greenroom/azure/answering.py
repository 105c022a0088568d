"""The client's end of calls: code in a session of a server calls tools of this application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from greenroom.errors import GreenroomError
from greenroom.runner.protocol import FrameError
from greenroom.tools import RunningCalls, ToolAnswer, Toolbox
from greenroom.wire.executions import NOT_WAITING, Answer, Called, Withdrawn
from greenroom.wire.values import WireError


class AnsweredCalls:
    """The calls of one execution. Each is made once, also if the connection breaks and the server repeats it."""

    def __init__(self, toolbox: Toolbox, send: Callable[[Answer], Awaitable[None]]) -> None:
        """
        Args:
            toolbox: what answers them.
            send: sends an answer to the server.
        """
        self._calls = RunningCalls(toolbox, self._answer)
        self._send = send
        self._keys: dict[int, str] = {}
        self._unsent: dict[int, ToolAnswer] = {}

    def take(self, event: Called | Withdrawn) -> None:
        """Take a line about a call.

        Raises:
            WireError: there are more than the execution can have.
        """
        if isinstance(event, Withdrawn):
            self._calls.withdraw(event.call)
            return
        self._keys[event.call] = event.key
        if self._calls.is_known(event.call):
            self._calls.repeat(event.call, self._unsent.pop(event.call, None))
            return
        try:
            self._calls.take(event.call, event.tool, event.arguments, event.most)
        except FrameError as error:
            raise WireError(f"the calls of an execution must be within its limits: {error}") from None

    def end(self) -> None:
        """Cancel all calls: the execution has ended."""
        self._calls.end()

    async def _answer(self, number: int, answer: ToolAnswer) -> None:
        while True:
            key = self._keys[number]
            try:
                await self._send(Answer(number, key, answer.content, answer.failed))
                return
            except GreenroomError as error:
                if error.azure is None or error.azure.code != NOT_WAITING:
                    self._unsent[number] = answer  # if the call is repeated, it did not arrive
                if self._keys[number] == key:
                    raise
            self._unsent.pop(number, None)  # the call was repeated meanwhile, and has another key
