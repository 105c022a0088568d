"""Counters and histograms of one pool, or of the server: a consumer of its events, in bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from greenroom.telemetry.events import TelemetryEvent
from greenroom.telemetry.instruments import Instrument, measurements

_MAX_SERIES = 500
"""Of one instrument: routes times statuses are fewer. Beyond it nothing is counted, rather than memory taken."""


@dataclass(slots=True)
class Histogram:
    """How many values were at most each boundary, and their sum."""

    counts: list[int]
    """For each boundary the values between it and the one before; the last for those above all."""
    sum: float = 0.0


@dataclass(slots=True)
class Aggregate:
    """The sums so far, by instrument and by the values of its labels."""

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
        """Yield the labels of each histogram, its counts up to each boundary and to infinity, and the sum."""
        for labels, histogram in self.histograms.get(instrument, {}).items():
            total, counts = 0, list[int]()
            for count in histogram.counts:
                total += count
                counts.append(total)
            yield labels, counts, histogram.sum
