"""The control plane: accepts changes of pools, stores them, and applies them in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from greenroom.arm.ids import LOCAL_GROUP, LOCAL_SUBSCRIPTION, PoolId
from greenroom.arm.resources import ProvisioningState, Resource, decode_resource, patched
from greenroom.errors import GreenroomError, InvalidRequest
from greenroom.server.access.pool_keys import new_pool_key
from greenroom.server.control.choices import Engines, in_arms_words
from greenroom.server.control.declared import declared_resource
from greenroom.server.control.opening import Opened, change_pool, open_pool
from greenroom.server.control.operations import Operation, Operations, now
from greenroom.server.registry import PoolRegistry, ServedPool
from greenroom.server.responses import RequestRefused
from greenroom.server.state.file import StateNotWritten
from greenroom.server.state.pools import PoolTable, StoredPool

_log = logging.getLogger("greenroom.server.control")

_MOST_POOLS = 1000
_OPENED_TOGETHER = 4
_RETRY_AFTER = 5
_RETRY_AFTER_MOST = 60
"""Seconds until opening a stored pool is retried: the first delay and the longest."""
_OPENING = "The session pool is being opened. Try again in a moment."


@dataclass(eq=False, slots=True)
class ManagedPool:
    """A pool of the control plane."""

    id: PoolId
    resource: Resource
    """The resource as it serves, or as it will serve once it is open."""
    system_data: Mapping[str, str]
    state: ProvisioningState = "InProgress"
    next: Resource | None = None
    """The resource after the running update."""
    error: tuple[str, str] | None = None
    operation: Operation | None = None
    """The running operation."""
    task: asyncio.Task[None] | None = None
    opened: Opened | None = None
    served: ServedPool | None = None

    @property
    def shown(self) -> Resource:
        """The resource for clients, which see an update as soon as it is accepted."""
        return self.next or self.resource


@dataclass(frozen=True, slots=True)
class Accepted:
    """A change that was accepted and stored; an operation applies it."""

    pool: ManagedPool
    operation: Operation
    created: bool = False
    warnings: list[str] = field(default_factory=list[str])
    """A message for each value that Azure would refuse."""


class ControlPlane:
    """Creates, changes and deletes the pools of a registry. Used on one event loop."""

    def __init__(self, registry: PoolRegistry, table: PoolTable, engines: Engines, *, strict: bool) -> None:
        """
        Args:
            registry: contains the declared pools.
            table: the stored state; the control plane closes it.
            engines: the engines for the pools.
            strict: whether values out of Azure's ranges are refused.
        """
        self._registry = registry
        self._table = table
        self._engines = engines
        self._strict = strict
        self._pools: dict[tuple[str, str, str], ManagedPool] = {}
        self._accepting: set[tuple[str, str, str]] = set()
        """Keys of pools whose change is being written."""
        self._opening = asyncio.Semaphore(_OPENED_TOGETHER)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.operations = Operations()

    @classmethod
    async def open(cls, registry: PoolRegistry, table: PoolTable, engines: Engines, *, strict: bool = False) -> Self:
        """Start to open the stored pools, and to finish operations that a killed server left.

        Raises:
            InvalidRequest: the state cannot be read, or contains a pool that the server's options also declare.
        """
        plane = cls(registry, table, engines, strict=strict)
        try:
            stored = await table.load()
        except (StateNotWritten, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"The state {table.place!r} cannot be read: {error}. Restore it from a backup, or name another file "
                "with --state."
            ) from error
        for each in stored.pools:  # before anything starts
            if plane._declared(each.id) is not None:
                raise InvalidRequest(
                    f"The pool {each.id.name!r} must not be declared: the state {table.place!r} has a pool of that "
                    "name. Rename the declared one, or delete the stored one with a server that does not declare "
                    "it."
                )
        for name in stored.deleted:
            registry.reserve(name)
        plane.operations.keep(*stored.operations)
        under_way: dict[tuple[str, str, str], Operation] = {}
        for operation in plane.operations.under_way():
            if (earlier := under_way.get(operation.pool.key)) is not None:  # only a deletion replaces another operation
                plane.operations.keep(earlier.canceled())
            under_way[operation.pool.key] = operation
        for each in stored.pools:
            plane._resume(each, under_way.pop(each.id.key, None))
        for operation in under_way.values():  # the pool is gone, and a deletion ends together with its pool
            plane.operations.keep(operation.canceled())
        return plane

    async def close(self) -> None:
        """Stop running operations, which continue at the next start, and release the state. Other pools stay open."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for pool in self._pools.values():
            if pool.state == "Deleting" and pool.served is not None:  # no longer in the registry
                await pool.served.end()
        await self._table.close()

    # Queries

    def get(self, id: PoolId) -> ManagedPool | None:  # noqa: A002  ARM's own word
        """Return a pool, declared or not."""
        return self._pools.get(id.key) or self._declared(id)

    def pools(self, subscription: str, group: str | None = None) -> list[ManagedPool]:
        """Return the pools of a subscription or of one of its groups, in the order of their ids."""
        declared = [self._declared_pool(name, served) for name, served in self._registry.declared.items()]
        wanted = [subscription.casefold(), *([] if group is None else [group.casefold()])]
        found = [pool for pool in (*declared, *self._pools.values()) if list(pool.id.key[: len(wanted)]) == wanted]
        return sorted(found, key=lambda pool: pool.id.key)

    def not_serving(self) -> list[tuple[str, str, str]]:
        """Return the metrics name, the state and the reason for each pool that does not serve."""
        pools = (pool for pool in self._pools.values() if pool.opened is None or pool.state == "Deleting")
        return sorted((pool.id.signal_name, pool.state, pool.error[1] if pool.error else "") for pool in pools)

    # Changes

    async def put(self, id: PoolId, body: object, caller: str | None) -> Accepted:  # noqa: A002
        """Create a pool, or replace its resource by the body.

        Raises:
            RequestRefused: it is declared, or another operation is in progress.
            InvalidRequest: the body breaks a rule.
            StateNotWritten: nothing was stored.
        """
        pool = self._free(id)
        if pool is None and len(self._pools) + len(self._accepting) >= _MOST_POOLS:
            raise RequestRefused(409, "QuotaExceeded", f"A server must have at most {_MOST_POOLS} session pools.")
        resource = decode_resource(body, id, None if pool is None else pool.shown)
        warnings = self._engines.judge(resource, strict=self._strict)
        if pool is None:
            pool = ManagedPool(id, resource, _authored({}, caller))
            return await self._accept(pool, resource, pool.system_data, warnings, created=True)
        return await self._accept(pool, resource, _authored(pool.system_data, caller), warnings)

    async def patch(self, id: PoolId, body: object, caller: str | None) -> Accepted:  # noqa: A002
        """Change some properties of a pool. Raises as `put`, or `RequestRefused` if there is none."""
        pool = self._free(id)
        if pool is None:
            raise not_found(id)
        resource = patched(pool.shown, body)
        warnings = self._engines.judge(resource, strict=self._strict)
        return await self._accept(pool, resource, _authored(pool.system_data, caller), warnings)

    async def delete(self, id: PoolId) -> Accepted | None:  # noqa: A002
        """Delete a pool with its sessions, even if another operation is in progress; `None` if there is no such pool.

        Raises:
            RequestRefused: it is declared, or a change of it is being written.
            StateNotWritten: nothing was stored.
        """
        if self._declared(id) is not None:
            raise self._is_declared(id)
        pool = self._pools.get(id.key)
        if pool is None:
            return None
        if pool.state == "Deleting" and pool.operation is not None:
            return Accepted(pool, pool.operation)
        operation = Operation.new(pool.id)
        before = pool.task

        async def accept() -> None:
            await self._table.delete(pool.id, operation)
            self._registry.unmanage(pool.id)
            self._registry.reserve(pool.id.name)
            canceled, pool.state, pool.operation = pool.operation, "Deleting", operation
            self.operations.keep(operation)
            pool.task = self._in_background(self._delete(pool, operation, before, canceled))

        await self._to_its_end(pool.id, accept())
        return Accepted(pool, operation)

    async def _accept(
        self,
        pool: ManagedPool,
        resource: Resource,
        system_data: Mapping[str, str],
        warnings: list[str],
        *,
        created: bool = False,
    ) -> Accepted:
        operation = Operation.new(pool.id)
        serves = pool.opened is not None

        async def accept() -> None:
            keep = self._table.update if serves else self._table.create
            await keep(pool.id, resource, system_data, operation)
            if serves:
                pool.next = resource
            else:
                if pool.task is not None:
                    pool.task.cancel()  # it waits for a retry
                pool.resource = resource
                self._registry.manage(pool.id, _OPENING)
            pool.system_data, pool.state, pool.error, pool.operation = system_data, "InProgress", None, operation
            self._pools[pool.id.key] = pool
            self.operations.keep(operation)
            work = self._change(pool, operation) if serves else self._open(pool, operation)
            pool.task = self._in_background(work)

        await self._to_its_end(pool.id, accept())
        return Accepted(pool, operation, created, warnings)

    # Operations

    def _resume(self, stored: StoredPool, operation: Operation | None) -> None:
        """Continue with a stored pool where the last server left it."""
        pool = ManagedPool(stored.id, stored.resource, stored.system_data, next=stored.next, operation=operation)
        self._pools[pool.id.key] = pool
        if stored.deleting:
            pool.state = "Deleting"
            self._registry.reserve(pool.id.name)
            pool.task = self._in_background(self._delete(pool, operation, None, None))
            return
        self._registry.manage(pool.id, _OPENING)
        pool.task = self._in_background(self._open_again(pool, operation))

    async def _open_again(self, pool: ManagedPool, operation: Operation | None) -> None:
        """Open a stored pool, with its unfinished update if that is possible; retry until it opens."""
        taken, error = pool.next is not None, None
        if pool.next is not None:
            error = await self._try_to_open(pool, pool.next)
        if pool.opened is None:
            reason = await self._try_to_open(pool, pool.resource)
            taken, error = False, error or reason
        await self._end(pool, operation, error, taken=taken)
        delay = _RETRY_AFTER
        while pool.opened is None:  # the engine may start after the server
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_AFTER_MOST)
            if pool.id.key in self._accepting:
                continue
            pool.state = "InProgress"
            await self._open(pool, None)

    async def _open(self, pool: ManagedPool, operation: Operation | None) -> None:
        error = await self._try_to_open(pool, pool.resource)
        await self._end(pool, operation, error, taken=False)

    async def _change(self, pool: ManagedPool, operation: Operation) -> None:
        assert pool.opened is not None  # noqa: S101  it is serving
        assert pool.next is not None  # noqa: S101  set by `_accept`
        error = None
        try:
            async with self._opening:
                pool.opened = await change_pool(self._engines, pool.opened, pool.next)
            if pool.served is not None and not pool.next.has_mcp_key:  # fetched keys must become invalid
                pool.served.mcp_key = new_pool_key()
        except Exception as reason:  # noqa: BLE001  after any error, the pool serves as before
            error = _described(reason)
        await self._end(pool, operation, error, taken=error is None)

    async def _delete(
        self, pool: ManagedPool, operation: Operation | None, before: asyncio.Task[None] | None, other: Operation | None
    ) -> None:
        if before is not None:
            before.cancel()
            await asyncio.wait([before])
            self._registry.unmanage(pool.id)  # it may just have opened
        ended = [other.canceled()] if other is not None and other in self.operations.under_way() else []
        self.operations.keep(*ended)
        if pool.served is not None:
            await pool.served.end()
            pool.opened = pool.served = None
        if operation is not None:
            ended.append(operation.done())
        await self._written(self._table.deleted(pool.id, *ended))
        del self._pools[pool.id.key]
        self.operations.keep(*ended)

    async def _try_to_open(self, pool: ManagedPool, resource: Resource) -> tuple[str, str] | None:
        """Open a pool, or return the reason for the failure."""
        name = pool.id.signal_name
        metrics, observer = self._registry.observe(name)
        try:
            records = await self._registry.records_of(name)
            async with self._opening:
                pool.opened = await open_pool(self._engines, resource, observer, name)
        except Exception as reason:  # noqa: BLE001  after any error, the server serves the other pools
            return _described(reason)
        pool.served = ServedPool(pool.id.name, pool.opened.backend, {}, records, signal_name=name, metrics=metrics)
        self._registry.manage(pool.id, pool.served)
        return None

    async def _end(
        self, pool: ManagedPool, operation: Operation | None, error: tuple[str, str] | None, *, taken: bool
    ) -> None:
        """End an operation. The end is stored first, so that a restart cannot undo an end that a client has seen."""
        done = None if operation is None else operation.done(error)
        await self._written(self._table.updated(pool.id, taken=taken, operation=done))
        if taken and pool.next is not None:
            pool.resource = pool.next
        pool.next = pool.operation = None
        if pool.opened is None:
            pool.state, pool.error = "Failed", error
            self._registry.manage(pool.id, f"The session pool cannot be opened. {error[1] if error else ''}")
        else:
            pool.state = "Succeeded"
        if done is not None:
            self.operations.keep(done)

    async def _written(self, writing: Coroutine[Any, Any, None]) -> None:
        """Await the last write of an operation. If it fails, the next start of the server repeats the rest."""
        try:
            await writing
        except StateNotWritten:
            _log.exception("the end of an operation was not stored")

    # Helpers

    def _free(self, id: PoolId) -> ManagedPool | None:  # noqa: A002
        """Return the pool to be changed.

        Raises:
            RequestRefused: it must not be changed, or not at the moment.
        """
        if self._declared(id) is not None:
            raise self._is_declared(id)
        pool = self._pools.get(id.key)
        if id.key in self._accepting or (pool is not None and pool.state in {"InProgress", "Deleting"}):
            raise _busy(id)
        return pool

    async def _to_its_end(self, id: PoolId, work: Coroutine[Any, Any, None]) -> None:  # noqa: A002
        """Await the writing of a change, which continues if the caller is cancelled, so that memory and file agree.

        Raises:
            RequestRefused: another change of the pool is being written.
        """
        if id.key in self._accepting:
            work.close()
            raise _busy(id)
        self._accepting.add(id.key)
        task = self._in_background(work)
        task.add_done_callback(lambda _: self._accepting.discard(id.key))
        await asyncio.shield(task)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _declared(self, id: PoolId) -> ManagedPool | None:  # noqa: A002
        if id.key[:2] != (LOCAL_SUBSCRIPTION, LOCAL_GROUP):
            return None
        found = ((name, served) for name, served in self._registry.declared.items() if name.casefold() == id.key[2])
        return next((self._declared_pool(name, served) for name, served in found), None)

    def _declared_pool(self, name: str, served: ServedPool) -> ManagedPool:
        id = PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, name)  # noqa: A001
        return ManagedPool(id, declared_resource(served), {}, "Succeeded", served=served)

    def _is_declared(self, id: PoolId) -> RequestRefused:  # noqa: A002
        return RequestRefused(
            409,
            "SessionPoolIsDeclared",
            f"The session pool {id.name!r} must be changed where it is declared: on the server's command line or in "
            "its configuration file.",
        )


def not_found(id: PoolId) -> RequestRefused:  # noqa: A002
    """Return the error that there is no such pool, worded as by ARM."""
    return RequestRefused(
        404,
        "ResourceNotFound",
        f"The Resource 'Microsoft.App/sessionPools/{id.name}' under resource group '{id.group}' was not found.",
    )


def _busy(id: PoolId) -> RequestRefused:  # noqa: A002
    return RequestRefused(
        409,
        "OperationNotAllowed",
        f"The session pool {id.name!r} must not be changed while another operation on it is in progress. Wait until "
        "that ends.",
    )


def _described(reason: Exception) -> tuple[str, str]:
    """Return the code and the message for the reason why an operation failed."""
    if isinstance(reason, GreenroomError):
        return type(reason).__name__, in_arms_words(str(reason))[0]
    _log.error("an operation failed", exc_info=reason)
    return "InternalServerError", f"The server failed: {type(reason).__name__}. Its log has the details."


def _authored(before: Mapping[str, str], caller: str | None) -> dict[str, str]:
    """Return systemData after a change; it names the caller if credentials are required."""
    author = {"By": caller, "ByType": "Application"} if caller is not None else {}
    changes = {**author, "At": now()}
    modified = {f"lastModified{name}": value for name, value in changes.items()}
    return {**(before or {f"created{name}": value for name, value in changes.items()}), **modified}
