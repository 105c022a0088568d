"""Where the core spends the time of `1+1`: `python -m benchmarks.profiles`, and the last part of `benchmarks.speed`.

The kernel reports the processor time of each process. Then a profiler, which makes everything slower, attributes the
time of the host's event loop and of the worker to the packages of their functions.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.comparison.measuring import processes

import greenroom

_ROUNDS = 1000
_MOST = 8  # rows of a profile
_BEGIN = "import cProfile, time\nprofiler = cProfile.Profile(time.thread_time)\nprofiler.enable()"
_END = (
    "profiler.disable()\nimport json, pstats\n"
    "print(json.dumps([[*place, values[2]] for place, values in pstats.Stats(profiler).stats.items()]))"
)


def table(url: str) -> Iterator[str]:
    """Yield the lines of the tables, in Markdown."""
    yield f"| processor time of `1+1` in the core, mean of {_ROUNDS:,} | µs |"
    yield "|---|---:|"
    with greenroom.connect(url, ready_session_instances=0, preload=()) as pool, pool.session() as session:
        _repeat(session)
        before = _times()
        _repeat(session)
        spent = {name: (value - before[name]) / _ROUNDS for name, value in _times().items()}
        for name, value in spent.items():
            yield f"| {name} | {value / 1000:,.0f} |"
        session.execute(_BEGIN).raise_for_error()
        _repeat(session)
        places: list[Any] = json.loads(session.execute(_END).raise_for_error().stdout)
        yield from _profile("the worker", [((file, line, name), spent) for file, line, name, spent in places])
    profiler = cProfile.Profile(time.thread_time)

    def begin(frame: FrameType, event: str, argument: object) -> None:
        """Profile only the next thread: that of the pool's event loop."""
        del frame, event, argument
        threading.setprofile(None)
        profiler.enable()

    threading.setprofile(begin)
    with greenroom.connect(url, ready_session_instances=0, preload=()) as pool, pool.session() as session:
        _repeat(session)
    stats: Any = pstats.Stats(profiler)
    yield from _profile("the host's event loop", [(place, values[2]) for place, values in stats.stats.items()])


def _repeat(session: greenroom.Session) -> None:
    for _ in range(_ROUNDS):
        session.execute("1+1")


def _times() -> dict[str, int]:
    """Return the nanoseconds of processor time that each process of one session has used."""
    times = Counter({"the host": _time(os.getpid())})
    for process in processes():
        status = Path(f"/proc/{process}/status").read_text()
        (numbers,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        if len(numbers) > 1:  # it is in a separate namespace
            times["the supervisor" if numbers[-1] == "1" else "the worker"] += _time(process)
    return dict(times)


def _time(process: int) -> int:
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads)


def _profile(whose: str, places: list[tuple[tuple[str, int, str], float]]) -> Iterator[str]:
    """Yield the shares by package or module, without waiting time."""
    shares: dict[str, float] = defaultdict(float)
    for (file, _, name), spent in places:
        if not any(word in name for word in ("'poll'", "'select'", "'acquire'", "posix.read", "'recv'")):
            shares[_owner(file, name)] += spent
    total = sum(shares.values())
    yield ""
    yield f"| profile of {whose} | share |"
    yield "|---|---:|"
    for owner, spent in sorted(shares.items(), key=lambda item: -item[1])[:_MOST]:
        yield f"| {owner} | {100 * spent / total:.0f} % |"


def _owner(file: str, name: str) -> str:
    """Return the package or module of a function; for a C function, its name."""
    if file == "~":
        return f"`{name.strip('<>').removeprefix('built-in method ').removeprefix('method ')}`"
    path = Path(file)
    for package in ("IPython", "traitlets", "greenroom", "greenroom_runner", "asyncio"):
        if package in path.parts:
            return package.removesuffix("_runner")
    return path.parent.name if path.stem == "__init__" else path.stem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", nargs="?", default="bubblewrap:", metavar="POOL")
    for line in table(parser.parse_args().pool):
        print(line)


if __name__ == "__main__":
    main()
