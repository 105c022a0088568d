"""The simulation's figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.drawing import INK, in_style, svg
from benchmarks.ready_instances.arrivals import SCENARIOS
from benchmarks.ready_instances.page import TARGET, Outcomes
from benchmarks.ready_instances.settings import CHOICES
from benchmarks.ready_instances.simulation import Outcome
from matplotlib.figure import Figure

_COLOURS = {"fixed": "#3b8eea", "auto": "#e5702a", "auto, 1 to 50": "#2aa567"}
_POINTS = 300  # per line, at most


def pictures(outcomes: Outcomes) -> Iterator[tuple[str, str]]:
    """Yield the figures with their names."""
    with in_style():
        yield "ready-instances-cost.svg", svg(_cost(outcomes))
        yield "ready-instances-day.svg", svg(_over_time(outcomes))


def _cost(outcomes: Outcomes) -> Any:
    """Late sessions against ready sandboxes: down and to the left is better."""
    figure: Any = Figure(figsize=(8, 5.4), layout="constrained")
    axes: Any = figure.subplots(2, 2, squeeze=False).flatten()
    for place, scenario in zip(axes, SCENARIOS, strict=True):
        fixed = [(choice, outcomes[scenario.name, choice.name]) for choice in CHOICES if choice.is_fixed]
        place.plot(*_cost_of([each for _, each in fixed]), "o-", color=_COLOURS["fixed"], label="fixed", markersize=4)
        for choice, outcome in fixed:
            place.annotate(
                choice.name, (outcome.mean_ready, _late(outcome)), (4, 4), textcoords="offset points", color=INK
            )
        for choice in CHOICES:
            if not choice.is_fixed:
                values = _cost_of([outcomes[scenario.name, choice.name]])
                place.plot(*values, "D", color=_COLOURS[choice.name], label=choice.name, markersize=7)
        place.axhline(5, color=INK, linewidth=0.8, linestyle=":")
        place.set(title=scenario.name, ylim=(-3, 108), xlim=(-0.8, 28))
    axes[0].legend()
    figure.supxlabel("sandboxes ready on average")
    figure.supylabel(f"sessions that wait longer than {1000 * TARGET:.0f} ms, in %")
    return figure


def _cost_of(outcomes: list[Outcome]) -> tuple[list[float], list[float]]:
    return [each.mean_ready for each in outcomes], [_late(each) for each in outcomes]


def _late(outcome: Outcome) -> float:
    return 100 * outcome.late(TARGET)


def _over_time(outcomes: Outcomes) -> Any:
    """How many sandboxes are ready over a day, and through the bursts."""
    figure: Any = Figure(figsize=(8, 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 2, squeeze=False).flatten()
    for place, name in zip(axes, ("bursty", "daily"), strict=True):
        for choice in ("auto", "auto, 1 to 50"):
            times, levels = _thinned(outcomes[name, choice])
            place.plot(times, levels, color=_COLOURS[choice], label=choice, linewidth=1)
        place.set(title=name, xlabel="hours", ylim=(0, None))
    axes[0].set_ylabel("sandboxes ready")
    axes[1].legend()
    return figure


def _thinned(outcome: Outcome) -> tuple[list[float], list[float]]:
    """The mean number of ready sandboxes in equal intervals, in hours."""
    end = outcome.ready[-1][0]
    part = end / _POINTS
    sums = [0.0] * _POINTS
    following = [*outcome.ready[1:], (end, 0)]
    for (since, level), (until, _) in zip(outcome.ready, following, strict=True):
        at = since
        while at < until:
            index = min(int(at / part), _POINTS - 1)
            upto = min(until, (index + 1) * part) if index < _POINTS - 1 else until
            sums[index] += level * (upto - at)
            at = max(upto, at + 1e-9)
    return [(number + 0.5) * part / 3600 for number in range(_POINTS)], [total / part for total in sums]
