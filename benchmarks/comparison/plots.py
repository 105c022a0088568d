"""The figures of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.drawing import INK, in_style, svg
from matplotlib.figure import Figure

_COLOURS = {"Greenroom, bubblewrap": "#2aa567", "Greenroom, docker": "#3b8eea", "ipykernel": "#e5702a"}
_OTHERS = "#a06cc8"


def figures(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figures with their names, from the results of a run."""
    with in_style():
        yield "performance-peers.svg", svg(_beside_peers(results["times"]))
        yield "performance-growth.svg", svg(_growth(results["growth"]))


def _beside_peers(times: dict[str, dict[str, list[float]]]) -> Any:
    figure: Any = Figure(figsize=(8, 2.9), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True, squeeze=False).flatten()
    titles = {"pandas": "new session, first pandas result", "next": "next execution"}
    for place, (what, title) in zip(axes, titles.items(), strict=True):
        of = times.get(what, {})
        names = list(reversed(of))
        if not names:
            continue
        low, middle, high = zip(*([1000 * each for each in of[name]] for name in names), strict=True)
        errors = [
            [each - less for less, each in zip(low, middle, strict=True)],
            [more - each for each, more in zip(middle, high, strict=True)],
        ]
        colours = [_COLOURS.get(name, _OTHERS) for name in names]
        place.barh(names, middle, xerr=errors, color=colours, ecolor=INK, height=0.65)
        for name, value in zip(names, middle, strict=True):
            place.annotate(
                f"{value:,.0f}" if value >= 100 else f"{value:.2g}",
                (value, name),
                (4, 4),
                textcoords="offset points",
                fontsize=8,
            )
        place.set(xscale="log", title=title, xlabel="milliseconds, with quartiles")
        place.tick_params(axis="y", length=0)
        place.xaxis.set_minor_formatter("")
    return figure


def _growth(growth: dict[str, Any]) -> Any:
    figure: Any = Figure(figsize=(8, 7.4), layout="constrained")
    axes: Any = figure.subplots(3, 2, squeeze=False).flatten()
    sessions, files, cells = growth["sessions"], growth["files"], growth.get("cells", {})
    _lines(axes[0], {name: [[p[0], _times(p[1], 1000)] for p in points] for name, points in sessions.items()})
    axes[0].set(title="opening sessions with pandas", xlabel="sessions", ylabel="ms for each additional session")
    _lines(axes[1], {name: [[p[0], _times(p[2], 1e-6)] for p in points] for name, points in sessions.items()})
    axes[1].set(title="memory of these sessions", xlabel="sessions", ylabel="MB per session")
    _lines(axes[2], growth.get("output", {}))
    axes[2].set(title="printing", xlabel="bytes", ylabel="seconds")
    _lines(axes[3], {name: [[p[0], p[1]] for p in points] for name, points in files.items()})
    _lines(axes[3], {name: [[p[0], p[2]] for p in points] for name, points in files.items()}, style="s--")
    axes[3].set(title="upload (solid), download (dashed)", xlabel="bytes", ylabel="seconds")
    _lines(axes[4], {name: [[p[0], _times(p[1], 1000)] for p in points] for name, points in cells.items()})
    axes[4].set(title="cells in one session", xlabel="cells", ylabel="ms for the next cell")
    for place in axes[:5]:
        place.set(xscale="log")
        place.xaxis.set_minor_formatter("")
    for place in axes[:4]:
        place.set(yscale="log")
        place.yaxis.set_minor_formatter("")
    axes[4].set(ylim=(0, None))
    axes[5].set_axis_off()
    for name, colour in _COLOURS.items():
        axes[5].plot([], [], "o-", color=colour, label=name, markersize=4)
    axes[5].legend(loc="center left")
    return figure


def _times(value: float | None, factor: float) -> float:
    return float("nan") if value is None else factor * value


def _lines(place: Any, lines: dict[str, list[list[float]]], *, style: str = "o-") -> None:
    for name, points in lines.items():
        if points:
            x, y = zip(*points, strict=True)
            place.plot(x, y, style, color=_COLOURS.get(name, _OTHERS), markersize=4, linewidth=1.2)
