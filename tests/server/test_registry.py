"""The registry of a server's pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from greenroom import InvalidRequest
from greenroom.server.registry import PoolRegistry
from greenroom.telemetry import ExecutionEnded, Observer, RequestEnded, SessionAllocated, TelemetryEvent
from greenroom.testing import ScriptedBackend
from greenroom.testing.engines import skipping_without

from .served import LATEST, application, client_of, current, eventually, query, served


class Closing(ScriptedBackend):
    """Notes its name when it closes, and fails if it is to."""

    def __init__(self, name: str, closed: list[str], *, fails: bool = False) -> None:
        super().__init__()
        self._name, self._closed, self._fails = name, closed, fails

    async def close(self) -> None:
        self._closed.append(self._name)
        if self._fails:
            raise RuntimeError(self._name)


async def test_the_first_pool_is_the_default_and_a_single_one_has_every_name() -> None:
    pools = PoolRegistry()
    assert pools.get(None) is None
    assert pools.get("first") is None
    first = pools.add("first", ScriptedBackend())
    assert pools.get(None) is pools.get("first") is pools.get("any") is first
    second = pools.add("second", ScriptedBackend())
    assert pools.get(None) is pools.get("first") is first
    assert pools.get("second") is second
    assert pools.get("any") is None
    assert [pool.name for pool in pools] == ["first", "second"]


async def test_a_pool_that_does_not_open_is_not_served() -> None:
    pools = PoolRegistry()
    with pytest.raises(InvalidRequest, match="nonsense"):
        await pools.open("bad", {"url": "nonsense:"})
    assert list(pools) == []


async def test_every_pool_is_closed_even_if_one_fails() -> None:
    closed: list[str] = []
    pools = PoolRegistry()
    for name in ("a", "b", "c"):
        pools.add(name, Closing(name, closed, fails=name == "b"))
    with pytest.raises(RuntimeError, match="b"):
        await pools.close()
    assert closed == ["a", "b", "c"]
    assert list(pools) == []
    await pools.close()
    assert closed == ["a", "b", "c"]


async def test_a_request_is_in_flight_until_its_response_is_sent() -> None:
    class Slow(ScriptedBackend):
        go_on = asyncio.Event()

        async def download(self, identifier: str, path: str, **options: Any) -> AsyncGenerator[bytes, None]:
            del identifier, path
            yield b"first"
            yield b"second"
            await self.go_on.wait()

    backend = Slow()
    async with application(backend) as app, client_of(app) as client:
        (pool,) = app.pools
        assert (await client.post("/executions", params=query(LATEST), json=current("1"))).is_success
        assert pool.in_flight == 0
        download = asyncio.create_task(client.get("/files/a/content", params=query(LATEST)))
        await eventually(lambda: pool.in_flight == 1)
        backend.go_on.set()
        assert (await download).content == b"firstsecond"
        assert pool.in_flight == 0


async def test_each_pool_that_it_opens_has_the_observer_of_its_name() -> None:
    events: list[TelemetryEvent] = []
    names: list[str | None] = []

    def observer_of(name: str | None) -> Observer:
        names.append(name)
        return events.append

    pools = PoolRegistry(observer_of)
    try:
        with skipping_without("bubblewrap:"):
            pool = await pools.open("p", {"url": "bubblewrap:", "preload": (), "ready_session_instances": 0})
        await pool.backend.execute("session", "1", timeout=None, on_event=None)
    finally:
        await pools.close()
    assert {SessionAllocated, ExecutionEnded} <= {type(event) for event in events}
    assert names == ["p"]


async def test_the_observer_learns_the_end_of_each_request() -> None:
    requests: list[TelemetryEvent] = []
    async with served(observer=requests.append) as client:
        await client.post("/executions", params=query(LATEST), json=current("1"))
        await client.get("/nothing")
        await client.get("/healthz")
    assert [(event.operation, event.status) for event in requests if isinstance(event, RequestEnded)] == [
        ("POST /executions", 200),
        (None, 400),
    ]
