"""A limit on the memory of all requests together: their bodies and the responses being sent."""

from __future__ import annotations

from types import TracebackType
from typing import Self

_SMALL = 64 * 1024
"""Shares up to this size are not counted, so that errors can always be sent; the number of requests limits them."""


class Budget:
    """A number of bytes for all requests together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Share:
    """The part of the budget that one request or execution has reserved; closing it returns all of it."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def hold(self, size: int) -> bool:
        """Reserve this number of bytes in total; return whether that was possible, and change nothing if not."""
        more = _counted(size) - _counted(self._size)
        if more > 0 and self._budget.used + more > self._budget.limit:
            return False
        self._budget.used += more
        self._size = size
        return True

    def add(self, size: int) -> bool:
        """Reserve more bytes, as `hold`."""
        return self.hold(self._size + size)

    def another(self) -> Share:
        """Return a new, empty share of the same budget."""
        return Share(self._budget)

    def handed_over(self) -> Share:
        """Move the reservation to a new share."""
        other = Share(self._budget)
        other._size, self._size = self._size, 0
        return other

    def close(self) -> None:
        self.hold(0)


def _counted(size: int) -> int:
    return size if size > _SMALL else 0
