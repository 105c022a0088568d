"""Control groups version 2: where the groups of sandboxes are, and that their limits stay."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.waiting import within

from greenroom import InvalidRequest
from greenroom.engines import measuring, owner
from greenroom.engines.bubblewrap import cgroups
from greenroom.testing import engine_pool

MIB = 1 << 20
MOUNT = Path("/sys/fs/cgroup")
OPTIONS = {"memory": "512Mi", "cpu": 0.5, "pids": 77, "preload": (), "ready_session_instances": 0}
LIMITS = {
    "memory.max": str(512 * MIB),
    "memory.high": "max",
    "memory.oom.group": "0",
    "cpu.max": "50000 100000",
    "pids.max": "77",
}

pytestmark = pytest.mark.skipif(
    not (MOUNT / "cgroup.controllers").exists() or cgroups.find() is None,
    reason="This machine has no control groups version 2 in which this user may make others; `make test-cgroups2` has.",
)


def own() -> Path:
    return MOUNT / Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")


def group_of_the_sandbox() -> Path:
    """The group of the only sandbox of this process."""
    [found] = MOUNT.glob(f"**/greenroom-{owner.mark()}-*")
    return found


def read(group: Path, *names: str) -> dict[str, str]:
    return {name: (group / name).read_text().strip() for name in names if (group / name).exists()}


def test_a_sandbox_is_in_a_group_with_all_its_limits(record_property: Callable[[str, object], None]) -> None:
    with engine_pool("bubblewrap:", **OPTIONS) as pool, pool.session() as session:
        session.execute("1").raise_for_error()
        group = group_of_the_sandbox()
        assert read(group, *LIMITS) == LIMITS
        assert read(group, "memory.swap.max").get("memory.swap.max", "0") == "0"
        inside = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in (group / "cgroup.procs").read_text().split()}
        assert len(inside) > 0
        record_property("limits", json.dumps(read(group, *LIMITS, "memory.swap.max")))
        record_property("place", str(group.parent.relative_to(MOUNT)))
    assert not group.exists()


def test_limits_stay_when_systemd_takes_controllers_away() -> None:
    """A unit that needs a controller and ends is what makes systemd set the controllers of its groups again."""
    user = [] if os.geteuid() == 0 else ["--user"]
    passing = ["systemd-run", *user, "--quiet", "--wait", "--property=CPUWeight=50", "--property=IOWeight=50", "true"]
    with engine_pool("bubblewrap:", **OPTIONS) as pool, pool.session() as session:
        session.execute("1").raise_for_error()
        if "XDG_RUNTIME_DIR" in os.environ or not user:
            subprocess.run(passing, check=True)
            subprocess.run(["systemctl", *user, "daemon-reload"], check=True)
        assert read(group_of_the_sandbox(), *LIMITS) == LIMITS


def test_many_engines_of_one_process_share_a_place() -> None:
    places = [cgroups.find() for _ in range(3)]
    assert places[0] is not None
    assert places == [places[0]] * 3


def test_the_process_is_not_among_the_sandboxes() -> None:
    hierarchy = cgroups.find()
    assert hierarchy is not None
    assert not any(own().is_relative_to(parent) for parent in hierarchy.parents.values())


def test_a_memory_limit_below_current_use_is_refused_and_ends_nothing() -> None:
    with engine_pool("bubblewrap:", **OPTIONS) as pool:
        pool.session("same").execute("x = b'x' * (150 << 20)").raise_for_error()
        with pytest.raises(InvalidRequest, match="memory limit cannot be set to"):
            pool.session("same", memory="128Mi").execute("1")
        assert pool.session("same", memory="256Mi").execute("len(x) >> 20").result == "150"
        group = group_of_the_sandbox()
        assert read(group, "memory.max", "memory.high") == {"memory.max": str(256 * MIB), "memory.high": "max"}


def test_running_out_of_memory_ends_the_code_and_not_its_supervisor() -> None:
    with engine_pool("bubblewrap:", **OPTIONS) as pool, pool.session() as session:
        session.execute("1").raise_for_error()
        group = group_of_the_sandbox()
        error = session.execute("x = b'x' * (1 << 30)").error
        assert error is not None
        assert error.name == "MemoryError"
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        assert int(events["oom_kill"]) >= 1
        assert group_of_the_sandbox() == group, "the sandbox is the same"
        assert session.execute("6 * 7").result == "42"


def test_an_idle_session_is_frozen_and_continues() -> None:
    with engine_pool("bubblewrap:", idle_after=0.5, **OPTIONS) as pool, pool.session() as session:
        session.execute("x = 1").raise_for_error()
        group = group_of_the_sandbox()
        assert within(60, lambda: "frozen 1" in (group / "cgroup.events").read_text())
        assert session.execute("x").result == "1"


@pytest.mark.skipif(measuring.swap_left() < 200 * MIB, reason="This machine has no swap; `make test-cgroups2` has.")
def test_the_memory_of_a_frozen_session_moves_to_swap_and_comes_back() -> None:
    with engine_pool("bubblewrap:", idle_after=0.5, **OPTIONS) as pool, pool.session() as session:
        session.execute("import os; x = os.urandom(100 << 20); y = hash(x)").raise_for_error()
        group = group_of_the_sandbox()
        current = int((group / "memory.current").read_text())
        assert within(60, lambda: int((group / "memory.current").read_text()) < current // 2)
        assert int((group / "memory.swap.current").read_text()) > 50 * MIB
        assert session.execute("hash(x) == y and hash(bytes(x)) == y").result == "True"
        assert (group / "memory.swap.max").read_text() == "0\n"
