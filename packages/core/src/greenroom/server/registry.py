"""The pools of a server, by name."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from greenroom.arm.ids import PoolId
from greenroom.azure.codecs.shared import Json
from greenroom.backend import Backend
from greenroom.connecting import open_backend
from greenroom.mcp.endpoint import Endpoint, Peers
from greenroom.progress import Report, unread
from greenroom.server.access.pool_keys import new_pool_key
from greenroom.server.records import ExecutionRecords
from greenroom.server.responses import RequestRefused
from greenroom.server.state.executions import ExecutionTable
from greenroom.server.state.file import StateFile
from greenroom.telemetry import Observer, ObserverOf, both, nobody
from greenroom.telemetry.aggregate import Aggregate

_log = logging.getLogger("greenroom.server")

_MOST_RESERVED = 20_000


@dataclass(eq=False, slots=True)
class ServedPool:
    """A pool under its name, with the server's records of it."""

    name: str
    backend: Backend
    options: Mapping[str, Any]
    """The options that it was opened with, as for `greenroom.connect`."""
    records: ExecutionRecords = field(default_factory=ExecutionRecords)
    in_flight: int = 0
    """Requests whose response is not sent completely."""
    mcp_key: str = field(default_factory=new_pool_key, repr=False)
    """The key to its MCP endpoint, and to nothing else: what ARM's `fetchMCPServerCredentials` returns."""
    mcp: Endpoint | None = None
    """Its MCP endpoint, once somebody has used it."""
    mcp_peers: Peers = field(default_factory=Peers)
    signal_name: str = ""
    """Its name in metrics and traces, which no other pool of the server has; by default its name."""
    metrics: Aggregate = field(default_factory=Aggregate)
    """What its events add up to; it goes with the pool."""
    metadata: asyncio.Task[Json] | None = None
    """The versions of the packages in its sandboxes: determined once, for all callers."""

    def __post_init__(self) -> None:
        self.signal_name = self.signal_name or self.name

    @contextlib.contextmanager
    def in_use(self) -> Generator[None, None, None]:
        """Count a request while it is in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def end(self) -> None:
        """End its sessions, as the pool is deleted: what runs in them ends with an error that says so.

        An error of the pool is logged.
        """
        try:
            await self.backend.close()
        except Exception:  # noqa: BLE001  whatever it is, the pool serves no more
            _log.exception("a session pool did not close")
        await self.records.clear()

    def forget_failed_metadata(self, task: asyncio.Task[Json]) -> None:
        """Let the next caller try again."""
        if task.cancelled() or task.exception() is not None:
            self.metadata = None


class PoolRegistry:
    """Opens, finds and closes pools: those that the server declares, by name, and those of its control plane, by id.

    The first declared one is the default. Requests look a pool up when they begin and hold it until they end, so the
    registry can change in between.
    """

    def __init__(self, observers: ObserverOf = nobody, file: StateFile | None = None) -> None:
        """
        Args:
            observers: returns the observer of a pool, by its name in metrics and traces.
            file: keeps executions in the background across a restart; `None` keeps them in memory.
        """
        self._observers = observers
        self._file = file
        self._pools: dict[str, ServedPool] = {}
        self._managed: dict[tuple[str, str, str], ServedPool | str] = {}
        """By key, the pool, or the reason for which it does not serve."""
        self._reserved: dict[str, None] = {}
        """Names that pools of the control plane have or had, in lower case, the latest last."""

    def __iter__(self) -> Iterator[ServedPool]:
        managed = (pool for pool in self._managed.values() if isinstance(pool, ServedPool))
        return iter([*self._pools.values(), *managed])

    @property
    def declared(self) -> Mapping[str, ServedPool]:
        """The pools that the server's options declare, by name."""
        return self._pools

    async def open(self, name: str, options: Mapping[str, Any], report: Report = unread) -> ServedPool:
        """Open a pool.

        Args:
            name: a new one.
            options: those of `greenroom.connect`, `url` included.
            report: takes the progress.

        Raises:
            InvalidRequest: an option is unknown or breaks a rule.
            EngineUnavailable: the pool cannot make sandboxes.
        """
        others = {option: value for option, value in options.items() if option != "url"}
        metrics, observer = self.observe(name)
        records = await self.records_of(name)
        backend = await open_backend(options.get("url"), observer, name, report, **others)
        return self.add(name, backend, options, metrics, records)

    async def records_of(self, signal_name: str) -> ExecutionRecords:
        """Return the records of a pool that is to be opened, with those of the server before this one.

        Raises:
            StateNotWritten: the state cannot be read or written.
        """
        table = ExecutionTable(self._file, signal_name) if self._file is not None else None
        records = ExecutionRecords(table=table)
        await records.take_over()
        return records

    def observe(self, signal_name: str) -> tuple[Aggregate, Observer]:
        """Return the sums and the observer of a pool that is to be opened."""
        metrics = Aggregate()
        return metrics, both(metrics.observe, self._observers(signal_name))

    def add(
        self,
        name: str,
        backend: Backend,
        options: Mapping[str, Any] | None = None,
        metrics: Aggregate | None = None,
        records: ExecutionRecords | None = None,
    ) -> ServedPool:
        """Serve an open pool under a new name, and close it at the end; `metrics` observe its events."""
        pool = self._pools[name] = ServedPool(
            name, backend, options or {}, records or ExecutionRecords(), metrics=metrics or Aggregate()
        )
        return pool

    def manage(self, id: PoolId, pool: ServedPool | str) -> None:  # noqa: A002  ARM's own word
        """Serve a pool of the control plane under its id, or answer with the reason for which it does not serve."""
        self._managed[id.key] = pool
        self.reserve(id.name)

    def unmanage(self, id: PoolId) -> None:  # noqa: A002
        """Serve a pool no more. Its name stays its own: no other pool answers in its place."""
        self._managed.pop(id.key, None)

    def reserve(self, name: str) -> None:
        """Keep the only declared pool from serving a name that is, or was, one of a pool of the control plane."""
        self._reserved.pop(name.casefold(), None)
        self._reserved[name.casefold()] = None
        if len(self._reserved) > _MOST_RESERVED:
            del self._reserved[next(iter(self._reserved))]

    def get(self, name: str | None) -> ServedPool | None:
        """Return the declared pool of that name, or the default for `None`.

        A single pool serves every name, so that a client's URL needs another host and nothing else; but none that a
        pool of the control plane has or had.
        """
        if name is None:
            return next(iter(self._pools.values()), None)
        if len(self._pools) == 1 and name.casefold() not in self._reserved:
            return next(iter(self._pools.values()))
        return self._pools.get(name)

    def find(self, id: PoolId | None) -> ServedPool | None:  # noqa: A002
        """Return the pool of a path: that of the control plane with this id, else the declared one of its name.

        Args:
            id: as it is in the path, or `None` where the path has none.

        Raises:
            RequestRefused: with status 503; the pool does not serve at the moment.
        """
        managed = None if id is None else self._managed.get(id.key)
        if isinstance(managed, str):
            raise RequestRefused(503, "SessionPoolNotReady", managed, retry_after=2)
        return managed or self.get(None if id is None else id.name)

    async def drain(self, timeout: float) -> None:
        """Begin no more executions, wait for the running ones, and cancel those that exceed `timeout` seconds."""
        await asyncio.gather(*(pool.records.drain(timeout) for pool in self))

    async def close(self) -> None:
        """Close every pool, all at the same time; an error of one does not keep the others open."""
        pools = [*self]
        self._pools.clear()
        self._managed.clear()
        ends = await asyncio.gather(*(pool.backend.close() for pool in pools), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end
