"""The conformance suites over bubblewrap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom import Session, SessionPool
from greenroom.testing import (
    AttackSuite,
    CellSuite,
    ExecutionSuite,
    FileSuite,
    HostileToolSuite,
    IsolationSuite,
    JavaScriptSuite,
    LimitSuite,
    ParkSuite,
    ShellAttackSuite,
    ShellPoolSuite,
    ShellSuite,
    TextSuite,
    ToolLimitSuite,
    ToolSuite,
    engine_pool,
)


class _Bubblewrap:
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with engine_pool("bubblewrap:", **cls.options) as pool:
            yield pool


class TestExecution(_Bubblewrap, ExecutionSuite):
    pass


class TestCells(_Bubblewrap, CellSuite):
    pass


class TestJavaScript(_Bubblewrap, JavaScriptSuite):
    options: ClassVar[Mapping[str, Any]] = JavaScriptSuite.options


class TestTexts(_Bubblewrap, TextSuite):
    pass


class TestTools(_Bubblewrap, ToolSuite):
    options: ClassVar[Mapping[str, Any]] = ToolSuite.options


class TestToolLimits(_Bubblewrap, ToolLimitSuite):
    options: ClassVar[Mapping[str, Any]] = ToolLimitSuite.options


class TestParking(_Bubblewrap, ParkSuite):
    options: ClassVar[Mapping[str, Any]] = ParkSuite.options


class TestHostileTools(_Bubblewrap, HostileToolSuite):
    options: ClassVar[Mapping[str, Any]] = HostileToolSuite.options


class TestFiles(_Bubblewrap, FileSuite):
    pass


class TestLimits(_Bubblewrap, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}


class TestShell(_Bubblewrap, ShellSuite):
    options: ClassVar[Mapping[str, Any]] = ShellSuite.options

    def test_a_crashed_worker_ends_the_running_command(self, session: Session) -> None:
        session.execute("import os, threading\nthreading.Timer(1, os._exit, [3]).start()").raise_for_error()
        execution = session.shell("echo begun; sleep 60; echo done")
        assert (execution.stdout, execution.exit_code, execution.state_lost) == ("begun\n", 137, True)
        assert session.shell("echo again").stdout == "again\n"


class TestShellOfShellPools(_Bubblewrap, ShellSuite):
    options: ClassVar[Mapping[str, Any]] = {**ShellSuite.options, "container_type": "Shell"}


class TestShellOfNodePools(_Bubblewrap, ShellSuite):
    options: ClassVar[Mapping[str, Any]] = {**ShellSuite.options, "container_type": "NodeLTS"}


class TestShellPools(_Bubblewrap, ShellPoolSuite):
    options: ClassVar[Mapping[str, Any]] = ShellPoolSuite.options


class TestIsolation(_Bubblewrap, IsolationSuite):
    pass


class TestIsolationOfSandboxesThatAreNotForked(_Bubblewrap, IsolationSuite):
    options: ClassVar[Mapping[str, Any]] = {"preload": (), "fork": False}


class TestLimitsOfSandboxesThatAreNotForked(_Bubblewrap, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": (), "fork": False}


_SHARED_SYSTEM = "the system is shared, read-only, and the kernel keeps locks and watches by file"


class TestAttacks(_Bubblewrap, AttackSuite):
    options: ClassVar[Mapping[str, Any]] = AttackSuite.options
    known_differences: ClassVar[Mapping[str, str]] = {
        "test_a_lock_on_a_system_file_holds_in_its_own_sandbox_alone": _SHARED_SYSTEM,
        "test_the_use_of_system_files_by_a_neighbour_cannot_be_watched": _SHARED_SYSTEM,
        **AttackSuite.shared_by_the_kernel,
    }


class TestAttacksFromAShell(_Bubblewrap, ShellAttackSuite):
    options: ClassVar[Mapping[str, Any]] = ShellAttackSuite.options
    known_differences: ClassVar[Mapping[str, str]] = ShellAttackSuite.programs_end
