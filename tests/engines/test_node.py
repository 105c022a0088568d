"""The conformance suites of files, isolation and attacks over NodeLTS sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom import SessionPool
from greenroom.testing import FileSuite, IsolationSuite, engine_pool, python_in_children
from greenroom.testing.attacks import AttackSuite
from greenroom.testing.attacks.host import HostAttacks
from greenroom.testing.attacks.networks import NetworkAttacks
from greenroom.testing.attacks.system_calls import SystemCallAttacks

_PARENT = "the code's parent is its session's own worker"


class _Node:
    url = "bubblewrap:"
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with engine_pool(cls.url, container_type="NodeLTS", **cls.options) as pool:
            yield python_in_children(pool)


class TestFiles(_Node, FileSuite):
    pass


class TestFilesInDocker(_Node, FileSuite):
    url = "docker:"


class TestFilesUnderGVisor(_Node, FileSuite):
    url = "docker:?runtime=runsc"


class TestIsolation(_Node, IsolationSuite):
    known_differences: ClassVar[Mapping[str, str]] = {
        "test_the_supervisor_cannot_be_traced_or_written_to": _PARENT,
    }


class TestIsolationInDocker(TestIsolation):
    url = "docker:"


class TestIsolationUnderGVisor(TestIsolation):
    url = "docker:?runtime=runsc"


class TestAttacks(_Node, SystemCallAttacks, HostAttacks, NetworkAttacks):
    options: ClassVar[Mapping[str, Any]] = AttackSuite.options


class TestAttacksInDocker(_Node, SystemCallAttacks, HostAttacks, NetworkAttacks):
    url = "docker:"
    options: ClassVar[Mapping[str, Any]] = AttackSuite.options
