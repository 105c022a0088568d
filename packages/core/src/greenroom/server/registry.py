"""The pools of a server, by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from greenroom.azure.codecs.shared import Json
from greenroom.backend import Backend
from greenroom.connecting import open_backend
from greenroom.server.records import ExecutionRecords
from greenroom.telemetry import ObserverOf, both, nobody
from greenroom.telemetry.aggregate import Aggregate


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
    metrics: Aggregate = field(default_factory=Aggregate)
    """What its events add up to; it goes with the pool."""
    metadata: asyncio.Task[Json] | None = None
    """The versions of the packages in its sandboxes: determined once, for all callers."""

    @contextlib.contextmanager
    def in_use(self) -> Generator[None, None, None]:
        """Count a request while it is in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def forget_failed_metadata(self, task: asyncio.Task[Json]) -> None:
        """Let the next caller try again."""
        if task.cancelled() or task.exception() is not None:
            self.metadata = None


class PoolRegistry:
    """Opens, finds and closes pools. The first one is the default.

    Requests look a pool up when they begin and hold it until they end, so the registry can change in between.
    """

    def __init__(self, observers: ObserverOf = nobody) -> None:
        """
        Args:
            observers: returns the observer of a pool that it opens, by its name.
        """
        self._observers = observers
        self._pools: dict[str, ServedPool] = {}

    def __iter__(self) -> Iterator[ServedPool]:
        return iter(list(self._pools.values()))

    async def open(self, name: str, options: Mapping[str, Any]) -> ServedPool:
        """Open a pool.

        Args:
            name: a new one.
            options: those of `greenroom.connect`, `url` included.

        Raises:
            InvalidRequest: an option is unknown or breaks a rule.
            EngineUnavailable: the pool cannot make sandboxes.
        """
        others = {option: value for option, value in options.items() if option != "url"}
        metrics = Aggregate()
        observer = both(metrics.observe, self._observers(name))
        backend = await open_backend(options.get("url"), observer, name, **others)
        return self.add(name, backend, options, metrics)

    def add(
        self,
        name: str,
        backend: Backend,
        options: Mapping[str, Any] | None = None,
        metrics: Aggregate | None = None,
    ) -> ServedPool:
        """Serve an open pool under a new name, and close it at the end; `metrics` observe its events."""
        pool = self._pools[name] = ServedPool(name, backend, options or {}, metrics=metrics or Aggregate())
        return pool

    def get(self, name: str | None) -> ServedPool | None:
        """Return the pool of that name, or the default for `None`.

        A single pool serves every name, so that a client's URL needs another host and nothing else.
        """
        if name is None or len(self._pools) == 1:
            return next(iter(self._pools.values()), None)
        return self._pools.get(name)

    async def drain(self, timeout: float) -> None:
        """Begin no more executions, wait for the running ones, and cancel those that exceed `timeout` seconds."""
        await asyncio.gather(*(pool.records.drain(timeout) for pool in self))

    async def close(self) -> None:
        """Close every pool, the last one first; an error of one does not keep the others open."""
        async with contextlib.AsyncExitStack() as stack:
            for pool in self:
                stack.push_async_callback(pool.backend.close)
            self._pools.clear()
