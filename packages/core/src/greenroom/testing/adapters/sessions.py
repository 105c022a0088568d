"""Tests of the session in which a call runs, and of its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from greenroom.errors import InvalidRequest, PoolFull
from greenroom.sessions import Session, SessionPool
from greenroom.testing.adapters.base import AdapterSuiteBase
from greenroom.testing.adapters.driver import AdapterDriver
from greenroom.testing.scripted import ENDLESS_CODE, ScriptedBackend, scripted_pool, wait_until


class SessionTests(AdapterSuiteBase):
    """Sessions of conversations, fixed sessions, and sessions per call."""

    async def test_variables_and_files_last_as_long_as_the_conversation(self, adapter: AdapterDriver, ann: str) -> None:
        await adapter.run(ann, "x = 41\nwith open('/mnt/data/a.txt', 'w') as f:\n    n = f.write('kept')")
        result = await adapter.run(ann, "with open('/mnt/data/a.txt') as f:\n    print(f.read(), x + 1)")
        assert result.text == "stdout:\nkept 42"
        assert (await adapter.call(ann, "read_file", path="a.txt")).text == "kept"

    async def test_no_two_conversations_share_a_session(self, adapter: AdapterDriver, ann: str, bob: str) -> None:
        await adapter.run(ann, "secret = 42\nwith open('/mnt/data/a.txt', 'w') as f:\n    n = f.write('secret')")
        assert "NameError" in (await adapter.run(bob, "secret")).text
        assert (await adapter.call(bob, "list_files")).text == "There are no files."
        assert (await adapter.run(ann, "secret")).text == "result:\n42"

    async def test_conversations_run_at_the_same_time(self, adapter: AdapterDriver, ann: str) -> None:
        async def converse(name: str) -> str:
            await adapter.run(name, f"me = {name!r}\nimport time\ntime.sleep(0.1)")
            return (await adapter.run(name, "print(me, end='')")).text

        names = [f"{ann}-{number}" for number in range(5)]
        assert await asyncio.gather(*map(converse, names)) == [f"stdout:\n{name}" for name in names]

    async def test_concurrent_calls_of_one_conversation_share_its_session(
        self, adapter: AdapterDriver, ann: str
    ) -> None:
        await asyncio.gather(*(adapter.run(ann, f"x{number} = {number}") for number in range(4)))
        assert (await adapter.run(ann, "x0 + x1 + x2 + x3")).text == "result:\n6"

    async def test_a_conversation_is_found_again_by_other_tools_over_the_pool(
        self, adapter: AdapterDriver, pool: SessionPool, ann: str
    ) -> None:
        await adapter.run(ann, "x = 7")
        assert (await self.driver(pool=pool).run(ann, "x")).text == "result:\n7"

    async def test_no_name_of_a_conversation_injects_a_parameter_or_is_taken_for_another(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        names = ["a", "A", "a&x=1", "../a", "a b", "Grüße", "x" * 1000, "\n"]
        for name in names:
            await scripted.run(name, "1")
        assert len(set(backend.identifiers)) == len(names)
        assert set("".join(backend.identifiers)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-~")

    async def test_the_application_works_in_the_same_session(self, adapter: AdapterDriver, ann: str) -> None:
        await adapter.session(ann).aupload(b"from the application", "notes.txt")
        assert (await adapter.call(ann, "read_file", path="notes.txt")).text == "from the application"

    async def test_deleting_a_session_is_one_call(self, adapter: AdapterDriver, ann: str, bob: str) -> None:
        await adapter.run(ann, "x = 1")
        await adapter.run(bob, "x = 2")
        await adapter.session(ann).adelete()
        assert "NameError" in (await adapter.run(ann, "x")).text
        assert (await adapter.run(bob, "x")).text == "result:\n2"

    async def test_no_session_outlives_its_conversation(
        self, adapter: AdapterDriver, pool: SessionPool, ann: str
    ) -> None:
        async with adapter.session(ann) as session:
            await adapter.run(ann, "1")
            assert session.identifier in {info.identifier for info in await pool.asessions()}
        assert session.identifier not in {info.identifier for info in await pool.asessions()}

    async def test_without_a_conversation_no_two_calls_share_a_session(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        alone = self.driver.gives_each_call_a_session
        if alone:
            await scripted.run(None, "1")
            await scripted.run(None, "2")
            assert len(set(backend.identifiers)) == 2
            backend.runs.clear()
        for conversation in ("",) if alone else (None, ""):
            with pytest.raises(InvalidRequest, match="does not name its conversation"):
                await scripted.run(conversation, "1")
            with pytest.raises(InvalidRequest, match="does not name its conversation"):
                await scripted.call(conversation, "list_files")
        assert backend.runs == []

    async def test_a_fixed_session_serves_every_call(
        self, pool: SessionPool, session: Session, ann: str, bob: str
    ) -> None:
        adapter = self.driver(session=session)
        await adapter.run(ann, "x = 1")
        await adapter.run(None, "x += 1")
        assert (await adapter.run(bob, "x")).text == "result:\n2"
        assert adapter.session(bob).identifier == session.identifier

    async def test_a_session_per_call_is_new_and_deleted_after_it(self, pool: SessionPool, ann: str) -> None:
        adapter = self.driver(pool=pool, session_per_call=True)
        before = {info.identifier for info in await pool.asessions()}
        await adapter.run(ann, "x = 1")
        assert "NameError" in (await adapter.run(ann, "x")).text
        assert (await adapter.run(None, "2")).text == "result:\n2"
        assert {info.identifier for info in await pool.asessions()} <= before
        with pytest.raises(InvalidRequest, match="ends with its call"):
            adapter.session(ann)

    async def test_a_session_per_call_is_deleted_when_its_call_cannot_be_served(self, backend: ScriptedBackend) -> None:
        backend.answer = PoolFull("full", sessions=1)
        with scripted_pool(backend) as pool, pytest.raises(PoolFull):
            await self.driver(pool=pool, session_per_call=True).run(None, "1")
        assert backend.deleted == backend.identifiers

    async def test_a_session_per_call_is_deleted_when_its_call_is_cancelled(self, backend: ScriptedBackend) -> None:
        with scripted_pool(backend) as pool:
            adapter = self.driver(pool=pool, session_per_call=True)
            running = asyncio.create_task(adapter.run(None, ENDLESS_CODE))
            await wait_until(lambda: bool(backend.runs))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert backend.deleted == backend.identifiers
        assert len(backend.deleted) == 1

    def test_invalid_options_are_refused_immediately(self, pool: SessionPool, tmp_path: Path) -> None:
        nonsense: list[dict[str, Any]] = [
            {"pool": pool, "session": pool.session()},
            {"session": pool.session(), "session_per_call": True},
            {"pool": pool, "uploads": tmp_path / "nowhere"},
            {"pool": pool, "budget": 0},
            *({"pool": pool, "timeout": timeout} for timeout in (0, -1, float("inf"), float("nan"), 1e6)),
        ]
        for options in nonsense:
            with pytest.raises(ValueError, match=r"Pass either|from a pool|director|budget|timeout"):
                self.driver(**options)
