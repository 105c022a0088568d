"""Counters and histograms of one pool or of the server: a consumer of its events that uses bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from greenroom.telemetry.events import TelemetryEvent
from greenroom.telemetry.instruments import Instrument, measurements

_MAX_SERIES = 500
"""The maximum number of label sets per instrument, more than routes times statuses. Further ones are not counted."""


@dataclass(slots=True)
class Histogram:
    """The counts and the sum of a histogram."""

    counts: list[int]
    """The number of values between each boundary and the previous one; the last is for values above all boundaries."""
    sum: float = 0.0


@dataclass(slots=True)
class Aggregate:
    """The sums, by instrument and by the values of its labels."""

    counters: dict[Instrument, dict[tuple[str, ...], float]] = field(
        default_factory=dict[Instrument, dict[tuple[str, ...], float]]
    )
    histograms: dict[Instrument, dict[tuple[str, ...], Histogram]] = field(
        default_factory=dict[Instrument, dict[tuple[str, ...], Histogram]]
    )

    def observe(self, event: TelemetryEvent) -> None:
        """Count an event."""
        for instrument, value, labels in measurements(event):
            if instrument.boundaries:
                histograms = self.histograms.setdefault(instrument, {})
                histogram = histograms.get(labels)
                if histogram is None:
                    if len(histograms) >= _MAX_SERIES:
                        continue
                    histogram = histograms[labels] = Histogram([0] * (len(instrument.boundaries) + 1))
                histogram.counts[bisect_left(instrument.boundaries, value)] += 1
                histogram.sum += value
            else:
                counters = self.counters.setdefault(instrument, {})
                if labels in counters or len(counters) < _MAX_SERIES:
                    counters[labels] = counters.get(labels, 0) + value

    def cumulative(self, instrument: Instrument) -> Iterator[tuple[tuple[str, ...], list[int], float]]:
        """Yield for each histogram its labels, its cumulative counts up to each boundary and infinity, and its sum."""
        for labels, histogram in self.histograms.get(instrument, {}).items():
            total, counts = 0, list[int]()
            for count in histogram.counts:
                total += count
                counts.append(total)
            yield labels, counts, histogram.sum
