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
    """A pool and its name, with the server's records of it."""

    name: str
    backend: Backend
    options: Mapping[str, Any]
    """The options that it was opened with, as for `greenroom.connect`."""
    records: ExecutionRecords = field(default_factory=ExecutionRecords)
    in_flight: int = 0
    """The number of requests whose response is not complete."""
    mcp_key: str = field(default_factory=new_pool_key, repr=False)
    """The key for its MCP endpoint only, which ARM's `fetchMCPServerCredentials` returns."""
    mcp: Endpoint | None = None
    """Its MCP endpoint, created on first use."""
    mcp_peers: Peers = field(default_factory=Peers)
    signal_name: str = ""
    """Its unique name in metrics and traces; by default its name."""
    metrics: Aggregate = field(default_factory=Aggregate)
    """The sums of its events, dropped with the pool."""
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
        """Close the pool, as it is deleted. Running executions end with an error that says so. An error of the pool is
        logged.
        """
        try:
            await self.backend.close()
        except Exception:  # noqa: BLE001  after any error, the pool no longer serves
            _log.exception("a session pool did not close")
        await self.records.clear()

    def forget_failed_metadata(self, task: asyncio.Task[Json]) -> None:
        """Make the next caller try again."""
        if task.cancelled() or task.exception() is not None:
            self.metadata = None


class PoolRegistry:
    """Opens, finds and closes pools: those that the server declares, by name, and those of its control plane, by id.

    The first declared pool is the default. A request looks its pool up when it starts and holds it until it ends, so
    the registry can change meanwhile.
    """

    def __init__(self, observers: ObserverOf = nobody, file: StateFile | None = None) -> None:
        """
        Args:
            observers: returns the observer for a pool, by its name in metrics and traces.
            file: stores background executions across a restart; `None` keeps them in memory.
        """
        self._observers = observers
        self._file = file
        self._pools: dict[str, ServedPool] = {}
        self._managed: dict[tuple[str, str, str], ServedPool | str] = {}
        """By key, the pool or the reason why it does not serve."""
        self._reserved: dict[str, None] = {}
        """Current and former names of pools of the control plane, in lower case, the latest last."""

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
            name: a name that no pool has.
            options: those of `greenroom.connect`, `url` included.
            report: called with the progress.

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
        """Return the records for a pool that will be opened, including those of the previous server.

        Raises:
            StateNotWritten: the state cannot be read or written.
        """
        table = ExecutionTable(self._file, signal_name) if self._file is not None else None
        records = ExecutionRecords(table=table)
        await records.take_over()
        return records

    def observe(self, signal_name: str) -> tuple[Aggregate, Observer]:
        """Return the sums and the observer for a pool that will be opened."""
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
        """Serve a pool of the control plane under its id, or answer with the reason why it does not serve."""
        self._managed[id.key] = pool
        self.reserve(id.name)

    def unmanage(self, id: PoolId) -> None:  # noqa: A002
        """Stop serving a pool. Its name stays reserved, so that no other pool answers in its place."""
        self._managed.pop(id.key, None)

    def reserve(self, name: str) -> None:
        """Prevent the only declared pool from serving a current or former name of a pool of the control plane."""
        self._reserved.pop(name.casefold(), None)
        self._reserved[name.casefold()] = None
        if len(self._reserved) > _MOST_RESERVED:
            del self._reserved[next(iter(self._reserved))]

    def get(self, name: str | None) -> ServedPool | None:
        """Return the declared pool of that name, or the default for `None`.

        A single pool serves every name except current and former ones of the control plane's pools, so that clients
        only need to change the host of their URL.
        """
        if name is None:
            return next(iter(self._pools.values()), None)
        if len(self._pools) == 1 and name.casefold() not in self._reserved:
            return next(iter(self._pools.values()))
        return self._pools.get(name)

    def find(self, id: PoolId | None) -> ServedPool | None:  # noqa: A002
        """Return the pool for a path: the control plane's pool with this id, otherwise the declared one with its name.

        Args:
            id: the id in the path, or `None` if the path has none.

        Raises:
            RequestRefused: with status 503; the pool does not serve at the moment.
        """
        managed = None if id is None else self._managed.get(id.key)
        if isinstance(managed, str):
            raise RequestRefused(503, "SessionPoolNotReady", managed, retry_after=2)
        return managed or self.get(None if id is None else id.name)

    async def drain(self, timeout: float) -> None:
        """Start no more executions, wait for running ones, and cancel those that exceed `timeout` seconds."""
        await asyncio.gather(*(pool.records.drain(timeout) for pool in self))

    async def close(self) -> None:
        """Close all pools concurrently; an error in one does not keep the others open."""
        pools = [*self]
        self._pools.clear()
        self._managed.clear()
        ends = await asyncio.gather(*(pool.backend.close() for pool in pools), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end
