"""The cost of idle sessions: their memory, and the delay of the next call, awake and frozen.

    python benchmarks/idle.py bubblewrap: --sessions 20

As root, under version 2 of control groups, it makes a swap file for the duration of the run, to which the memory of
frozen sessions can move: their memory is measured before and after. Elsewhere only the delay is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from statistics import median, quantiles

import greenroom
from greenroom.config.options import PoolOptions
from greenroom.engines import measuring, owner
from greenroom.engines.bubblewrap import cgroups

IDLE_AFTER = 1.0
PREPARE = "import numpy, pandas; frame = pandas.DataFrame(numpy.random.rand(100_000, 10))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", default="bubblewrap:")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with swap(given.sessions * (150 << 20)):
        awake = measure(given.engine, given.sessions, given.rounds, idle_after=None)
        frozen = measure(given.engine, given.sessions, given.rounds, idle_after=IDLE_AFTER)
    print(f"{given.engine} {given.sessions} sessions with pandas and 8 MB of data, {given.rounds} rounds")
    for name, (delays, before, after) in {"awake": awake, "frozen": frozen}.items():
        p95 = quantiles(delays, n=20)[-1]
        memory = "" if before is None else f", memory per session {before:.0f} MB, after {after:.0f} MB"
        print(f"{name}: next call {median(delays):.1f} ms, 95th percentile {p95:.1f} ms{memory}")


def measure(
    engine: str, sessions: int, rounds: int, *, idle_after: float | None
) -> tuple[list[float], float | None, float | None]:
    """Return the delays of calls after a pause in milliseconds, and megabytes per session before and after it."""
    options: PoolOptions = {
        "max_concurrent_sessions": sessions,
        "ready_session_instances": 0,
        "acquire_timeout": 600,
        "idle_after": idle_after,
    }
    with greenroom.connect(engine, **options) as pool:
        opened = [pool.session() for _ in range(sessions)]
        for session in opened:
            session.execute(PREPARE, timeout=600).raise_for_error()
        before = memory_per_session(sessions)
        after: float | None = None
        delays: list[float] = []
        for _ in range(rounds):
            time.sleep(2 * IDLE_AFTER)
            while idle_after is not None and pool.status().frozen < sessions:
                time.sleep(0.1)
            wait_for_reclaim(sessions)
            after = memory_per_session(sessions) if after is None else after
            for session in opened:
                began = time.perf_counter()
                session.execute("float(frame.iloc[0, 0])").raise_for_error()
                delays.append((time.perf_counter() - began) * 1000)
    return delays, before, after


def groups() -> list[Path]:
    hierarchy = cgroups.find()
    found = hierarchy.parents["memory"].glob(f"*-{owner.mark()}-*") if hierarchy is not None else ()
    return [group for group in found if (group / "memory.reclaim").exists()]


def memory_per_session(sessions: int) -> float | None:
    """Megabytes, according to the control groups of version 2."""
    found = [int((group / "memory.current").read_text()) for group in groups()]
    return sum(found) / sessions / 2**20 if found else None


def wait_for_reclaim(sessions: int) -> None:
    """Wait until the memory has not decreased for two seconds."""
    before = memory_per_session(sessions)
    while before is not None:
        time.sleep(2)
        now = memory_per_session(sessions)
        if now is None or now > before - 0.5:
            return
        before = now


@contextlib.contextmanager
def swap(size: int) -> Generator[None]:
    """Make a swap file if it is useful here."""
    unified = (cgroups.MOUNT / "cgroup.controllers").exists()
    if os.geteuid() != 0 or not unified or measuring.swap_left() >= size:
        yield
        return
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.flush()
        subprocess.run(["mkswap", file.name], check=True, capture_output=True)
        subprocess.run(["swapon", file.name], check=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", file.name], check=True)


if __name__ == "__main__":
    main()
