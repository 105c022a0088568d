"""The order of a session's calls, from when they arrive until they wait for their turn at the sandbox."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Place:
    """The position of one call in the order. It must be left in any case; leaving it twice has no effect."""

    def __init__(self, before: asyncio.Future[None] | None) -> None:
        self._before = before
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when this call and all before it have left their positions."""

    async def reach(self) -> None:
        """Wait until all calls before this one have left their positions, then leave this one.

        The next call continues when this one waits again: everything until then happens in order.
        """
        await self.arrive()
        self.leave()

    async def arrive(self) -> None:
        """Wait until all calls before this one have left their positions, and keep this one."""
        if self._before is not None and not self._before.done():
            await asyncio.wait([self._before])

    def leave(self) -> None:
        if self.left.done():
            return
        if self._before is None or self._before.done():
            self.left.set_result(None)
        else:  # cancelled: the next call still waits for those before it
            self._before.add_done_callback(lambda _: self.leave())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()


class CallOrder:
    """The calls that have not reached their sandbox yet, by session.

    One call can wait for a sandbox, or start in a separate task, while a later one finds the sandbox ready. Without
    this order, the later one would run first.
    """

    def __init__(self) -> None:
        self._last: dict[str, Place] = {}

    def take(self, identifier: str) -> Place:
        """Take the position after all calls of a session so far."""
        last = self._last.get(identifier)
        place = self._last[identifier] = Place(None if last is None else last.left)
        place.left.add_done_callback(lambda _: self._forget(identifier, place))
        return place

    def __contains__(self, identifier: str) -> bool:
        """Whether a call of this session has not reached its sandbox yet."""
        return identifier in self._last

    def _forget(self, identifier: str, place: Place) -> None:
        if self._last.get(identifier) is place:
            del self._last[identifier]
