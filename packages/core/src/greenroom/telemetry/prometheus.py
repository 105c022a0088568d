"""The metrics as text for Prometheus. Needs `prometheus-client`, which implements the format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from greenroom.models import PoolStatus, PoolUsage
from greenroom.telemetry.aggregate import Aggregate
from greenroom.telemetry.instruments import EVENTS, STATE, Instrument, Measurement, pool_label, state_of
from greenroom.untrusted import visible

_UNITS = {"s": "seconds", "By": "bytes", "By.s": "byte_seconds", "1": "ratio", "": ""}
_MAX_NAME = 200

_Source: TypeAlias = tuple[tuple[str, ...], Aggregate]
"""The pool's name, or `None` for the server, and the sums of its events."""


@dataclass(frozen=True, slots=True)
class PoolReading:
    """The figures of one pool; the state is missing if the pool does not respond."""

    name: str
    events: Aggregate
    status: PoolStatus | None = None
    usage: PoolUsage = PoolUsage()  # noqa: RUF009  frozen


def exposition(server: Aggregate, pools: Sequence[PoolReading], accept: str = "") -> tuple[str, bytes]:
    """Return the content type and the text, in the format that the header `Accept` prefers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Readings(server, pools))
    encoder, content_type = choose_encoder(accept)
    return content_type, encoder(registry)


class _Readings(Collector):
    def __init__(self, server: Aggregate, pools: Sequence[PoolReading]) -> None:
        self._server = server
        names = _distinct(visible(pool.name)[:_MAX_NAME] for pool in pools)
        self._pools = list(zip(names, pools, strict=True))

    def collect(self) -> Iterable[Metric]:
        """Yield the families that have values."""
        for instrument in EVENTS:
            sources = [((), self._server), *(((name,), pool.events) for name, pool in self._pools)]
            yield from _families_of_events(instrument, sources)
        yield from self._state()

    def _state(self) -> Iterable[Metric]:
        values: dict[Instrument, list[tuple[tuple[str, ...], float]]] = {each: [] for each in STATE}
        for name, pool in self._pools:
            measured: Iterable[Measurement] = () if pool.status is None else state_of(pool.status, pool.usage)
            for instrument, value, labels in measured:
                values[instrument].append(((name, *labels), value))
        for instrument, found in values.items():
            names = (pool_label(instrument), *instrument.labels)
            kind = GaugeMetricFamily if instrument.gauge else CounterMetricFamily
            family = kind(_name(instrument), instrument.description, labels=names)
            for labels, value in found:
                family.add_metric(labels, value)
            if found:
                yield family


def _distinct(names: Iterable[str]) -> Iterable[str]:
    """Yield the names, with a number appended to repeated ones: duplicate series would invalidate the whole page."""
    seen: set[str] = set()
    for wanted in names:
        number, name = 1, wanted
        while name in seen:
            number += 1
            name = f"{wanted}-{number}"
        seen.add(name)
        yield name


def _families_of_events(instrument: Instrument, sources: Iterable[_Source]) -> Iterable[Metric]:
    """Yield the family of an instrument; only the server's have no label for the pool."""
    for of_pools in (False, True):
        names = (pool_label(instrument), *instrument.labels) if of_pools else instrument.labels
        chosen = [(pool, aggregate) for pool, aggregate in sources if bool(pool) is of_pools]
        family = _histogram(instrument, names, chosen) if instrument.boundaries else _counter(instrument, names, chosen)
        if family.samples:
            yield family


def _counter(instrument: Instrument, names: Sequence[str], sources: Iterable[_Source]) -> Metric:
    family = CounterMetricFamily(_name(instrument), instrument.description, labels=names)
    for pool, aggregate in sources:
        series: Mapping[tuple[str, ...], float] = aggregate.counters.get(instrument, {})
        for labels, value in series.items():
            family.add_metric((*pool, *labels), value)
    return family


def _histogram(instrument: Instrument, names: Sequence[str], sources: Iterable[_Source]) -> Metric:
    family = HistogramMetricFamily(_name(instrument), instrument.description, labels=names)
    for pool, aggregate in sources:
        for labels, counts, total in aggregate.cumulative(instrument):
            boundaries = (*map(str, instrument.boundaries), "+Inf")
            family.add_metric((*pool, *labels), list(zip(boundaries, map(float, counts), strict=True)), total)
    return family


def _name(instrument: Instrument) -> str:
    unit = _UNITS[instrument.unit]
    name = instrument.name.replace(".", "_")
    return f"{name}_{unit}" if unit else name
