"""Fixtures for the tests of an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from greenroom.sessions import SessionPool
from greenroom.testing.adapters.driver import AdapterDriver
from greenroom.testing.memory import memory_pool
from greenroom.testing.scripted import ScriptedBackend, scripted_pool
from greenroom.testing.suite import Suite


class AdapterSuiteBase(Suite):
    """The fixtures that all groups of tests share: the subject, its pool, two conversations and an upload directory."""

    driver: ClassVar[type[AdapterDriver]]

    not_for_blocking_calls: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_a_cancelled_call_interrupts_its_code_and_keeps_the_session",
            "test_a_session_per_call_is_deleted_when_its_call_is_cancelled",
            "test_no_call_blocks_the_loop_or_takes_a_thread",
        ),
        "a blocking call takes its thread and cannot be cancelled",
    )
    """`not_run` for a subject whose driver runs blocking calls in threads."""

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        """The pool that runs the code of these tests."""
        with memory_pool() as pool:
            yield pool

    @pytest.fixture(autouse=True)
    def leaves_no_session(self, pool: SessionPool) -> Iterator[None]:
        """Delete the sessions that a test started."""
        before = {info.identifier for info in pool.sessions()}
        yield
        for identifier in {info.identifier for info in pool.sessions()} - before:
            pool.session(identifier).delete()

    @pytest.fixture
    def adapter(self, pool: SessionPool, uploads: Path) -> AdapterDriver:
        """The subject, with the defaults and a directory to upload from."""
        return self.driver(pool=pool, uploads=uploads)

    @pytest.fixture
    def ann(self) -> str:
        """A conversation."""
        return f"ann-{uuid4().hex}"

    @pytest.fixture
    def bob(self) -> str:
        """Another conversation."""
        return f"bob-{uuid4().hex}"

    @pytest.fixture
    def uploads(self, tmp_path: Path) -> Path:
        """A directory that contains `sales.csv`, next to a secret file."""
        directory = tmp_path / "uploads"
        directory.mkdir()
        (directory / "sales.csv").write_bytes(b"month,sales\n1,10\n")
        (tmp_path / "secret.txt").write_text("secret")
        return directory

    @pytest.fixture
    def backend(self) -> ScriptedBackend:
        """The backend of the scripted pool."""
        return ScriptedBackend()

    @pytest.fixture
    def scripted(self, backend: ScriptedBackend) -> Iterator[AdapterDriver]:
        """The subject on the scripted pool."""
        with scripted_pool(backend) as pool:
            yield self.driver(pool=pool)
