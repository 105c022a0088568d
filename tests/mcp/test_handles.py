"""Handles among each other: whose they are, how long they live, and how many there can be."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.errors import SandboxLost
from greenroom.mcp.endpoint import Peer, Peers
from greenroom.mcp.handles import Handle, Handles, UnknownHandle
from greenroom.models import SessionInfo
from greenroom.testing import BareBackend

NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Sessions(BareBackend):
    """Sessions that begin with their use, and end as the test wants."""

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.owned: set[str] = set()

    async def sessions(self) -> list[SessionInfo]:
        await asyncio.sleep(0)
        return [SessionInfo(identifier, NOW, NOW) for identifier in sorted(self.live)]

    async def delete(self, identifier: str) -> None:
        self.live.discard(identifier)

    def mark_owned(self, identifier: str) -> None:
        self.owned.add(identifier)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def handles_of(backend: Any, clock: Clock | None = None) -> Handles:
    return Handles(backend, clock=clock or Clock())


async def use(handles: Handles, backend: Sessions, handle: Handle) -> None:
    async with handles.using(handle) as identifier:
        backend.live.add(identifier)


async def is_known(handles: Handles, handle: Handle, caller: str | None) -> bool:
    try:
        return await handles.find(handle.value, caller) is handle
    except UnknownHandle:
        return False


async def test_a_handle_is_neither_guessable_nor_the_identifier() -> None:
    backend = Sessions()
    handles = handles_of(backend)
    made = [await handles.mint("ann") for _ in range(100)]
    values, identifiers = {handle.value for handle in made}, {handle.identifier for handle in made}
    assert len(values) == len(identifiers) == 100
    assert not values & identifiers
    assert identifiers == backend.owned  # in Azure, they end with the pool
    with pytest.raises(UnknownHandle):
        await handles.find(made[0].identifier, "ann")


async def test_unused_handles_expire_and_used_ones_do_not() -> None:
    backend, clock = Sessions(), Clock()
    handles = handles_of(backend, clock)
    unused, used = await handles.mint(None), await handles.mint(None)
    await use(handles, backend, used)
    clock.now = 3700
    await handles.mint(None)
    assert not await is_known(handles, unused, None)
    assert await is_known(handles, used, None)


async def test_one_caller_cannot_push_out_live_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.mcp.handles._MOST_OF_A_CALLER", 10)
    backend = Sessions()
    handles = handles_of(backend)
    used = await handles.mint(None)
    await use(handles, backend, used)
    made = [await handles.mint(None) for _ in range(50)]
    assert await is_known(handles, used, None)
    assert [await is_known(handles, handle, None) for handle in made].count(True) == 9


async def test_a_session_whose_first_call_was_cancelled_has_started() -> None:
    backend = Sessions()
    handles = handles_of(backend)
    handle = await handles.mint("caller")
    with suppress(asyncio.CancelledError):
        async with handles.using(handle) as identifier:
            backend.live.add(identifier)
            raise asyncio.CancelledError
    assert handle.begun
    assert await handles.of("caller") == [handle]
    backend.live.clear()
    assert not await is_known(handles, handle, "caller")


def test_a_caller_with_many_clients_evicts_only_its_own() -> None:
    peers = Peers(most=10)
    quiet = Peer()
    id_ = peers.add("quiet", quiet)
    noisy = [(peer := Peer(), peers.add("noisy", peer)) for _ in range(100)]
    assert peers.find("quiet", id_) is quiet
    assert [peer for peer, each in noisy if peers.find("noisy", each) is peer] == [peer for peer, _ in noisy[-9:]]
    peers.remove("quiet", id_)
    assert peers.find("quiet", id_) is not quiet
    assert peers.find("quiet", None) is not quiet


async def test_a_lost_session_ends_its_handle_and_a_reset_one_does_not() -> None:
    backend = Sessions()
    handles = handles_of(backend)
    handle = await handles.mint("ann")
    await use(handles, backend, handle)
    with suppress(SandboxLost):
        async with handles.using(handle):
            await handles.reset(handle)  # meanwhile
            raise SandboxLost("gone")
    assert await is_known(handles, handle, "ann")
    with suppress(SandboxLost):
        async with handles.using(handle):
            raise SandboxLost("gone")
    assert not await is_known(handles, handle, "ann")


@given(st.lists(st.tuples(st.sampled_from(["mint", "use", "lose", "reset", "end", "list"]), st.integers(0, 5))))
async def test_handles_follow_their_sessions(steps: list[tuple[str, int]]) -> None:
    backend, made = Sessions(), list[tuple[Handle, str]]()
    handles = handles_of(backend)
    ended: set[str] = set()
    began: set[str] = set()
    for step, number in steps:
        if step == "mint" or not made:
            caller = "ann" if number % 2 else "bob"
            made.append((await handles.mint(caller), caller))
            continue
        handle, caller = made[number % len(made)]
        live = handle.value not in ended
        with suppress(UnknownHandle):
            if step == "use":
                await use(handles, backend, await handles.find(handle.value, caller))
                began.add(handle.value)
            elif step == "lose" and handle.identifier in backend.live:
                backend.live.discard(handle.identifier)
                ended.add(handle.value)
            elif step == "reset":
                await handles.reset(await handles.find(handle.value, caller))
                began.discard(handle.value)
            elif step == "end":
                await handles.end(await handles.find(handle.value, caller))
                ended.add(handle.value)
            elif step == "list":
                expected = {each.value for each, whose in made if whose == caller and each.value in began - ended}
                assert {each.value for each in await handles.of(caller)} == expected
        assert await is_known(handles, handle, caller) == (live and handle.value not in ended)
        assert not await is_known(handles, handle, "bob" if caller == "ann" else "ann")
    assert backend.live == {each.identifier for each, _ in made if each.value in began - ended}
