"""Greenroom compared with its peers, and how its costs grow: the last part of `make bench`.

Writes benchmarks/comparison/results.json, and from it the figures and the tables of docs/performance.md. `--redraw`
only does the latter. `--quick` measures little, prints the tables and writes nothing there.

Each part has a time limit. Parts that exceed it, fail or are missing are named in the tables, and the rest is
measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.comparison import beside, cold, growth, page, plots
from benchmarks.comparison.contestants import KERNEL, PEERS, Greenroom, all_of
from benchmarks.comparison.course import Course
from benchmarks.comparison.measuring import as_json, machine
from rich.console import Console

import greenroom

RESULTS = Path(__file__).with_name("results.json")
_OF_ALL, _OF_EACH = 8, 2  # parts of every run, and parts for each pool


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    new_containers: int
    at_once: int
    idle: int
    printed: dict[str, int]
    sessions: Sequence[int]
    containers: Sequence[int]
    output: Sequence[int]
    files: Sequence[int]
    cells: Sequence[int]


FULL = Scale(
    rounds=5,
    new_containers=15,
    at_once=20,
    idle=8,
    printed={"prints": 50_000, "displays": 300},
    sessions=growth.SESSIONS,
    containers=growth.CONTAINERS,
    output=growth.OUTPUT,
    files=growth.FILES,
    cells=growth.CELLS,
)
QUICK = Scale(
    rounds=1,
    new_containers=1,
    at_once=2,
    idle=1,
    printed={"prints": 100, "displays": 3},
    sessions=growth.SESSIONS[:2],
    containers=growth.CONTAINERS[:1],
    output=growth.OUTPUT[:2],
    files=growth.FILES[:2],
    cells=growth.CELLS[:2],
)


def measure(pools: list[str], peers: list[str], scale: Scale, console: Console) -> dict[str, Any]:
    """Return the results of a run."""
    course = Course(_OF_ALL + _OF_EACH * len(pools) + any(map(_has_containers, pools)), console)
    left_out: dict[str, str] = {}
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": machine(),
        "at_once_sessions": scale.at_once,
        "printed": scale.printed,
        "left_out": left_out,
        "ended_early": course.ended_early,
    }

    def part(key: str, title: str, limit: float, act: Callable[[], Any]) -> None:
        results[key] = {}
        with course.part(title, limit):
            results[key] = act()

    rounds = scale.rounds
    with all_of(pools, peers, left_out) as everyone:
        part("versions", "first of all", 60, lambda: beside.leave_out_unable(everyone, left_out, course))
        part("times", "new sessions", 150, lambda: beside.first_and_next(everyone, left_out, rounds, course))
        part("at_once", "at once", 50, lambda: beside.at_once(everyone, left_out, rounds, scale.at_once, course))
        engines = [each.url for each in everyone if isinstance(each, Greenroom)]
        kernel = [each.name for each in everyone if each.name == KERNEL]
    part("warm", "warm sessions", 70, lambda: beside.warm(engines, min(rounds, 3), course))
    part("printing", "prints and displays", 45, lambda: beside.printing(engines, kernel, scale.printed, 3, course))
    part("memory", "memory", 80, lambda: beside.idle_memory(engines, kernel, scale.idle, course))
    docker = next((url for url in engines if _has_containers(url)), None)
    if docker is not None:
        part("cold", "new containers", 45, lambda: cold.new_containers(docker, scale.new_containers, course))
    results["growth"] = {"sessions": {}, "files": {}}
    for url in engines:
        name = Greenroom.name_of(url)
        with course.part(f"sessions of {name}", 75):
            counts = scale.containers if _has_containers(url) else scale.sessions
            results["growth"]["sessions"][name] = growth.sessions(url, counts, course)
        with course.part(f"files of {name}", 40):
            results["growth"]["files"][name] = growth.files(url, scale.files, course)
    with course.part("output", 50):
        results["growth"]["output"] = growth.output(engines, kernel, scale.output, course)
    with course.part("cells", 110):
        results["growth"]["cells"] = growth.cells(engines, kernel, scale.cells, course)
    return results


def _has_containers(url: str) -> bool:
    return url.startswith("docker:")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pools", nargs="*", default=["bubblewrap:", "docker:"], metavar="POOL")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="measure little, and only print the tables")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument(
        "--into", type=Path, metavar="DIRECTORY", help="write the results, the tables and figures there"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", greenroom.AzureRangeWarning)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # so that everything is cleaned up
    into: Path | None = arguments.into
    found = into / "results.json" if into else RESULTS
    if arguments.redraw:
        results = json.loads(found.read_text())
    else:
        scale = QUICK if arguments.quick else FULL
        text = as_json(measure(arguments.pools, arguments.peers, scale, Console(stderr=True)))
        results = json.loads(text)
        if into or not arguments.quick:
            found.write_text(text)
    tables = "\n".join(page.block(results))
    print(tables)
    if into:
        (into / page.PATH.name).write_text(tables)
        _draw(results, into)
    elif not arguments.quick:
        page.PATH.write_text(page.replaced(page.PATH.read_text(), "make bench", page.block(results)))
        _draw(results, page.PATH.parent / "pictures")


def _draw(results: dict[str, Any], directory: Path) -> None:
    for name, figure in plots.figures(results):
        (directory / name).write_text(figure)


if __name__ == "__main__":
    main()
