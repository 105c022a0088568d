"""How much memory is left: of a machine, of a container with either version of control groups, of neither."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.local.memory import Memory, read_memory

MIB = 1 << 20
GIB = 1 << 30
MACHINE = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total:  0\n"
STAT = (
    f"anon 1\nactive_file {60 * MIB}\ninactive_file {40 * MIB}\n"
    f"total_active_file {60 * MIB}\ntotal_inactive_file {40 * MIB}\n"
)


def machine(root: Path, groups: str = "", **files: str) -> Path:
    """A root with the files of a machine; names of further files have `__` in place of slashes."""
    write(root, "proc/meminfo", MACHINE)
    write(root, "proc/self/cgroup", groups)
    for name, text in files.items():
        write(root, name.replace("__", "/"), text)
    return root


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def group(root: Path, place: str, **files: str) -> None:
    for name, text in files.items():
        write(root, f"sys/fs/cgroup/{place}/{name.replace('_', '.', 1)}", text)


def test_a_machine_has_the_memory_that_its_kernel_reports_as_available(tmp_path: Path) -> None:
    assert read_memory(machine(tmp_path)) == Memory(16 * GIB, 8 * GIB)


def test_waiting_for_memory_counts_where_every_process_waits(tmp_path: Path) -> None:
    pressure = "some avg10=80.00 avg60=1.00 avg300=0.00 total=1\nfull avg10=12.50 avg60=0.00 avg300=0.00 total=1\n"
    root = machine(tmp_path, proc__pressure__memory=pressure)
    assert read_memory(root) == Memory(16 * GIB, 8 * GIB, 0.125)


def test_without_proc_memory_is_unknown(tmp_path: Path) -> None:
    assert read_memory(tmp_path) is None


def test_a_container_has_the_memory_that_its_group_leaves(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/\n")
    full = "some avg10=0 avg60=0 avg300=0 total=1\nfull avg10=30.00 avg60=0 avg300=0 total=1\n"
    group(root, "", memory_max=f"{GIB}\n", memory_current=f"{900 * MIB}\n", memory_stat=STAT, memory_pressure=full)
    assert read_memory(root) == Memory(GIB, 224 * MIB, 0.3), "files that are only cached can be dropped"


def test_the_tightest_group_above_the_process_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/service/host\n")
    group(root, "service/host", memory_max="max\n", memory_current="1\n")
    group(root, "service", memory_max=f"{2 * GIB}\n", memory_current=f"{2 * GIB}\n", memory_stat="")
    assert read_memory(root) == Memory(2 * GIB, 0)


def test_a_group_of_version_1_counts_its_children(tmp_path: Path) -> None:
    root = machine(tmp_path, "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n")
    files = {"memory.limit_in_bytes": GIB, "memory.usage_in_bytes": 600 * MIB}
    for name, number in files.items():
        write(root, f"sys/fs/cgroup/memory/{name}", f"{number}\n")  # the machine's path is not mounted in a container
    write(root, "sys/fs/cgroup/memory/memory.stat", STAT)
    assert read_memory(root) == Memory(GIB, 524 * MIB)


def test_a_limit_above_the_machines_memory_is_ignored(tmp_path: Path) -> None:
    root = machine(tmp_path, "4:memory:/\n")
    for name in ("memory.limit_in_bytes", "memory.usage_in_bytes"):
        write(root, f"sys/fs/cgroup/memory/{name}", "9223372036854771712\n")
    assert read_memory(root) == Memory(16 * GIB, 8 * GIB)


@pytest.mark.parametrize(
    "name", ["proc/meminfo", "proc/self/cgroup", "proc/pressure/memory", "sys/fs/cgroup/memory.max"]
)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["full avg10=nan", "full avg10=", "::"])
)
def test_no_file_of_the_kernel_is_taken_on_trust(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: str
) -> None:
    root = machine(tmp_path_factory.mktemp("root"), "0::/\n")
    group(root, "", memory_max=f"{GIB}\n", memory_current="1\n")
    write(root, name, text)
    found = read_memory(root)
    assert found is None or 0 <= found.available <= max(found.total, 8 * GIB)


def test_this_machine_has_available_memory() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("no /proc")
    found = read_memory()
    assert found is not None
    assert 0 <= found.available <= found.total
