"""The cost of a thousand concurrent sessions, and a check that they leave nothing behind.

    python benchmarks/thousand.py [--sessions 1000] [--at-once 4]

Opens the requested number of bubblewrap sessions, with a data frame in each, keeps them all, uses each once more, and
closes them. It exits with code 1 if something is left behind: a process, a descriptor, a control group, a mount or a
namespace.

Memory is reported in three ways. The proportional share (PSS) is that of all processes in sandboxes, with each shared
page counted once. The kernel's memory (page tables, stacks, slabs, per-processor data) and the decrease of available
memory (MemAvailable) apply to the whole machine: they include namespaces and groups, and anything else that runs.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from forks import PANDAS, descendants, pss

import greenroom
from greenroom import Session, SessionPool

_AGAIN = "pd.DataFrame({'a': [1, 2, 3]}).a.sum()"
_WARM_UPS = 6  # sessions until all are forked from a template that has imported its modules
_SETTLED = 30.0  # seconds for the kernel to remove what has ended
_GROUPS = Path("/sys/fs/cgroup")
_OF_THE_KERNEL = ("KernelStack", "PageTables", "Percpu", "SUnreclaim")


class Kept(NamedTuple):
    """The system resources that this process holds."""

    processes: int
    descriptors: int
    groups: int
    mounts: int
    namespaces: int


def kept() -> Kept:
    """Count the resources of this process and its descendants."""
    gc.collect()
    below = descendants(os.getpid())
    own = re.compile(rf"greenroom-\w+-{os.getpid()}-[^/]+$")
    return Kept(
        processes=len(below),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        groups=sum(bool(own.search(place)) for place, _, _ in os.walk(_GROUPS)),
        mounts=sum("docker" not in mount for mount in Path("/proc/self/mountinfo").read_text().splitlines()),
        namespaces=len({namespace for process in below for namespace in _namespaces(process)}),
    )


def machine() -> tuple[float, float]:
    """Return the megabytes available to programs on this machine, and those that its kernel is using."""
    lines = [line.replace(":", "").split() for line in Path("/proc/meminfo").read_text().splitlines()]
    figures = {name: int(value) / 1024 for name, value, *_ in lines}
    return figures["MemAvailable"], sum(figures.get(name, 0) for name in _OF_THE_KERNEL)


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_sessions(pool: SessionPool, count: int, at_once: int) -> list[Session]:
    """Open sessions, and use pandas in each."""

    def open_one(number: int) -> Session:
        session = pool.session(f"one-of-many-{number:05}")
        session.execute(PANDAS).raise_for_error()
        return session

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(open_one, range(count)))


def use_again(session: Session) -> str | None:
    return session.execute(_AGAIN).raise_for_error().result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=4, help="calls at the same time")
    arguments = parser.parse_args()
    count: int = arguments.sessions
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the usual 1,024 are too few
    with greenroom.connect(
        "bubblewrap:", max_concurrent_sessions=count, ready_session_instances=0, acquire_timeout=600
    ) as pool:
        for _ in range(_WARM_UPS):
            with pool.session() as session:
                session.execute(PANDAS).raise_for_error()
        before, memory, (left, kernel), own = kept(), pss(), machine(), resident()
        print(f"before:   {before}, {memory:,.0f} MB of PSS", flush=True)

        began = time.perf_counter()
        sessions = open_sessions(pool, count, arguments.at_once)
        took = time.perf_counter() - began
        total, (left_now, kernel_now) = pss(), machine()
        print(f"open:     {kept()}, {total:,.0f} MB of PSS")
        print(f"          {count} sessions with pandas opened in {took:.1f} s: {took / count * 1e3:.1f} ms each")
        print(f"          PSS          {(total - memory) / count:6.2f} MB each, {total:9,.0f} MB with the template")
        print(f"          kernel       {(kernel_now - kernel) / count:6.2f} MB each, {kernel_now - kernel:9,.0f} MB")
        print(f"          MemAvailable {(left - left_now) / count:6.2f} MB each, {left - left_now:9,.0f} MB less")
        print(f"          this process {(resident() - own) / count:6.2f} MB each", flush=True)

        with ThreadPoolExecutor(arguments.at_once) as threads:
            began = time.perf_counter()
            results = set(threads.map(use_again, sessions))
            used = time.perf_counter() - began
            began = time.perf_counter()
            list(threads.map(Session.delete, sessions))
            closed = time.perf_counter() - began
        print(f"          all used again in {used:.1f} s with the results {results}")
        print(f"          closed in {closed:.1f} s", flush=True)

        until = time.monotonic() + _SETTLED
        while (after := kept()) != before and time.monotonic() < until:
            time.sleep(0.1)
        print(f"after:    {after}, {pss():,.0f} MB of PSS, this process has {resident() - own:,.1f} MB more")
    if after != before:
        sys.exit("Something is left.")


def _namespaces(process: int) -> list[str]:
    try:
        return [os.readlink(place) for place in Path(f"/proc/{process}/ns").iterdir()]  # noqa: PTH115  a name, not a path
    except OSError:
        return []


if __name__ == "__main__":
    main()
