"""The conformance suites over Docker: with its own runtime, and with gVisor's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom import SessionPool
from greenroom.testing import ExecutionSuite, FileSuite, IsolationSuite, LimitSuite, engine_pool


class _Docker:
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with engine_pool("docker:", **cls.options) as pool:
            yield pool


class TestExecution(_Docker, ExecutionSuite):
    pass


class TestFiles(_Docker, FileSuite):
    pass


class TestLimits(_Docker, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}


class TestIsolation(_Docker, IsolationSuite):
    pass
