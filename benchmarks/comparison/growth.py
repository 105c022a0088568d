"""How the price grows: with sessions, with output, with files, with cells in one session."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from benchmarks.comparison.contestants import Contestant, Greenroom, LeftOut, Peer
from benchmarks.comparison.measuring import available_memory, memory, processes, seconds, wait_until_idle

import greenroom

Points: TypeAlias = list[list[float | None]]
"""Rows of figures, the first of which is the size."""

Report: TypeAlias = Callable[[str], None]

SESSIONS = (1, 3, 10, 30, 100, 300, 1000)
OUTPUT = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 60_000_000)
FILES = (1 << 10, 1 << 15, 1 << 20, 1 << 25, 1 << 28, 1 << 30)
CELLS = (1, 10, 100, 1_000, 10_000)

_MARGIN = 2 << 30  # bytes of memory that stay free
_MOST_CONTAINERS = 100
_REPEATED_UP_TO = 10_000_000  # bytes; larger ones are measured once
_CELLS_TOGETHER = 50  # of one contestant, until it is the other's turn
_LINE = 100


def sessions(url: str, report: Report, largest: int, budget: float) -> Points:
    """Open ever more sessions with pandas; rows of their number, seconds and bytes for each one more.

    It ends early when the memory would not suffice, or after `budget` seconds.
    """
    points: Points = []
    ends = time.monotonic() + budget
    others = processes()
    with (
        greenroom.connect(url, ready_session_instances=0, max_concurrent_sessions=1000, acquire_timeout=600) as pool,
        ThreadPoolExecutor(4) as threads,
    ):
        taken = base = memory(others)
        opened = 0
        for count in SESSIONS:
            if count > min(largest, _MOST_CONTAINERS if url.startswith("docker:") else largest):
                break
            new = count - opened
            if points and (cost := points[-1][2]) is not None and new * cost > available_memory() - _MARGIN:
                report("the memory ends here")
                break
            if points and points[-1][1] is not None and new * points[-1][1] > ends - time.monotonic():
                report("the time ends here")
                break
            report(f"{count:,} sessions")

            def use(_number: int) -> None:
                pool.session().execute("import pandas; 1").raise_for_error()

            took = seconds(lambda new=new: list(threads.map(use, range(new))))
            wait_until_idle(others, timeout=20)
            taken = memory(others)
            each = None if taken is None or base is None else (taken - base) / count
            points.append([count, took / new, each])
            opened = count
    return points


def output(pools: list[str], report: Report, largest: int) -> dict[str, Points]:
    """Print ever more, each contestant in turn; rows of bytes and seconds."""

    def code(size: int) -> str:
        return f"import sys\nfor _ in range({size // _LINE}): sys.stdout.write('x' * {_LINE - 1} + '\\n')"

    def act(contestant: Contestant, size: int) -> float:
        return seconds(lambda: contestant.run(code(size)))

    everyone = _everyone(pools, report, output_limit=64 << 20, timeout=600)
    return _in_turn(everyone, [size for size in OUTPUT if size <= largest], act, report)


def files(url: str, report: Report, largest: int) -> Points:
    """Upload and download ever larger files; rows of bytes, and seconds for each."""
    options: dict[str, Any] = {"file_limit": "1Gi", "disk": "1100Mi", "memory": "3Gi"}
    points: Points = []
    with (
        greenroom.connect(url, ready_session_instances=0, preload=(), **options) as pool,
        pool.session() as session,
        tempfile.TemporaryDirectory() as directory,
    ):
        source, target = Path(directory, "up.bin"), Path(directory, "down.bin")
        session.execute("1")
        for size in FILES:
            if size > largest:
                break
            report(f"a file of {size:,} bytes")
            with source.open("wb") as file:
                file.truncate(size)
            rounds = range(5 if size <= _REPEATED_UP_TO else 1)
            up = median(seconds(lambda: session.upload(source, "grown.bin")) for _ in rounds)
            down = median(seconds(lambda: session.download("grown.bin", target)) for _ in rounds)
            assert target.stat().st_size == size
            points.append([size, up, down])
    return points


def cells(pools: list[str], report: Report, largest: int) -> dict[str, Points]:
    """Run ever more cells in one session, each contestant in turn; rows of their number, and seconds of the last."""
    points: dict[str, Points] = {}
    everyone = _everyone(pools, report)
    try:
        done = 0
        times: dict[str, list[float]] = {each.name: [] for each in everyone}
        for count in (count for count in CELLS if count <= largest):
            report(f"{count:,} cells")
            while done < count:
                turn = range(done, min(done + _CELLS_TOGETHER, count))
                for contestant in everyone:
                    times[contestant.name] += [
                        seconds(
                            lambda contestant=contestant, cell=cell: contestant.run(f"a{cell} = {cell}\na{cell} + 1")
                        )
                        for cell in turn
                    ]
                done = turn.stop
            for name, taken in times.items():
                points.setdefault(name, []).append([count, median(taken[-_CELLS_TOGETHER:])])
    finally:
        _leave(everyone)
    return points


def _everyone(pools: list[str], report: Report, **options: Any) -> list[Contestant]:
    """Those whose sessions keep their variables and are quick enough, with an open session each."""
    made: list[Contestant] = []
    makers: list[Callable[[], Contestant]] = [lambda pool=pool: Greenroom(pool, **options) for pool in pools]
    for make in (*makers, lambda: Peer("ipykernel")):
        try:
            contestant = make()
        except LeftOut as reason:
            report(f"left out: {reason}")
            continue
        contestant.open()
        contestant.run("1")
        made.append(contestant)
    return made


def _in_turn(
    everyone: Sequence[Contestant],
    sizes: Sequence[int],
    act: Callable[[Contestant, int], float],
    report: Report,
) -> dict[str, Points]:
    points: dict[str, Points] = {each.name: [] for each in everyone}
    try:
        for size in sizes:
            report(f"{size:,} bytes")
            times: dict[str, list[float]] = {each.name: [] for each in everyone}
            for _ in range(5 if size <= _REPEATED_UP_TO else 1):
                for contestant in everyone:
                    times[contestant.name].append(act(contestant, size))
            for name, taken in times.items():
                points[name].append([size, median(taken)])
    finally:
        _leave(everyone)
    return points


def _leave(everyone: Sequence[Contestant]) -> None:
    for contestant in everyone:
        contestant.close()
        contestant.leave()
