"""The conformance suites over Docker: with its own runtime, and with gVisor's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from greenroom import SessionPool
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
from greenroom.testing.limits import fork_bomb


class _Docker:
    url = "docker:"
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with engine_pool(cls.url, **cls.options) as pool:
            yield pool


class _GVisor(_Docker):
    url = "docker:?runtime=runsc"


class TestExecution(_Docker, ExecutionSuite):
    pass


class TestCells(_Docker, CellSuite):
    pass


class TestJavaScript(_Docker, JavaScriptSuite):
    options: ClassVar[Mapping[str, Any]] = JavaScriptSuite.options


class TestTexts(_Docker, TextSuite):
    pass


class TestTools(_Docker, ToolSuite):
    options: ClassVar[Mapping[str, Any]] = ToolSuite.options


class TestToolLimits(_Docker, ToolLimitSuite):
    options: ClassVar[Mapping[str, Any]] = ToolLimitSuite.options


class TestParking(_Docker, ParkSuite):
    options: ClassVar[Mapping[str, Any]] = ParkSuite.options


class TestHostileTools(_Docker, HostileToolSuite):
    options: ClassVar[Mapping[str, Any]] = HostileToolSuite.options


class TestFiles(_Docker, FileSuite):
    pass


class TestLimits(_Docker, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}


class TestShell(_Docker, ShellSuite):
    options: ClassVar[Mapping[str, Any]] = ShellSuite.options


class TestShellOfShellPools(_Docker, ShellSuite):
    options: ClassVar[Mapping[str, Any]] = {**ShellSuite.options, "container_type": "Shell"}


class TestShellOfNodePools(_Docker, ShellSuite):
    options: ClassVar[Mapping[str, Any]] = {**ShellSuite.options, "container_type": "NodeLTS"}


class TestShellPools(_Docker, ShellPoolSuite):
    options: ClassVar[Mapping[str, Any]] = ShellPoolSuite.options


class TestIsolation(_Docker, IsolationSuite):
    pass


class TestExecutionUnderGVisor(_GVisor, ExecutionSuite):
    pass


class TestCellsUnderGVisor(_GVisor, CellSuite):
    pass


_ONE_VICTIM = "the limit ends gVisor's kernel, and with it the sandbox: SandboxLost, and the next use begins anew"


class TestJavaScriptUnderGVisor(_GVisor, JavaScriptSuite):
    options: ClassVar[Mapping[str, Any]] = JavaScriptSuite.options
    known_differences: ClassVar[Mapping[str, str]] = {
        "test_memory_that_runs_out_ends_the_code_and_says_so": _ONE_VICTIM,
    }


class TestTextsUnderGVisor(_GVisor, TextSuite):
    pass


class TestToolsUnderGVisor(_GVisor, ToolSuite):
    options: ClassVar[Mapping[str, Any]] = ToolSuite.options


class TestParkingUnderGVisor(_GVisor, ParkSuite):
    options: ClassVar[Mapping[str, Any]] = ParkSuite.options


class TestHostileToolsUnderGVisor(_GVisor, HostileToolSuite):
    options: ClassVar[Mapping[str, Any]] = HostileToolSuite.options


class TestFilesUnderGVisor(_GVisor, FileSuite):
    pass


class TestLimitsUnderGVisor(_GVisor, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}
    known_differences: ClassVar[Mapping[str, str]] = {
        "test_memory_that_runs_out_ends_the_code_and_says_so": _ONE_VICTIM,
        "test_a_command_out_of_memory_fails_and_spares_the_variables": _ONE_VICTIM,
        # Each process takes about 25 MB of gVisor's own memory.
        "test_a_fork_bomb_ends_at_the_limit_of_processes": _ONE_VICTIM,
        "test_a_session_may_have_a_memory_of_its_own": "Debian 12's runsc cannot change the limits of a container",
    }


def test_a_session_starts_without_jedi() -> None:
    with engine_pool("docker:", preload=()) as pool, pool.session() as session:
        found = session.execute("import sys\n[name in sys.modules for name in ('jedi', 'IPython.core.completer')]")
        assert found.result == "[False, True]", "it completes code, which nobody does, and takes a sixth of a start"


def test_gvisor_refuses_a_process_and_keeps_running() -> None:
    with engine_pool("docker:?runtime=runsc", preload=(), pids=16, memory="1Gi") as pool:
        session = pool.session("many")
        assert session.execute(fork_bomb(20), timeout=60).stdout == "BlockingIOError True\n"
        assert session.execute("6 * 7", timeout=60).result == "42"


class TestShellUnderGVisor(_GVisor, ShellSuite):
    options: ClassVar[Mapping[str, Any]] = ShellSuite.options
    known_differences: ClassVar[Mapping[str, str]] = {
        "test_a_shell_gains_no_privileges": "gVisor's /proc says nothing of it; the attacks try it",
    }


class TestShellOfShellPoolsUnderGVisor(TestShellUnderGVisor):
    options: ClassVar[Mapping[str, Any]] = {**TestShellUnderGVisor.options, "container_type": "Shell"}


class TestShellPoolsUnderGVisor(_GVisor, ShellPoolSuite):
    options: ClassVar[Mapping[str, Any]] = ShellPoolSuite.options


class TestIsolationUnderGVisor(_GVisor, IsolationSuite):
    pass


_COUNTED_APART = (
    {}
    if Path("/sys/fs/cgroup/cgroup.controllers").exists()
    else dict.fromkeys(
        ("test_buffers_of_sockets_count_as_memory[TCP]", "test_buffers_of_sockets_count_as_memory[UDP]"),
        "version 1 of control groups counts these buffers apart, and runc sets no limit on them",
    )
)


class TestAttacks(_Docker, AttackSuite):
    options: ClassVar[Mapping[str, Any]] = AttackSuite.options
    known_differences: ClassVar[Mapping[str, str]] = {**AttackSuite.shared_by_the_kernel, **_COUNTED_APART}


class TestAttacksFromAShell(_Docker, ShellAttackSuite):
    options: ClassVar[Mapping[str, Any]] = ShellAttackSuite.options
    known_differences: ClassVar[Mapping[str, str]] = ShellAttackSuite.programs_end


class TestAttacksUnderGVisor(_GVisor, AttackSuite):
    options: ClassVar[Mapping[str, Any]] = {**AttackSuite.options, "memory": "512Mi"}  # gVisor's kernel takes some
    known_differences: ClassVar[Mapping[str, str]] = {
        **{
            f"test_process_1_hides[{name}]": "gVisor tells what process 1 has, and opens none of its pipes"
            for name in ("environ", "maps", "smaps", "auxv", "fd/0", "fd/1", "fd/3", "fd/4", "fd/5", "task/1/environ")
        },
        "test_only_descriptors_of_the_sandbox_are_open": "gVisor tells of the session's directory that process 1 has",
        "test_every_process_is_without_privileges_for_good": "process 1 is root, of gVisor's own kernel",
        **dict.fromkeys(
            (
                "test_there_are_no_devices_but_the_ordinary",
                "test_a_device_cannot_be_opened[fuse]",
                "test_a_device_cannot_be_opened[net/tun]",
                "test_a_system_call_is_refused[mknod of a block device]",
                "test_a_system_call_is_refused[mknodat of a block device]",
                "test_a_system_call_is_refused[mknodat of the memory]",
            ),
            "the devices are gVisor's own, and lead nowhere",
        ),
        **dict.fromkeys(
            (
                "test_a_system_call_is_refused[prctl raises an ambient capability]",
                "test_a_system_call_is_refused[prctl sets the secure bits]",
                "test_a_system_call_is_refused[setxattr of a file's capabilities]",
            ),
            "gVisor does not know it, and answers with another error",
        ),
        "test_a_process_schedules_limits_and_signals_itself_and_its_children": "gVisor knows no SCHED_BATCH",
    }
