"""No call of an `a…` method blocks its caller's event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError, blockbuster_ctx

import greenroom
from greenroom.engines.base import EngineOptions, EnginePlugin
from greenroom.models import ContainerType
from greenroom.notebook import arun_notebook
from greenroom.testing.memory_engine import MemoryEngine

from .plugins import IN_MEMORY, only_engines


class NeverReady(MemoryEngine):
    """Whoever waits for it blocks, on a machine of any speed: one that was ready at once would not be waited for."""

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        await asyncio.Event().wait()


NEVER_READY = EnginePlugin(EngineOptions, lambda _: NeverReady())


@pytest.fixture(autouse=True)
def _only_an_engine_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    only_engines(monkeypatch, memory=IN_MEMORY, never=NEVER_READY)


@pytest.fixture
def _unblocked() -> Iterator[None]:
    """Blocking calls raise in this thread; the pool's own loop has another, and may look at files."""
    gc.collect()  # a pool of an earlier test, collected here, would block as it closes
    here = threading.get_ident()

    def elsewhere_or(allowed: Callable[..., bool]) -> Callable[..., bool]:
        return lambda *args, **options: threading.get_ident() != here or allowed(*args, **options)

    with blockbuster_ctx() as blockbuster:
        for function in blockbuster.functions.values():
            function.deactivate()
            function.can_block_predicate = elsewhere_or(function.can_block_predicate)
            function.activate()
        yield


@pytest.mark.usefixtures("_unblocked")
async def test_connect_blocks_and_aconnect_does_not() -> None:
    with pytest.raises(BlockingError):
        greenroom.connect("never:")
    pool = await greenroom.aconnect("memory:")
    await pool.aclose()


@pytest.mark.usefixtures("_unblocked")
async def test_no_method_blocks(tmp_path: Path) -> None:
    local = tmp_path / "local"
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}
    ]
    async with greenroom.aconnect("memory:", ready_session_instances=2) as pool:
        session = pool.session()
        assert (await session.aexecute("1 + 1")).result == "2"
        await session.aupload(b"content", "file.txt")
        assert await session.adownload("file.txt", local) == local
        await session.aupload(str(local), "copy.txt")
        assert await session.adownload("copy.txt") == b"content"
        assert len(await session.afiles(recursive=True)) == 2
        await session.afile("file.txt")
        await session.adelete_file("file.txt")
        assert [type(event).__name__ async for event in session.astream("print(1)")] == ["StreamText", "Execution"]
        handle = session.submit("1")
        assert (await handle.aresult()).succeeded
        await handle.acancel()
        await arun_notebook({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}, session)
        assert await session.ainfo() is not None
        assert len(await pool.asessions()) == 1
        await pool.astatus()
        await session.adelete()


@pytest.mark.usefixtures("_unblocked")
async def test_a_session_with_its_own_pool_does_not_block() -> None:
    async with greenroom.session("memory:") as session:
        assert (await session.aexecute("1 + 1")).result == "2"


def test_the_first_program_has_three_lines() -> None:
    with greenroom.session("memory:") as session:
        assert session.execute("1 + 1").result == "2"
    assert session.identifier


def test_a_session_with_its_own_pool_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    with greenroom.session("memory:") as session:
        session.execute("1")
    with pytest.raises(greenroom.PoolClosed):
        session.execute("1")
