"""Simulate pools with a fixed number of ready sandboxes and with one that follows demand: `make ready-instances`.

Writes docs/ready-instances.md and its pictures. With `record`, runs a load test first, whose arrivals become the
scenario `recorded`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from benchmarks.ready_instances import page, plots
from benchmarks.ready_instances.arrivals import RECORDED, SCENARIOS
from benchmarks.ready_instances.recording import record
from benchmarks.ready_instances.settings import CHOICES
from benchmarks.ready_instances.simulation import Outcome, simulate


def run(case: tuple[str, str]) -> Outcome:
    """Simulate a scenario with a choice, both given by name."""
    scenario = next(each for each in SCENARIOS if each.name == case[0])
    choice = next(each for each in CHOICES if each.name == case[1])
    return simulate(scenario.visits(), scenario.start, **choice.options)


def outcomes() -> Iterator[tuple[tuple[str, str], Outcome]]:
    """Yield the outcome of each scenario with each choice; the longest scenario first, as processes share the work."""
    cases = [(scenario.name, choice.name) for scenario in reversed(SCENARIOS) for choice in CHOICES]
    with ProcessPoolExecutor() as processes:
        yield from zip(cases, processes.map(run, cases), strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["simulate", "record"], default="simulate")
    parser.add_argument("--url", default="bubblewrap:", help="the pool of the load test that is recorded")
    parser.add_argument("--sessions", type=int, default=400, help="the number of sessions that are recorded")
    arguments = parser.parse_args()
    if arguments.what == "record":
        record(arguments.url, arguments.sessions, RECORDED)
    found: page.Outcomes = {}
    for (scenario, choice), outcome in outcomes():
        print(f"{scenario}, {choice}: {outcome.late(page.TARGET):.1%} late, {outcome.mean_ready:.1f} ready")
        found[scenario, choice] = outcome
    page.PATH.write_text(page.text(found))
    for name, picture in plots.pictures(found):
        (page.PATH.parent / "pictures" / name).write_text(picture)


if __name__ == "__main__":
    main()
