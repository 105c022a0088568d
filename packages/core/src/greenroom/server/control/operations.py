"""Long-running operations, as ARM describes them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from greenroom.arm.ids import PoolId

OperationStatus: TypeAlias = Literal["InProgress", "Succeeded", "Failed", "Canceled"]

_MOST_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Operation:
    """One accepted change of a pool."""

    id: str
    pool: PoolId
    status: OperationStatus
    started: str
    ended: str | None = None
    error: tuple[str, str] | None = None
    """The code and the message, if it has failed."""

    @classmethod
    def new(cls, pool: PoolId) -> Operation:
        return cls(str(uuid.uuid4()), pool, "InProgress", now())

    def done(self, error: tuple[str, str] | None = None) -> Operation:
        """Return the ended operation."""
        return replace(self, status="Succeeded" if error is None else "Failed", ended=now(), error=error)

    def canceled(self) -> Operation:
        """Return the operation as canceled by the deletion of its pool."""
        error = ("OperationCanceled", "The session pool was deleted before the operation ended.")
        return replace(self, status="Canceled", ended=now(), error=error)

    def to_json(self) -> dict[str, Any]:
        """Return the body of its status URL."""
        body: dict[str, Any] = {"id": self.id, "name": self.id, "status": self.status, "startTime": self.started}
        if self.ended is not None:
            body["endTime"] = self.ended
        if self.error is not None:
            code, message = self.error
            body["error"] = {"code": code, "message": message}
        return body


class Operations:
    """The running operations and the most recently ended ones, by id."""

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}

    def keep(self, *operations: Operation) -> None:
        """Keep operations; if there are too many, forget the oldest ended ones."""
        for operation in operations:
            self._operations[operation.id] = operation
        for old in self._surplus():
            del self._operations[old.id]

    def find(self, subscription: str, id: str) -> Operation | None:  # noqa: A002  ARM's own word
        """Return the operation with this id in this subscription."""
        operation = self._operations.get(id)
        if operation is None or operation.pool.subscription.casefold() != subscription.casefold():
            return None
        return operation

    def under_way(self) -> list[Operation]:
        """Return the operations that have not ended."""
        return [operation for operation in self._operations.values() if operation.ended is None]

    def _surplus(self) -> Iterable[Operation]:
        surplus = len(self._operations) - _MOST_KEPT
        ended = [operation for operation in self._operations.values() if operation.ended is not None]
        return ended[: max(0, surplus)]


def now() -> str:
    """Return the time as ARM writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
