"""The conformance suites through our own client against our own server: nothing differs from a pool of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from greenroom import SessionPool, connect, wire
from greenroom.testing import (
    CellSuite,
    ExecutionSuite,
    FileSuite,
    IsolationSuite,
    LimitSuite,
    ParkSuite,
    TextSuite,
    ToolLimitSuite,
    ToolSuite,
)
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving


class _Served:
    engine = "bubblewrap:"
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with ExitStack() as stack:
            with skipping_without(cls.engine):
                url = stack.enter_context(serving(cls.engine, **cls.options))
            pool = stack.enter_context(connect(url))
            pool.sessions()
            assert wire.VERSION in repr(pool), "found out by itself"
            yield pool


class TestExecution(_Served, ExecutionSuite):
    pass


class TestCells(_Served, CellSuite):
    pass


class TestTexts(_Served, TextSuite):
    pass


class TestFiles(_Served, FileSuite):
    pass


class TestLimits(_Served, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}


class TestTools(_Served, ToolSuite):
    options: ClassVar[Mapping[str, Any]] = ToolSuite.options


class TestToolLimits(_Served, ToolLimitSuite):
    options: ClassVar[Mapping[str, Any]] = ToolLimitSuite.options


class TestParking(_Served, ParkSuite):
    options: ClassVar[Mapping[str, Any]] = ParkSuite.options


class TestIsolation(_Served, IsolationSuite):
    pass


class TestExecutionOverDocker(TestExecution):
    engine = "docker:"


class TestFilesOverDocker(TestFiles):
    engine = "docker:"
