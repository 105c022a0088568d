"""The geometry of charts: positions of lines and bars in a picture of fixed size, which templates draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from greenroom.server.ui.history import Sample

WIDTH, HEIGHT = 640, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 8, 24
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of an axis: its position in pixels, and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart."""

    kind: str
    """The class of its style."""
    label: str
    runs: Sequence[Markup]
    """The points of each part without a gap, in SVG's form."""


@dataclass(frozen=True, slots=True)
class LineChart:
    """Numbers over time."""

    lines: Sequence[Line]
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    summary: str
    """The chart summarized in a sentence."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart, in pixels, with its label."""

    x: float
    y: float
    width: float
    height: float
    label: str
    count: int


@dataclass(frozen=True, slots=True)
class BarChart:
    """The number of values in each range."""

    bars: Sequence[Bar]
    rows: Sequence[Tick]
    summary: str


def saturation(samples: Sequence[Sample], begin: float, end: float, gap: float) -> LineChart | None:
    """Draw sessions, waiting sessions and the limit over time; `None` without samples.

    Args:
        samples: earliest first.
        begin: the left end, in seconds since 1970.
        end: the right end, later than `begin`.
        gap: seconds between two samples beyond which they are not connected.
    """
    if not samples:
        return None
    limits = [sample.limit for sample in samples if sample.limit is not None]
    highest = max([1, *limits, *(max(sample.sessions, sample.waiting) for sample in samples)])
    step = _step(highest)
    top = step * math.ceil(highest / step)

    def point(time: float, value: float) -> str:
        share = min(max((time - begin) / (end - begin), 0), 1)
        return f"{_LEFT + share * (WIDTH - _LEFT - _RIGHT):.1f},{_y(value, top):.1f}"

    def line(kind: str, label: str, values: Sequence[tuple[float, int | None]]) -> Line:
        runs, last = list[list[str]](), -math.inf
        for time, value in values:
            if value is None:
                last = -math.inf
                continue
            if time - last > gap:
                runs.append([])
            runs[-1].append(point(time, value))
            last = time
        return Line(kind, label, [Markup(" ".join(run if len(run) > 1 else run * 2)) for run in runs])  # noqa: S704  numbers

    lines = [
        line("limit", "limit", [(sample.time, sample.limit) for sample in samples]),
        line("waiting", "waiting", [(sample.time, sample.waiting) for sample in samples]),
        line("sessions", "sessions", [(sample.time, sample.sessions) for sample in samples]),
    ]
    last, peak = samples[-1], max(samples, key=lambda sample: sample.sessions)
    of_limit = "" if last.limit is None else f" of {last.limit}"
    summary = (
        f"{last.sessions}{of_limit} sessions and {last.waiting} waiting at {_clock(last.time)} UTC; "
        f"at most {peak.sessions}, at {_clock(peak.time)}, and {max(each.waiting for each in samples)} waiting."
    )
    shares = [index / _TICKS for index in range(_TICKS + 1)]
    columns = [
        Tick(_LEFT + share * (WIDTH - _LEFT - _RIGHT), _clock(begin + share * (end - begin))[:5]) for share in shares
    ]
    return LineChart(lines, _rows(top, step), columns, summary)


def waits(boundaries: Sequence[float], counts: Sequence[int]) -> BarChart | None:
    """Draw a histogram of the waits of allocations; `None` without any.

    Args:
        boundaries: the upper ends of all ranges but the last, in seconds.
        counts: the number for each range.
    """
    total = sum(counts)
    if not total:
        return None
    step = _step(max(counts))
    top = step * math.ceil(max(counts) / step)
    slot = (WIDTH - _LEFT - _RIGHT) / len(counts)
    labels = [*(f"≤ {_seconds(boundary)}" for boundary in boundaries), f"> {_seconds(boundaries[-1])}"]
    bars = [
        Bar(_LEFT + index * slot + 1, y := _y(count, top), slot - 2, _y(0, top) - y, label, count)
        for index, (label, count) in enumerate(zip(labels, counts, strict=True))
    ]
    return BarChart(bars, _rows(top, step), f"{total:,} in all; 95% of them {_quantile(labels, counts, 0.95)}.")


def _quantile(labels: Sequence[str], counts: Sequence[int], share: float) -> str:
    """Return the label of the range in which the quantile is."""
    reached = 0
    for label, count in zip(labels, counts, strict=True):
        reached += count
        if reached >= share * sum(counts):
            return label
    return labels[-1]


def _y(value: float, top: float) -> float:
    return _TOP + (1 - value / top) * (HEIGHT - _TOP - _BOTTOM)


def _rows(top: int, step: int) -> list[Tick]:
    return [Tick(_y(value, top), f"{value:,}") for value in range(0, top + 1, step)]


def _step(highest: int) -> int:
    """Return a round step, for at most five ticks up to a number."""
    rough = max(1, highest) / _TICKS
    power = 10 ** math.floor(math.log10(rough)) if rough > 1 else 1
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= rough)


def _clock(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%H:%M:%S")


def _seconds(value: float) -> str:
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
