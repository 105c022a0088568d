"""The conformance suites over bubblewrap."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom import Session, SessionPool
from greenroom.engines.bubblewrap import cgroups
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

_SHARED_SYSTEM = "the system is shared, read-only, and the kernel keeps locks and watches by file"
_ONE_USER = "every sandbox is the user who started it, and has that user's quotas"
_UNCOUNTED = "without control groups, nothing counts the memory of a sandbox's processes and sockets together"

_IS_ROOT = os.geteuid() == 0
_COUNTS = _IS_ROOT or cgroups.find() is not None
_WITHOUT_COUNTS = dict.fromkeys(
    [] if _COUNTS else ["test_memory_of_many_processes_counts_together", "test_a_session_may_have_a_memory_of_its_own"],
    _UNCOUNTED,
)
_OF_ONE_USER = dict.fromkeys([] if _IS_ROOT else ["test_neighbours_are_different_users"], _ONE_USER)


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
    known_differences: ClassVar[Mapping[str, str]] = _WITHOUT_COUNTS


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
    known_differences: ClassVar[Mapping[str, str]] = _WITHOUT_COUNTS


class TestAttacks(_Bubblewrap, AttackSuite):
    options: ClassVar[Mapping[str, Any]] = AttackSuite.options
    known_differences: ClassVar[Mapping[str, str]] = {
        "test_a_lock_on_a_system_file_holds_in_its_own_sandbox_alone": _SHARED_SYSTEM,
        "test_the_use_of_system_files_by_a_neighbour_cannot_be_watched": _SHARED_SYSTEM,
        **AttackSuite.shared_by_the_kernel,
        **_OF_ONE_USER,
        **{
            f"test_buffers_of_sockets_count_as_memory[{kind}]": _UNCOUNTED
            for kind in ("TCP", "UDP", "Unix stream sockets", "Unix datagram sockets")
            if not _COUNTS
        },
    }
    not_run: ClassVar[Mapping[str, str]] = {} if _IS_ROOT else {"test_one_session_cannot_take_all": _ONE_USER}


class TestAttacksFromAShell(_Bubblewrap, ShellAttackSuite):
    options: ClassVar[Mapping[str, Any]] = ShellAttackSuite.options
    known_differences: ClassVar[Mapping[str, str]] = {**ShellAttackSuite.programs_end, **_OF_ONE_USER}
