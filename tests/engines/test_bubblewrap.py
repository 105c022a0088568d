"""The conformance suites over bubblewrap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom import SessionPool
from greenroom.testing import ExecutionSuite, FileSuite, IsolationSuite, LimitSuite, engine_pool


class _Bubblewrap:
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with engine_pool("bubblewrap:", **cls.options) as pool:
            yield pool


class TestExecution(_Bubblewrap, ExecutionSuite):
    pass


class TestFiles(_Bubblewrap, FileSuite):
    pass


class TestLimits(_Bubblewrap, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}


class TestIsolation(_Bubblewrap, IsolationSuite):
    pass
