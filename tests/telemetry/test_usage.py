"""What sessions use: integrated from samples, and measured by the engines."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.core.virtual_time import in_virtual_time
from tests.server.served import listening

import greenroom
from greenroom import SessionPool, UsageSource
from greenroom.engines.base import ControlGroups, Resources
from greenroom.engines.bubblewrap import cgroups
from greenroom.engines.measuring import Gauge, of_group, of_processes
from greenroom.errors import InvalidRequest
from greenroom.local.metering import Meter, Metering
from greenroom.testing import engine_pool
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

GROUPS = UsageSource.CONTROL_GROUPS
BURN = "import time\nuntil = time.process_time() + 0.5\nwhile time.process_time() < until: pass"
FORK = f"""
import os, sys
if os.fork() == 0:
    exec({BURN!r})
    os._exit(0)
os.wait()
print(1, flush=True)
sys.stdin.read()
"""


class Scripted:
    """An instance with the resources of a test."""

    sampling_interval = 1.0
    node_share: float | None = None

    def __init__(self) -> None:
        self.now: Resources | None = None
        self.read = 0

    async def resources(self) -> Resources | None:
        self.read += 1
        return self.now


def test_memory_is_integrated_between_samples() -> None:
    meter = Meter(began=0, allocated=10)
    meter.take(Resources(GROUPS, cpu=1, memory=100), 20)  # as much since its beginning
    meter.take(Resources(GROUPS, cpu=2, memory=300, peak=900), 30)
    usage = meter.usage(40)  # and as much until now
    assert usage.memory_time == 20 * 100 + 10 * 200 + 10 * 300
    assert (usage.cpu, usage.peak_memory, usage.wall, usage.source) == (2, 900, 30, GROUPS)


def test_an_ended_sandbox_adds_its_processors_and_no_memory() -> None:
    meter = Meter(began=0, allocated=0)
    meter.take(Resources(GROUPS, cpu=1, memory=100), 10)
    meter.take(Resources(GROUPS, cpu=1.5, memory=0), 11, ended=True)
    usage = meter.usage(10)
    assert (usage.cpu, usage.memory_time) == (1.5, 1000)


async def test_a_pool_adds_up_its_sessions_and_its_spare_sandboxes() -> None:
    metering = Metering(asyncio.get_running_loop().time)
    instances = [Scripted() for _ in range(3)]
    for number, instance in enumerate(instances):
        metering.start(number, instance, asyncio.get_running_loop().time())
        instance.now = Resources(GROUPS, cpu=number + 1, memory=1000)
    metering.allocate(0, "first")
    metering.allocate(1, "second")
    begun = metering.begin("first")
    assert begun is not None
    metering.complete(begun)
    await metering.before_end(0)
    first = await metering.end(0, "first")
    assert (first.cpu, first.executions) == (1, 1)
    assert await metering.session("first") == first
    second = await metering.session("second")
    assert second is not None
    assert second.cpu == 2
    await metering.before_end(2)
    await metering.end(2, None)
    total = metering.pool()
    assert (total.sessions, total.cpu, total.spare_cpu, total.executions) == (2, 3, 3, 1)
    assert (total.memory, total.unmeasured, total.source) == (1000, 0, GROUPS)
    assert await metering.session("third") is None
    await metering.close()


async def test_usage_without_measurements_is_unknown_and_not_zero() -> None:
    metering = Metering(asyncio.get_running_loop().time)
    metering.start(0, Scripted(), asyncio.get_running_loop().time())
    metering.allocate(0, "session")
    usage = await metering.session("session")
    assert usage is not None
    assert (usage.source, usage.cpu, usage.memory_time, usage.peak_memory) == (UsageSource.NONE, None, None, None)
    assert metering.pool().unmeasured == 1
    await metering.close()


async def test_an_engine_that_cannot_measure_still_ends_its_sandboxes(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Scripted):
        async def resources(self) -> Resources | None:
            raise RuntimeError("the engine's own")

    metering = Metering(asyncio.get_running_loop().time)
    metering.start(0, Broken(), asyncio.get_running_loop().time())
    metering.allocate(0, "session")
    await metering.before_end(0)
    assert (await metering.end(0, "session")).source is UsageSource.NONE
    assert "cannot be read" in caplog.text
    await metering.close()


async def test_slow_measurements_are_not_taken_at_the_end() -> None:
    instance = Scripted()
    instance.sampling_interval = 10.0
    metering = Metering(asyncio.get_running_loop().time)
    metering.start(0, instance, asyncio.get_running_loop().time())
    metering.allocate(0, "session")
    instance.now = Resources(GROUPS, cpu=1, memory=100)
    await metering.before_end(0)  # nothing else is known of it
    instance.now = Resources(GROUPS, cpu=2, memory=1000)
    await metering.before_end(0)
    usage = await metering.end(0, "session")
    assert (usage.cpu, usage.peak_memory) == (2, 100)
    await metering.close()


@in_virtual_time
async def test_memory_is_sampled_while_an_execution_runs_and_not_for_longer() -> None:
    instance = Scripted()
    metering = Metering(asyncio.get_running_loop().time)
    metering.start(0, instance, asyncio.get_running_loop().time())
    metering.allocate(0, "session")
    instance.now = Resources(GROUPS, cpu=0, memory=0)
    entry = metering.begin("session")
    assert entry is not None
    for second in range(100):
        instance.now = Resources(GROUPS, cpu=second, memory=second)
        await asyncio.sleep(1)
    metering.complete(entry)
    await asyncio.sleep(1)
    usage = await metering.session("session")
    assert usage is not None
    assert usage.memory_time == pytest.approx(100 * 50, rel=0.1)
    read = instance.read
    await asyncio.sleep(1000)
    assert instance.read <= read + 1
    await metering.close()


async def test_the_usage_of_ended_sessions_is_kept_for_a_bounded_number() -> None:
    metering = Metering(asyncio.get_running_loop().time)
    for number in range(1500):
        metering.start(number, Scripted(), 0)
        metering.allocate(number, f"session-{number}")
        await metering.end(number, f"session-{number}")
    assert await metering.session("session-0") is None
    assert await metering.session("session-1499") is not None
    assert metering.pool().sessions == 1500
    await metering.close()


def test_groups_of_either_version_are_read(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert of_group([tmp_path]) == Resources(GROUPS, 1.5, 100)
    (tmp_path / "memory.peak").write_text("300\n")
    assert of_group([tmp_path]) == Resources(GROUPS, 1.5, 100, 300)
    one, other = tmp_path / "cpuacct", tmp_path / "memory"
    one.mkdir()
    other.mkdir()
    (one / "cpuacct.usage").write_text("2500000000\n")
    (other / "memory.usage_in_bytes").write_text("7\n")
    (other / "memory.max_usage_in_bytes").write_text("9\n")
    assert of_group([other, one]) == Resources(GROUPS, 2.5, 7, 9)
    assert of_group([tmp_path / "gone"]) is None


async def test_processes_are_counted_with_those_below_them() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORK, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    found = of_processes(process.pid)
    assert found is not None
    assert found.source is UsageSource.PROCESSES
    assert found.cpu >= 0.4
    assert found.memory > 1 << 20
    await process.communicate(b"")
    assert of_processes(process.pid) is None


@pytest.fixture(scope="module", params=["bubblewrap:", "docker:"])
def pool(request: pytest.FixtureRequest) -> Iterator[SessionPool]:
    with engine_pool(request.param, preload=(), ready_session_instances=0) as pool:
        yield pool


def test_a_session_reports_its_usage_even_after_its_end(pool: SessionPool) -> None:
    session = pool.session()
    assert session.usage() is None
    session.execute(BURN).raise_for_error()
    session.upload(b"12345", "a.txt")
    before = session.usage()
    assert before is not None
    assert before.source in UsageSource
    assert before.source is not UsageSource.NONE
    assert before.cpu is not None
    assert before.cpu >= 0.4
    assert (before.executions, before.uploaded, before.downloaded) == (1, 5, 0)
    session.delete()
    after = session.usage()
    assert after is not None
    assert after.cpu is not None
    assert after.cpu >= before.cpu
    assert after.memory_time is not None
    assert after.memory_time >= 1 << 20  # a megabyte for a second
    assert after.peak_memory is not None
    assert after.peak_memory > 1 << 20
    assert pool.usage().cpu >= after.cpu


HOARD = "block = bytearray(200 << 20)\ndel block"


def test_an_execution_reports_its_usage(pool: SessionPool) -> None:
    with pool.session() as session:
        first, burned, hoarded, last = (session.execute(code) for code in ("1", BURN, HOARD, "1"))
        listed = session.shell("true")
        usage = session.usage()
    if first.usage_source is UsageSource.NONE:
        pytest.skip("needs control groups")
    assert burned.cpu is not None
    assert burned.cpu >= 0.4
    assert last.cpu is not None
    assert last.cpu < 0.4
    assert None not in {first.cpu, listed.cpu}
    if hoarded.peak_memory is None:
        pytest.skip("needs a kernel that resets the maximum")
    assert hoarded.peak_memory > 200 << 20
    assert usage is not None
    assert usage.peak_memory is not None
    assert usage.peak_memory >= hoarded.peak_memory  # though the kernel's own maximum has been reset
    if last.peak_memory is not None:  # gVisor gives memory back later
        assert last.peak_memory < 200 << 20


def test_the_usage_of_an_execution_is_returned_over_http() -> None:
    with (
        skipping_without("bubblewrap:"),
        serving("bubblewrap:", ready_session_instances=0, preload=()) as url,
        greenroom.connect(url) as pool,
        pool.session() as session,
    ):
        execution = session.execute(BURN)
        usage = session.usage()
    assert usage is not None
    if usage.source is not GROUPS:
        pytest.skip("needs control groups")
    assert execution.usage_source is GROUPS
    assert execution.cpu is not None
    assert execution.cpu >= 0.4
    assert execution.peak_memory is not None
    assert (usage.session_hours, usage.node_hours) == (1, 0)


def test_a_gauge_reads_groups_of_either_version(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    (one / "cpuacct.usage").write_text("2500000000\n")
    (one / "memory.max_usage_in_bytes").write_text("900\n")
    (two / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (two / "memory.peak").write_text("300\n")
    for directory, seconds, peak, maximum in (
        (one, 2.5, 900, "memory.max_usage_in_bytes"),
        (two, 1.5, 300, "memory.peak"),
    ):
        gauge = Gauge([directory])
        assert (gauge.cpu(), gauge.highest) == (seconds, peak)
        (directory / maximum).write_text("100\n")
        assert (gauge.take_peak(), gauge.highest) == (100, peak)
        gauge.close()
        assert (gauge.cpu(), gauge.take_peak()) == (None, None)
    gauge = Gauge([tmp_path / "gone"])
    assert (gauge.cpu(), gauge.take_peak()) == (None, None)
    gauge.close()


def test_a_maximum_that_cannot_be_reset_is_reported_when_it_rises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "as before Linux 6.12")

    monkeypatch.setattr("greenroom.engines.measuring.os.pwrite", refuse)
    (tmp_path / "cpu.stat").write_text("usage_usec 1\n")
    (tmp_path / "memory.peak").write_text("300\n")
    gauge = Gauge([tmp_path])
    assert gauge.take_peak() is None
    (tmp_path / "memory.peak").write_text("400\n")
    assert gauge.take_peak() == 400
    assert gauge.take_peak() is None
    gauge.close()


def test_a_process_short_of_descriptors_spends_none_on_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1\n")
    monkeypatch.setattr("greenroom.engines.measuring._most_descriptors", lambda: 0)
    gauge = Gauge([tmp_path])
    assert gauge.cpu() is None
    gauge.close()


def test_the_reported_usage_is_what_the_kernel_counts(request: pytest.FixtureRequest) -> None:
    """The sum over sessions is that of their groups' parent, read once they are gone."""
    hierarchy = cgroups.find()
    if hierarchy is None or hierarchy.version is not ControlGroups.VERSION_1:
        pytest.skip("needs control groups of version 1, whose parents count what is gone")
    own = Path("/sys/fs/cgroup/cpuacct") / f"greenroom-test-{id(request):x}"
    own.mkdir()
    counted = cgroups.Hierarchy({**hierarchy.parents, "cpuacct": own})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cgroups, "find", lambda: counted)
            with engine_pool("bubblewrap:", preload=(), ready_session_instances=0) as pool:
                for number in range(6):
                    with pool.session() as session:
                        session.execute(BURN if number % 2 else "1").raise_for_error()
                usage = pool.usage()
        total = int((own / "cpuacct.usage").read_text()) / 1e9
        assert usage.sessions == 6
        assert usage.cpu + usage.spare_cpu == pytest.approx(total, rel=0.02)
    finally:
        own.rmdir()


def test_without_control_groups_there_is_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "find", lambda: None)
    with engine_pool("bubblewrap:", preload=(), ready_session_instances=0) as pool:
        with pool.session() as session:
            session.execute(BURN).raise_for_error()
            usage = session.usage()
            assert usage is not None
            assert usage.source is UsageSource.PROCESSES
            assert usage.cpu is not None
            assert usage.cpu >= 0.4
        assert pool.usage().cpu >= 0.4


def test_where_docker_is_remote_its_statistics_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_process: int, _name: str) -> tuple[Path, ...]:
        return ()

    monkeypatch.setattr("greenroom.engines.docker.measuring.groups_of", nowhere)
    with engine_pool("docker:", preload=(), ready_session_instances=0) as pool:
        with pool.session() as session:
            session.execute(BURN).raise_for_error()
            usage = session.usage()
            assert usage is not None
            assert usage.source is UsageSource.DOCKER
            assert usage.cpu is not None
            assert usage.cpu >= 0.4
            assert usage.memory_time is not None
        assert session.usage() is not None
        assert pool.usage().source is UsageSource.DOCKER


async def test_a_server_reports_the_usage_of_its_sessions() -> None:
    async with listening() as server, greenroom.aconnect(server.url) as pool:
        session = pool.session()
        assert await session.ausage() is None
        await session.aexecute("1")
        usage = await session.ausage()
        assert usage is not None
        assert (usage.executions, usage.source) == (1, UsageSource.NONE)  # the engine in memory measures nothing
        total = await pool.ausage()
        assert (total.sessions, total.executions, total.unmeasured) == (1, 1, 1)


async def test_a_pool_in_azure_does_not_report_usage() -> None:
    async with listening() as server, greenroom.aconnect(server.url, api_version="2025-10-02-preview") as pool:
        with pytest.raises(InvalidRequest, match="does not report it"):
            await pool.session().ausage()
        with pytest.raises(InvalidRequest, match="does not report it"):
            await pool.ausage()
