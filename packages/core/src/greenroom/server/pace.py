"""Slow clients: nobody holds a connection for nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

T = TypeVar("T")

_BYTES_A_SECOND = 4096


class TooSlow(Exception):
    """A client sends or takes less than it must."""


def paced(receive: Receive, send: Send, *, patience: float) -> tuple[Receive, Send]:
    """An ASGI application's two ends, with a client that must send its body, and take what it is sent.

    In each direction it may leave the server waiting for `patience` seconds in all, and longer for each 4 KiB
    that have come through. Time in which it owes nothing, such as that of an execution, does not count. What
    `receive` and `send` raise then is `TooSlow`.
    """
    upward, downward = _Account(patience), _Account(patience)
    complete = False

    async def paced_receive() -> Message:
        nonlocal complete
        if complete:
            return await receive()  # it waits for the end of the connection
        message = await upward.wait(receive(), lambda message: len(message.get("body", b"")))
        complete = not message.get("more_body", False)
        return message

    async def paced_send(message: Message) -> None:
        size = len(message.get("body", b""))
        await downward.wait(send(message), lambda _: size)

    return paced_receive, paced_send


class _Account:
    """The time that a client has left in one direction."""

    def __init__(self, patience: float) -> None:
        self._left = patience

    async def wait(self, awaitable: Awaitable[T], size: Callable[[T], int]) -> T:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                result = await awaitable
        except TimeoutError:
            raise TooSlow from None
        self._left += size(result) / _BYTES_A_SECOND - (time.monotonic() - began)
        return result
