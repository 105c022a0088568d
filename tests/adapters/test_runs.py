"""The default pool, and the sessions of runs without a conversation."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from greenroom import ContainerType, InvalidRequest, SessionPool, connecting
from greenroom.adapters import Toolset, adefault_pool, aend_run, close_default_pool, default_pool, end_run
from greenroom.testing import ScriptedBackend, engine_pool, memory_pool, scripted_pool, wait_until


class Run:
    """What a framework has once for each run. All are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run)

    def __hash__(self) -> int:
        return 1


def toolset(pool: SessionPool | None = None) -> Toolset:
    return Toolset("framework", "Name it.", pool=pool)


def text(tools: Toolset, code: str, run: object) -> str:
    return tools.call(None, "run_python", run=run, code=code).text


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with memory_pool() as pool:
        yield pool


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SessionPool]]:
    """The pools that were opened by default."""
    pools: list[SessionPool] = []

    def connect() -> SessionPool:
        pools.append(memory_pool())
        return pools[-1]

    monkeypatch.setattr(connecting, "connect", connect)
    close_default_pool()
    yield pools
    close_default_pool()


async def test_the_default_pool_is_opened_by_the_first_use_and_shared(opened: list[SessionPool]) -> None:
    tools = toolset()
    assert opened == []
    assert (await tools.acall("ann", "run_python", code="x = 1")).text == "The code ran without output."
    assert toolset().call("ann", "run_python", code="x").text == "result:\n1"
    threads = [threading.Thread(target=default_pool) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [default_pool()] == [await adefault_pool()]
    close_default_pool()
    close_default_pool()
    assert "NameError" in toolset().call("ann", "run_python", code="x").text
    assert len(opened) == 2


def test_the_default_pool_must_run_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_pool(ScriptedBackend(ContainerType.SHELL)) as shell:
        monkeypatch.setattr(connecting, "connect", lambda: shell)
        close_default_pool()
        with pytest.raises(InvalidRequest, match="must be of type PythonLTS, not Shell"):
            toolset().call("ann", "run_python", code="1")
        close_default_pool()


def test_a_forked_process_opens_its_own_default_pool(opened: list[SessionPool]) -> None:
    default_pool()
    assert os.WEXITSTATUS(os.waitpid(_forked(opened), 0)[1]) == 2


def _forked(opened: list[SessionPool]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            default_pool()
        finally:
            os._exit(len(opened))
    return pid


def test_a_run_has_its_own_session_until_it_ends(pool: SessionPool) -> None:
    tools, ann, bob = toolset(pool), Run(), Run()
    text(tools, "x = 1", ann)
    assert text(toolset(pool), "x", ann) == "result:\n1"
    assert "NameError" in text(tools, "x", bob)
    assert tools.session_for(None, ann).identifier != tools.session_for("", bob).identifier
    end_run(ann)
    end_run(ann)
    assert len(pool.sessions()) == 1
    assert "NameError" in text(tools, "x", ann)
    end_run(ann)
    asyncio.run(aend_run(bob))
    assert pool.sessions() == []


async def test_the_session_of_a_run_that_is_forgotten_is_deleted(pool: SessionPool) -> None:
    tools = toolset(pool)
    runs = [Run() for _ in range(5)]
    await asyncio.gather(*(tools.acall(None, "run_python", run=run, code="1") for run in runs))
    assert len(await pool.asessions()) == 5
    runs.clear()
    gc.collect()
    await wait_until(lambda: not pool.sessions())
    await wait_until(lambda: not any(thread.name == "greenroom runs" for thread in threading.enumerate()))


def test_a_conversation_counts_more_than_a_run(pool: SessionPool) -> None:
    run = Run()
    tools = toolset(pool)
    assert tools.call("ann", "run_python", run=run, code="x = 1").text == "The code ran without output."
    assert "NameError" in text(tools, "x", run)
    end_run(run)


def test_one_run_can_use_several_pools(pool: SessionPool) -> None:
    run = Run()
    with memory_pool() as other:
        text(toolset(pool), "x = 1", run)
        assert "NameError" in text(toolset(other), "x", run)
        end_run(run)
        assert pool.sessions() == other.sessions() == []


async def test_a_sandbox_holds_nothing_of_the_context_it_was_started_in() -> None:
    """Else a framework's run would live as long as the sandbox that was started in it, and the other way round."""
    variable: ContextVar[object] = ContextVar("variable")
    with engine_pool("bubblewrap:", preload=(), ready_session_instances=0) as pool:
        run = Run()
        gone = weakref.ref(run)
        token = variable.set(run)
        session = pool.session()
        assert (await session.aexecute("1")).result == "1"
        assert (await asyncio.to_thread(session.execute, "1")).result == "1"
        variable.reset(token)
        del run, token
        gc.collect()
        await wait_until(lambda: gone() is None)
