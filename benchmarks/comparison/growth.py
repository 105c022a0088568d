"""How costs grow: with sessions, with output, with files, with cells in one session."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from benchmarks.comparison.contestants import Contestant, all_of, in_turn
from benchmarks.comparison.course import Course
from benchmarks.comparison.measuring import available_memory, memory, processes, seconds, wait_until_idle

import greenroom

Points: TypeAlias = list[list[float | None]]
"""Rows of figures, the first of which is the size."""

SESSIONS = (1, 3, 10, 30, 100, 300, 1000)
CONTAINERS = SESSIONS[:5]
OUTPUT = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 60_000_000)
FILES = (1 << 10, 1 << 15, 1 << 20, 1 << 25, 1 << 28, 1 << 30)
CELLS = (1, 10, 100, 1_000, 10_000)

_MARGIN = 2 << 30  # bytes of memory that stay free
_ROUNDS, _REPEATED_UP_TO = 5, 1_000_000  # bytes; larger sizes are measured once
_CELLS_TOGETHER = 50  # for one contestant, until it is the other's turn
_LINE = 100
_FILE = "grown.bin"


def sessions(url: str, counts: Sequence[int], course: Course) -> Points:
    """Open more and more sessions with pandas; rows of their number, and seconds and bytes per additional session.

    It ends early if the memory or the time would not suffice.
    """
    points: Points = []
    others = processes()
    with (
        greenroom.connect(
            url, ready_session_instances=0, max_concurrent_sessions=max(counts), acquire_timeout=120
        ) as pool,
        ThreadPoolExecutor(4) as threads,
    ):
        base = memory(others)

        def use(_number: int) -> None:
            pool.session().execute("import pandas; 1").raise_for_error()

        opened = 0
        for count in counts:
            new = count - opened
            if points:
                _, each, cost = points[-1]
                if cost is not None and new * cost > available_memory() - _MARGIN:
                    course.end_early(f"the memory would not suffice for {count:,} sessions")
                    break
                if each is not None and new * each > course.left:
                    course.end_early(f"the time would not suffice for {count:,} sessions")
                    break
            course.report(f"{count:,} sessions")
            try:
                took = seconds(lambda new=new: list(threads.map(use, range(new))))
            except greenroom.GreenroomError as error:
                course.end_early(f"{count:,} sessions: {error}")
                break
            wait_until_idle(others, timeout=10)
            taken = memory(others)
            points.append([count, took / new, None if taken is None or base is None else (taken - base) / count])
            opened = count
        course.report(f"closing {opened:,} sessions")
    return points


def output(pools: list[str], peers: list[str], sizes: Sequence[int], course: Course) -> dict[str, Points]:
    """Print more and more, each contestant in turn; rows of bytes and seconds."""
    points: dict[str, Points] = {}
    left_out: dict[str, str] = {}

    def code(size: int) -> str:
        return f"import sys\nfor _ in range({size // _LINE}): sys.stdout.write('x' * {_LINE - 1} + '\\n')"

    def act(contestant: Contestant, size: int, times: dict[str, list[float]]) -> None:
        times.setdefault(contestant.name, []).append(seconds(lambda: contestant.run(code(size))))

    with all_of(pools, peers, left_out, preload=(), output_limit=64 << 20) as everyone:
        in_turn(everyone, left_out, course, _start)
        for size in sizes:
            if course.over(f"no output of {size:,} bytes was measured"):
                break
            times: dict[str, list[float]] = {}
            for _ in range(_ROUNDS if size <= _REPEATED_UP_TO else 1):
                in_turn(everyone, left_out, course, lambda each, size=size, times=times: act(each, size, times))
            for name, taken in times.items():
                points.setdefault(name, []).append([size, median(taken)])
    _note(left_out, course)
    return points


def files(url: str, sizes: Sequence[int], course: Course) -> Points:
    """Upload and download larger and larger files; rows of bytes, and seconds for each."""
    options: dict[str, Any] = {"file_limit": "1Gi", "disk": "1100Mi", "memory": "3Gi"}
    points: Points = []
    with (
        greenroom.connect(url, ready_session_instances=0, preload=(), **options) as pool,
        pool.session() as session,
        tempfile.TemporaryDirectory(prefix="greenroom-comparison-") as directory,
    ):
        source, target = Path(directory, "up.bin"), Path(directory, "down.bin")
        session.execute("1")
        for size in sizes:
            if course.over(f"no file of {size:,} bytes was measured"):
                break
            if size > available_memory() - _MARGIN:
                course.end_early(f"the memory would not suffice for a file of {size:,} bytes")
                break
            course.report(f"a file of {size:,} bytes")
            with source.open("wb") as file:
                file.truncate(size)
            rounds = range(_ROUNDS if size <= _REPEATED_UP_TO else 1)
            try:
                up = median(seconds(lambda: session.upload(source, _FILE)) for _ in rounds)
                down = median(seconds(lambda: session.download(_FILE, target)) for _ in rounds)
                session.delete_file(_FILE)  # the disk would not hold both this file and the next
            except greenroom.GreenroomError as error:
                course.end_early(f"a file of {size:,} bytes: {error}")
                break
            if target.stat().st_size != size:
                raise RuntimeError(f"a downloaded file must have {size} bytes, not {target.stat().st_size}")
            points.append([size, up, down])
    return points


def cells(pools: list[str], peers: list[str], counts: Sequence[int], course: Course) -> dict[str, Points]:
    """Run ever more cells in one session, each contestant in turn; rows of their number and the time of the last."""
    points: dict[str, Points] = {}
    left_out: dict[str, str] = {}
    times: dict[str, list[float]] = {}

    def act(contestant: Contestant, turn: range) -> None:
        times.setdefault(contestant.name, []).extend(
            seconds(lambda cell=cell: contestant.run(f"a{cell} = {cell}\na{cell} + 1")) for cell in turn
        )

    done = 0
    with all_of(pools, peers, left_out, preload=()) as everyone:
        in_turn(everyone, left_out, course, _start)
        for count in counts:
            while done < count and not course.over(f"the last cell was number {done:,}"):
                turn = range(done, min(done + _CELLS_TOGETHER, count))
                in_turn(everyone, left_out, course, lambda each, turn=turn: act(each, turn))
                done = turn.stop
            for contestant in everyone:
                last = times[contestant.name][-_CELLS_TOGETHER:]
                points.setdefault(contestant.name, []).append([done, median(last)])
            if done < count:
                break
    _note(left_out, course)
    return points


def _start(contestant: Contestant) -> None:
    contestant.open()
    contestant.run("1")


def _note(left_out: dict[str, str], course: Course) -> None:
    for name, reason in left_out.items():
        course.end_early(f"{name}: {reason}")
