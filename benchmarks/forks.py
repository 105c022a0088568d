"""How fast sandboxes are forked, compared with an import of pandas on the host, and what many of them cost.

    python benchmarks/forks.py [--sessions 1 100 1000]

The import and the starts alternate, so that other work on the machine affects both. Memory is the proportional share
of resident pages (PSS) of all processes in sandboxes, including the template, while all sessions have pandas loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import greenroom

PANDAS = "import pandas as pd\npd.DataFrame({'a': [1, 2, 3]}).a.sum()"
IMPORT = [sys.executable, "-c", "import pandas"]


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def starts(rounds: int, url: str) -> tuple[list[float], list[float], list[float]]:
    """Seconds to a new session's first result, to its first pandas result, and to import pandas on the host."""
    first: list[float] = []
    pandas: list[float] = []
    imports: list[float] = []
    with greenroom.connect(url, ready_session_instances=0) as pool:
        for _ in range(5):  # the first ones are forked before the template has imported its modules
            with pool.session() as session:
                session.execute(PANDAS).raise_for_error()
        for _ in range(rounds):
            imports.append(seconds(lambda: subprocess.run(IMPORT, check=True)))
            for times, code in ((first, "1"), (pandas, PANDAS)):
                session = pool.session()
                times.append(seconds(lambda session=session, code=code: session.execute(code).raise_for_error()))
                session.delete()
    return first, pandas, imports


def memory(count: int, url: str) -> tuple[float, float]:
    """Megabytes of all sandboxes, and seconds to open, use and close them."""
    with greenroom.connect(url, ready_session_instances=0, max_concurrent_sessions=count + 1) as pool:
        for _ in range(3):
            with pool.session() as session:
                session.execute(PANDAS).raise_for_error()
        began = time.perf_counter()
        for _ in range(count):
            pool.session().execute(PANDAS).raise_for_error()
        return pss(), time.perf_counter() - began


def pss() -> float:
    """Megabytes of the processes below this one."""
    total = 0
    for process in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def descendants(process: int) -> list[int]:
    """Return the descendants of a process."""
    found: list[int] = []
    waiting = [process]
    while waiting:
        try:
            for thread in Path(f"/proc/{waiting.pop()}/task").iterdir():
                children = [int(child) for child in (thread / "children").read_text().split()]
                found += children
                waiting += children
        except OSError:  # it has ended
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 100])
    arguments = parser.parse_args()
    for url in ("bubblewrap:", "bubblewrap:?fork=off"):
        first, pandas, imports = starts(arguments.rounds, url)
        compared = median(imports)
        for what, times in (("a new session's first result", first), ("its first result of pandas", pandas)):
            print(f"{url:22} {what:30} {median(times) * 1e3:7.1f} ms, {median(times) / compared:.3f} of an import")
        print(f"{'':22} {'an import of pandas on the host':30} {compared * 1e3:7.1f} ms")
    for count in arguments.sessions:
        megabytes, took = memory(count, "bubblewrap:")
        print(
            f"{count:6} sessions with pandas: {megabytes:8.1f} MB together, opened and used in {took:.1f} s", flush=True
        )


if __name__ == "__main__":
    main()
