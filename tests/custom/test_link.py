"""The link between the pool and a container's relay: how much data one side can take."""

from __future__ import annotations

import asyncio

import pytest

from greenroom.runner.relay import MOST_OPEN, PORT, Channel, Link


def linked() -> tuple[Link, list[Channel]]:
    """The host's side of a link, and the channels that the other side has."""
    opened: list[Channel] = []

    async def to_relay(data: bytes) -> None:
        relay.feed(data)

    async def to_host(data: bytes) -> None:
        host.feed(data)

    host = Link(to_relay, lambda channel, _: opened.append(channel), first=1)
    relay = Link(to_host, lambda channel, _: opened.append(channel), first=2)
    return host, opened


async def test_a_connection_beyond_the_limit_waits_without_harming_others() -> None:
    host, opened = linked()
    channels = [await host.open(PORT.pack(80)) for _ in range(MOST_OPEN)]
    waiting = [asyncio.create_task(host.open(PORT.pack(80))) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert len(opened) == MOST_OPEN
    await opened[0].write(b"alive")
    assert await channels[0].read() == b"alive"
    await channels[0].close()
    await opened[1].close()
    await asyncio.sleep(0.01)
    assert [task.done() for task in waiting] == [True, True, False]
    await waiting[0].result().write(b"new")
    assert await opened[MOST_OPEN].read() == b"new"
    host.close("The container was stopped.")
    with pytest.raises(ConnectionResetError, match="was stopped"):
        await waiting[2]
