"""The tables of the pools: each method is one durable change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from greenroom.arm.ids import PoolId
from greenroom.arm.resources import Resource
from greenroom.server.control.operations import Operation
from greenroom.server.state.file import StateFile

_MOST_OPERATIONS = 1000
_MOST_DELETED = 10_000


@dataclass(frozen=True, slots=True)
class StoredPool:
    """A row of a pool."""

    id: PoolId
    resource: Resource
    next: Resource | None
    """The resource after the update that was running when the server ended, if any."""
    deleting: bool
    system_data: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """The whole state."""

    pools: list[StoredPool] = field(default_factory=list[StoredPool])
    operations: list[Operation] = field(default_factory=list[Operation])
    deleted: list[str] = field(default_factory=list[str])
    """Names of deleted pools."""


class PoolTable:
    """The pools and their operations, in a state file."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    async def load(self) -> Stored:
        """Return everything.

        Raises:
            StateNotWritten: it cannot be read.
        """
        return await self._file.write(_load)  # a transaction, for one view of all tables

    async def create(self, id: PoolId, resource: Resource, facts: Mapping[str, str], operation: Operation) -> None:  # noqa: A002
        """Store a new pool, which can replace one that does not serve, and the operation that opens it."""

        def change(database: sqlite3.Connection) -> None:
            database.execute(
                "INSERT INTO pools (id, path, resource, facts) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET path = excluded.path, resource = excluded.resource, next = NULL,"
                " deleting = 0, facts = excluded.facts",  # set if the end of a deletion could not be written
                (_key(id), id.path, _dump(resource.to_json()), _dump(facts)),
            )
            database.execute("DELETE FROM deleted WHERE name = ?", (id.name.casefold(),))
            _keep(database, operation)

        await self._file.write(change)

    async def update(self, id: PoolId, resource: Resource, facts: Mapping[str, str], operation: Operation) -> None:  # noqa: A002
        """Store the new resource of a pool, and the operation that updates it."""

        def change(database: sqlite3.Connection) -> None:
            row = (_dump(resource.to_json()), _dump(facts), _key(id))
            database.execute("UPDATE pools SET next = ?, facts = ? WHERE id = ?", row)
            _keep(database, operation)

        await self._file.write(change)

    async def updated(self, id: PoolId, *, taken: bool, operation: Operation | None) -> None:  # noqa: A002
        """Store the end of an operation, and whether the pool was updated."""

        def change(database: sqlite3.Connection) -> None:
            taking = "resource = coalesce(next, resource), " if taken else ""
            database.execute(f"UPDATE pools SET {taking}next = NULL WHERE id = ?", (_key(id),))  # noqa: S608
            if operation is not None:
                _keep(database, operation)

        await self._file.write(change)
        await self._file.forget()

    async def delete(self, id: PoolId, operation: Operation) -> None:  # noqa: A002
        """Store that a pool is being deleted."""

        def change(database: sqlite3.Connection) -> None:
            database.execute("UPDATE pools SET deleting = 1 WHERE id = ?", (_key(id),))
            _keep(database, operation)

        await self._file.write(change)

    async def deleted(self, id: PoolId, *operations: Operation) -> None:  # noqa: A002
        """Forget a pool, but store that its name was used, and how its operations ended."""

        def change(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM pools WHERE id = ?", (_key(id),))
            database.execute(
                "INSERT OR REPLACE INTO deleted SELECT ?, coalesce(max(number), 0) + 1 FROM deleted",
                (id.name.casefold(),),
            )
            database.execute(
                "DELETE FROM deleted WHERE number <= (SELECT max(number) FROM deleted) - ?", (_MOST_DELETED,)
            )
            for operation in operations:
                _keep(database, operation)
            for operation in _operations(database, "WHERE ended IS NULL"):
                if operation.pool.key == id.key:
                    _keep(database, operation.canceled())

        await self._file.write(change)
        await self._file.forget()

    async def close(self) -> None:
        """Release the file."""
        await self._file.close()

    @property
    def place(self) -> str:
        """Where the state is, for messages."""
        return str(self._file.path)


def _load(database: sqlite3.Connection) -> Stored:
    pools = [
        StoredPool(
            PoolId.parse(path),
            Resource.from_json(json.loads(resource)),
            None if following is None else Resource.from_json(json.loads(following)),
            bool(deleting),
            json.loads(facts),
        )
        for path, resource, following, deleting, facts in database.execute(
            "SELECT path, resource, next, deleting, facts FROM pools ORDER BY id"
        )
    ]
    names = [name for (name,) in database.execute("SELECT name FROM deleted ORDER BY number")]
    return Stored(pools, _operations(database), names)


def _operations(database: sqlite3.Connection, which: str = "") -> list[Operation]:
    return [
        Operation(id, PoolId.parse(pool), status, started, ended, None if error is None else tuple(json.loads(error)))
        for id, pool, status, started, ended, error in database.execute(  # noqa: A001
            f"SELECT id, pool, status, started, ended, error FROM operations {which} ORDER BY rowid"  # noqa: S608
        )
    ]


def _keep(database: sqlite3.Connection, operation: Operation) -> None:
    error = None if operation.error is None else _dump(operation.error)
    values = (operation.id, operation.pool.path, operation.status, operation.started, operation.ended, error)
    database.execute(
        "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET status = excluded.status, ended = excluded.ended, error = excluded.error",
        values,
    )
    database.execute(
        "DELETE FROM operations WHERE ended IS NOT NULL AND rowid <= (SELECT max(rowid) FROM operations) - ?",
        (_MOST_OPERATIONS,),
    )


def _key(id: PoolId) -> str:  # noqa: A002
    return "/".join(id.key)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=True)
