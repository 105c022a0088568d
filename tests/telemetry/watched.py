"""Pools in memory whose signals are kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from tests.server.served import client_of

from greenroom.engines.base import Engine
from greenroom.local import PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.server.access.keys import Guard
from greenroom.server.app import Application
from greenroom.server.registry import PoolRegistry
from greenroom.server.settings import ServerSettings
from greenroom.telemetry import Observer, TelemetryEvent, both, ignore
from greenroom.telemetry.aggregate import Aggregate
from greenroom.testing.memory_engine import MemoryEngine


@contextlib.asynccontextmanager
async def pool_with_events(
    engine: Engine | None = None, observer: Observer = ignore, **options: Any
) -> AsyncGenerator[tuple[LocalPool, list[TelemetryEvent]], None]:
    """A pool in memory, and its events."""
    events: list[TelemetryEvent] = []
    settings = PoolSettings.parse({"preload": (), "ready_session_instances": 0, **options})
    pool = await LocalPool.open(engine or MemoryEngine(), settings, both(events.append, observer))
    try:
        yield pool, events
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def served_with_metrics(
    *names: str, guard: Guard | None = None, metrics_guard: Guard | None = None, **options: Any
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of a server over pools in memory, which count their events."""
    pools = PoolRegistry()
    settings = PoolSettings.parse({"preload": (), "ready_session_instances": 0, "max_concurrent_sessions": 4})
    for name in names:
        metrics = Aggregate()
        backend = await LocalPool.open(MemoryEngine(), settings, metrics.observe, name)
        pools.add(name, backend, metrics=metrics)
    app = Application(pools, ServerSettings.parse(options), guard, metrics_guard=metrics_guard)
    try:
        async with client_of(app) as client:
            yield client
    finally:
        await pools.close()
