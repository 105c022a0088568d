"""Calls of tools that are the client's: they go down with the lines of their execution, and answers come back up."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from dataclasses import replace

from greenroom.server.budget import Share
from greenroom.server.responses import RequestRefused
from greenroom.tools import ToolAnswer, Toolbox, ToolCall
from greenroom.wire.executions import NOT_WAITING, Answer, Called, Order, Withdrawn

_COPIES = 4  # of the arguments while their line is sent: as they came, in base64, and twice as JSON


class RemoteCalls:
    """The calls of one execution that wait for the client that receives it."""

    def __init__(self, order: Order, held: Share, most: int) -> None:
        """
        Args:
            order: has tools.
            held: an empty share of the server's memory, for arguments.
            most: bytes that a result can have.
        """
        self._order = order
        self._held = held
        self._most = most
        self._waiting: dict[int, tuple[Called, asyncio.Future[ToolAnswer]]] = {}
        self._listener: Callable[[Called | Withdrawn], None] | None = None
        self._key = ""

    def toolbox(self) -> Toolbox | None:
        """Return the tools for the pool."""
        order = self._order
        return Toolbox(order.tools, order.tool_limits, self._answer) if order.tools and order.tool_limits else None

    def attach(self, listener: Callable[[Called | Withdrawn], None]) -> None:
        """Send the calls to this client, those that wait already too. From now on, it alone can answer."""
        self._listener, self._key = listener, secrets.token_urlsafe()
        for called, _ in self._waiting.values():
            self._send(called)

    def detach(self, listener: Callable[[Called | Withdrawn], None]) -> None:
        """Send no more to this client; calls wait for the next one."""
        if self._listener == listener:
            self._listener, self._key = None, ""

    def answer(self, answer: Answer) -> None:
        """Answer a call.

        Raises:
            RequestRefused: it does not wait, or the client does not receive this execution.
        """
        if not self._key or not hmac.compare_digest(answer.key.encode("utf-8", "replace"), self._key.encode()):
            raise RequestRefused(409, "CallNotYours", "The answer must have the key of its call.")
        _, waiting = self._waiting.get(answer.call, (None, None))
        if waiting is None or waiting.done():
            raise RequestRefused(409, NOT_WAITING, f"The call {answer.call} does not wait for an answer.")
        waiting.set_result(ToolAnswer(answer.content, answer.failed))

    async def _answer(self, call: ToolCall) -> ToolAnswer:
        size = _COPIES * len(call.arguments)
        if not self._held.add(size):
            return ToolAnswer.failure(f"{call.tool} was not called: the server holds too much for other requests.")
        try:
            return await self._answer_of_client(call)
        finally:
            self._held.add(-size)

    async def _answer_of_client(self, call: ToolCall) -> ToolAnswer:
        called = Called(call.number, call.tool, call.arguments, min(call.most, self._most))
        waiting: asyncio.Future[ToolAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[call.number] = called, waiting
        self._send(called)
        try:
            return await waiting
        except asyncio.CancelledError:
            self._send(Withdrawn(call.number))
            raise
        finally:
            del self._waiting[call.number]

    def _send(self, event: Called | Withdrawn) -> None:
        if self._listener is not None:
            self._listener(replace(event, key=self._key) if isinstance(event, Called) else event)
