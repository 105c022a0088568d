"""The control groups of bubblewrap sandboxes: killed as a whole, swept, and with a small share during the start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import within

from greenroom.engines.base import Limits
from greenroom.engines.bubblewrap import cgroups
from greenroom.testing import engine_pool

# Its child joins the group, stays, and ignores every signal it can.
_OWNER = """
import os, signal, sys, time
from greenroom.engines.bubblewrap import cgroups
from greenroom.engines.base import Limits
group = cgroups.find().create(Limits())
if os.fork() == 0:
    for members in group.members:
        members.write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), *group.directories, sep="\\n", flush=True)
    os.close(1)
    time.sleep(1000)
os.close(1)
time.sleep(1000)
"""


@pytest.fixture
def hierarchy() -> cgroups.Hierarchy:
    found = cgroups.find()
    if found is None:
        pytest.skip("This user may make no control groups here.")
    return found


@pytest.fixture
def owner(hierarchy: cgroups.Hierarchy) -> Iterator[subprocess.Popen[str]]:
    del hierarchy
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_sweep_kills_what_dead_owners_left_and_nothing_of_living_ones(
    hierarchy: cgroups.Hierarchy, owner: subprocess.Popen[str]
) -> None:
    assert owner.stdout is not None
    child, *directories = owner.stdout.read().split()
    hierarchy.sweep()
    assert Path("/proc", child).exists(), "its owner lives"
    owner.kill()
    owner.wait()
    assert hierarchy.sweep() == 1
    assert within(60, lambda: not Path("/proc", child).exists())
    assert not any(Path(directory).exists() for directory in directories)


def test_a_sandbox_that_starts_gives_way_until_its_first_use(hierarchy: cgroups.Hierarchy) -> None:
    group = hierarchy.create(Limits())

    def share() -> int:
        files = [directory / name for directory in group.directories for name in ("cpu.shares", "cpu.weight")]
        return next(int(file.read_text()) for file in files if file.exists())

    try:
        starting = share()
        group.take_full_share()
        assert share() > 10 * starting
    finally:
        group.remove()


def test_a_leased_sandbox_has_its_full_share(hierarchy: cgroups.Hierarchy) -> None:
    def shares() -> list[int]:
        own = hierarchy.parents["cpu"].glob(f"greenroom-*-{os.getpid()}-*")
        files = [group / name for group in own for name in ("cpu.shares", "cpu.weight")]
        return sorted(int(file.read_text()) for file in files if file.exists())

    # Forks start in milliseconds, and do not give way.
    with engine_pool("bubblewrap:?fork=off", ready_session_instances=1, preload=()) as pool, pool.session() as session:
        assert within(30, lambda: pool.status().ready == 1)
        session.execute("1").raise_for_error()
        assert within(60, lambda: len(shares()) >= 2 and shares()[-1] > 10 * shares()[0])
