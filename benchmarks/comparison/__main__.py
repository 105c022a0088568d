"""Greenroom beside its peers, and how its price grows: the last part of `make bench`.

Writes benchmarks/comparison/results.json, and from it the figures and the tables of docs/performance.md. `--redraw`
does the latter alone. `--quick` measures less, for a first look.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.comparison import beside, growth, page, plots
from benchmarks.comparison.contestants import Greenroom
from benchmarks.comparison.measuring import as_json, machine
from rich.console import Console

import greenroom

RESULTS = Path(__file__).with_name("results.json")
_console = Console(stderr=True)


def measure(pools: list[str], *, quick: bool) -> dict[str, Any]:
    """Return the results of a run."""
    began = time.monotonic()
    with _console.status("") as status:

        def report(what: str) -> None:
            line = f"{time.monotonic() - began:4.0f} s  {what}"
            status.update(line)
            if not _console.is_terminal:
                _console.print(line, markup=False)

        results: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "machine": machine(),
        }
        everyone, left_out = beside.contestants(pools, report)
        engines = [each for each in everyone if isinstance(each, Greenroom)]
        try:
            results["peers"] = beside.first_and_next(everyone, left_out, 2 if quick else 7, report)
            results["at_once"] = beside.at_once(everyone, left_out, 2 if quick else 5, report)
            results["warm"] = beside.warm(everyone, 5 if quick else 20, report)
            results["memory"] = beside.idle_memory(everyone, report)
            results["cold"] = {}
            for engine in engines:
                if engine.url.startswith("docker:"):
                    results["cold"] = beside.cold_docker(engine.url, 3 if quick else 15, report)
        finally:
            for contestant in everyone:
                contestant.leave()
        results["left_out"] = left_out
        for name, reason in left_out.items():
            _console.print(f"{name} is left out: {reason}", markup=False)
        results["growth"] = _grown(engines, report, quick=quick)
    return results


def _grown(engines: list[Greenroom], report: Callable[[str], None], *, quick: bool) -> dict[str, Any]:
    ended_early: list[str] = []
    sessions: dict[str, Any] = {}
    pools = [engine.url for engine in engines]
    for engine in engines:

        def note(what: str, name: str = engine.name) -> None:
            if what.endswith("ends here"):
                ended_early.append(f"of sessions of {name} ended early: {what}.")
            report(f"{name}: {what}")

        sessions[engine.name] = growth.sessions(engine.url, note, 10 if quick else 1000, 30 if quick else 180)
    return {
        "sessions": sessions,
        "output": growth.output(pools, report, 10_000_000 if quick else 60_000_000),
        "files": {engine.name: growth.files(engine.url, report, 1 << 25 if quick else 1 << 30) for engine in engines},
        "cells": growth.cells(pools, report, 100 if quick else 10_000),
        "ended_early": ended_early,
    }


def draw(results: dict[str, Any]) -> None:
    """Write the figures and the tables of the page."""
    for name, figure in plots.figures(results):
        (page.PATH.parent / "pictures" / name).write_text(figure)
    page.PATH.write_text(page.with_block(page.PATH.read_text(), results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", default=["bubblewrap:", "docker:"], metavar="POOL")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", greenroom.AzureRangeWarning)
    if not arguments.redraw:
        RESULTS.write_text(as_json(measure(arguments.pools, quick=arguments.quick)))
    draw(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
