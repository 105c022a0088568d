"""Calls of the client's tools: sent with the lines of their execution; answers arrive as requests."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from greenroom.server.budget import Share
from greenroom.server.responses import RequestRefused
from greenroom.tools import PendingCalls, ToolAnswer, Toolbox, ToolCall
from greenroom.wire.executions import NOT_WAITING, Answer, Called, CallEvent, Made, Order, Resumed, Withdrawn

_COPIES = 4  # of the arguments while their line is sent: as received, in base64, and twice as JSON

Listener: TypeAlias = Callable[[CallEvent], None]


class RemoteCalls:
    """The calls of one execution that wait for the client that receives its lines."""

    def __init__(self, order: Order, held: Share, most: int, *, caller: str | None = None) -> None:
        """
        Args:
            order: an order with tools.
            held: an empty share of the server's memory, for arguments.
            most: the maximum size of a result in bytes.
            caller: the execution's owner.
        """
        self.caller = caller
        self.can_park: Callable[[], bool] = lambda: True
        """Returns whether the calls can wait without a client; does not count this execution itself."""
        self._order = order
        self._held = held
        self._most = most
        self._pending = PendingCalls()
        self._client: _Client | None = None

    def toolbox(self) -> Toolbox | None:
        """Return the tools for the pool."""
        order = self._order
        return Toolbox(order.tools, order.tool_limits, self._answer) if order.tools and order.tool_limits else None

    @property
    def size(self) -> int:
        """The size in bytes of what it keeps after its execution."""
        return self._pending.log.size

    @property
    def is_parked(self) -> bool:
        """Whether calls wait and no client receives them."""
        return self._client is None and self._pending.count > 0

    def attach(self, listener: Listener, *, resumed: bool = False) -> None:
        """Send the calls to this client, including waiting ones. From now on, only this client can answer.

        Args:
            listener: receives the lines.
            resumed: whether the client did not start the execution, so that it needs the earlier calls.
        """
        if resumed:
            for call in self._pending.log.ended:
                listener(Made(call.number, call.tool, call.content, failed=call.state == "failed"))
        self._client = _Client(listener, self._most)
        self._pending.attach(self._client)
        if resumed:
            listener(Resumed())

    def detach(self, listener: Listener) -> None:
        """Stop sending to this client; calls wait for the next one."""
        if self._client is not None and self._client.listener == listener:
            self._pending.detach(self._client)
            self._client = None
            if self.is_parked and not self.can_park():
                for call in self._pending.waiting:
                    self._pending.settle(call.number, _crowded(call))

    def release(self) -> None:
        """Stop sending to the current client, if there is one."""
        if self._client is not None:
            self.detach(self._client.listener)

    def answer(self, answer: Answer) -> None:
        """Answer a call.

        Raises:
            RequestRefused: the call does not wait, or this client does not receive this execution.
        """
        key = self._client.key if self._client is not None else ""
        if not key or not hmac.compare_digest(answer.key.encode("utf-8", "replace"), key.encode()):
            raise RequestRefused(409, "CallNotYours", "The answer must have the key of its call.")
        given = ToolAnswer(answer.content, answer.failed, answer.deferred, answer.refused)
        if not self._pending.settle(answer.call, given):
            raise RequestRefused(409, NOT_WAITING, f"The call {answer.call} is not waiting for an answer.")

    async def _answer(self, call: ToolCall) -> ToolAnswer:
        if self._client is None and not self.is_parked and not self.can_park():
            return _crowded(call)
        size = _COPIES * len(call.arguments)
        if not self._held.add(size):
            return ToolAnswer.failure(f"{call.tool} was not called: the server's memory for requests is full.")
        try:
            return await self._pending.answer(replace(call, most=min(call.most, self._most)))
        finally:
            self._held.add(-size)


def _crowded(call: ToolCall) -> ToolAnswer:
    return ToolAnswer.failure(
        f"{call.tool} cannot be answered: its client has disconnected, and the limit of calls that wait for such "
        "clients is reached (the option max_parked).",
        refused=not call.again,
    )


class _Client:
    """The client that receives an execution: its calls are lines with its key."""

    def __init__(self, listener: Listener, most: int) -> None:
        self.listener = listener
        self.key = secrets.token_urlsafe()
        self._most = most

    def deliver(self, call: ToolCall) -> None:
        self.listener(Called(call.number, call.tool, call.arguments, call.most, self.key, call.again))

    def withdraw(self, number: int) -> None:
        self.listener(Withdrawn(number))
