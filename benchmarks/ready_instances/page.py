"""Writes docs/ready-instances.md: page.md.template with the results of the simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from benchmarks.ready_instances.arrivals import SCENARIOS
from benchmarks.ready_instances.settings import CHOICES
from benchmarks.ready_instances.simulation import Outcome

Outcomes: TypeAlias = Mapping[tuple[str, str], Outcome] | dict[tuple[str, str], Outcome]
"""By the names of scenario and choice."""

PATH = Path(__file__).parents[2] / "docs/ready-instances.md"
TARGET = 0.1
"""The default of `ready_wait_target`, in seconds."""


def text(outcomes: Outcomes) -> str:
    """Return the whole page."""
    template = Path(__file__).with_suffix(".md.template").read_text()
    parts = {
        "scenarios": [f"| `{each.name}` | {each.description} |" for each in SCENARIOS],
        "outcomes": _rows(outcomes),
    }
    for name, lines in parts.items():
        template = template.replace(f"<!-- {name} -->\n", "\n".join(lines) + "\n")
    return template


def _rows(outcomes: Outcomes) -> Iterator[str]:
    yield "| arrivals | ready | median wait | 95 % | 99 % | longer than 100 ms | ready on average | idle per session |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for scenario in SCENARIOS:
        for choice in CHOICES:
            yield row(scenario.name, choice.name, outcomes[scenario.name, choice.name])


def row(scenario: str, choice: str, outcome: Outcome) -> str:
    """Return the row of one outcome."""
    waits = " | ".join(_milliseconds(outcome.percentile(share)) for share in (0.5, 0.95, 0.99))
    return (
        f"| {scenario} | {choice} | {waits} | {100 * outcome.late(TARGET):.1f} % | {outcome.mean_ready:.1f} | "
        f"{outcome.idle / len(outcome.waits):,.1f} s |"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"
