"""Sessions that come and go through a pool that is always full, and what they leave behind meanwhile and afterwards.

As a program: `python -m tests.soak.churn bubblewrap: --pool 200 --sessions 100000 --minutes 60`.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.processes import containers, descendants

from greenroom import Session, SessionPool
from greenroom.engines.bubblewrap import cgroups
from greenroom.testing import engine_pool

WORKERS = 8
MOST_MEMORY = 16.0
"""Megabytes by which the host process may grow while sessions come and go."""
_SAMPLES = 60
_FEWEST = 3  # sessions per place in the pool, however slow the machine is
_SETTLED = 30.0  # seconds within which everything is gone after the pool is closed


@dataclass(frozen=True)
class Sample:
    """The resources of this process and its descendants at one moment."""

    memory: float
    """Megabytes of the host process."""
    threads: int
    descriptors: int
    processes: int
    namespaces: int
    groups: int
    mounts: int
    files: int
    """In the directory for temporary files."""
    containers: int


@dataclass
class Churn:
    """What was measured."""

    before: Sample
    during: list[Sample] = field(default_factory=list[Sample])
    after: Sample | None = None
    sessions: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.sessions / self.seconds

    def early_and_late(self, name: str) -> tuple[float, float]:
        """The medians of a figure when the pool had just been filled, and at the end."""
        values = [getattr(sample, name) for sample in self.during]
        third = max(1, len(values) // 3)
        return median(values[:third]), median(values[-third:])

    def faults(self) -> list[str]:
        """What has grown, or is left behind."""
        found: list[str] = []
        early, late = self.early_and_late("memory")
        if late > early + MOST_MEMORY:
            found.append(f"memory grew from {early:.0f} to {late:.0f} MB")
        for name in asdict(self.before).keys() - {"memory"}:
            early, late = self.early_and_late(name)
            if late > 1.2 * early + 10:
                found.append(f"{name} grew from {early:g} to {late:g}")
            before, after = getattr(self.before, name), getattr(self.after, name)
            if after > before:
                found.append(f"{after - before} {name} are left")
        return found


def take_sample() -> Sample:
    below = descendants(os.getpid())
    namespaces = {link for pid in below for link in _namespaces(pid)} - set(_namespaces(os.getpid()))
    statm = Path("/proc/self/statm").read_text().split()
    return Sample(
        memory=int(statm[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        threads=threading.active_count(),
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        processes=len(below),
        namespaces=len(namespaces),
        groups=_groups(),
        mounts=_mounts(),
        files=sum(1 for _ in Path(tempfile.gettempdir()).iterdir()),
        containers=len(containers(os.getpid())),
    )


def churn(engine: str, *, pool_size: int, sessions: int, seconds: float, **options: Any) -> Churn:
    """Open, use and close this many sessions, or as many as the time allows, in a pool that is full all the time."""
    engine_pool(engine, ready_session_instances=0).close()  # creates everything that is made once, such as a font cache
    gc.collect()
    measured = Churn(take_sample())
    lock, filled, ended = threading.Lock(), threading.Event(), threading.Event()
    begun = 0
    clock = time.monotonic

    def another() -> int | None:
        nonlocal begun
        with lock:
            if begun >= sessions or (clock() > until and begun >= _FEWEST * pool_size):
                return None
            begun += 1
            if begun > pool_size:
                filled.set()
            return begun

    def close(session: Session, number: int) -> None:
        with session:
            assert session.execute("number + 1", timeout=300).result == str(number + 1), "sessions are mixed up"
        with lock:
            measured.sessions += 1

    def work(_worker: int) -> None:
        held: deque[tuple[Session, int]] = deque()
        while (number := another()) is not None:
            session = pool.session()
            session.execute(f"number = {number}", timeout=300).raise_for_error()
            session.upload(b"x" * 10_000, "data.bin")
            held.append((session, number))
            if len(held) >= max(1, pool_size // WORKERS):
                close(*held.popleft())
        ended.set()  # from here on the pool empties
        while held:
            close(*held.popleft())

    def watch() -> None:
        filled.wait()
        while not ended.wait(max(1.0, seconds / _SAMPLES)):
            measured.during.append(take_sample())

    with engine_pool(engine, max_concurrent_sessions=pool_size, acquire_timeout=600, **options) as pool:
        began = clock()
        until = began + seconds
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(WORKERS) as threads:
                for worker in [threads.submit(work, number) for number in range(WORKERS)]:
                    worker.result()
        finally:
            filled.set()
            ended.set()
            watcher.join()
        measured.seconds = clock() - began
        _check(pool, measured.sessions)
    measured.after = _settled(measured.before)
    return measured


def _check(pool: SessionPool, sessions: int) -> None:
    status = pool.status()
    assert (status.idle, status.executing, status.waiting) == (0, 0, 0), status
    assert status.evictions["session deleted"] == sessions, status.evictions


def _settled(before: Sample) -> Sample:
    deadline = time.monotonic() + _SETTLED
    while True:
        gc.collect()
        sample = take_sample()
        left = any(getattr(sample, name) > getattr(before, name) for name in asdict(before).keys() - {"memory"})
        if not left or time.monotonic() > deadline:
            return sample
        time.sleep(0.2)


def _namespaces(process: int) -> list[str]:
    try:
        return [str(link.readlink()) for link in Path(f"/proc/{process}/ns").iterdir()]
    except OSError:
        return []


def _mounts() -> int:
    """The mounts of this process's namespace, without Docker's, which others can make and remove."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sum("docker" not in line and "containerd" not in line for line in lines)


def _groups() -> int:
    found = cgroups.find()
    parents = found.parents.values() if found is not None else ()
    return sum(1 for parent in set(parents) for _ in parent.glob(f"*-{os.getpid()}-*-*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        tempfile.tempdir = directory
        found = churn(given.engine, pool_size=given.pool, sessions=given.sessions, seconds=60 * given.minutes)
        tempfile.tempdir = None
    print(f"{found.sessions:,} sessions in {found.seconds:.0f} s: {found.rate:.1f} per second")
    for name in asdict(found.before):
        early, late = found.early_and_late(name)
        before, after = getattr(found.before, name), getattr(found.after, name)
        print(f"{name}: {before:g} before, {early:g} to {late:g} during, {after:g} after")
    if faults := found.faults():
        raise SystemExit("; ".join(faults))


if __name__ == "__main__":
    main()
