"""Metrics with OpenTelemetry, if the application has loaded it: this module never imports it first."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakMethod

from greenroom.errors import GreenroomError
from greenroom.models import PoolStatus, PoolUsage
from greenroom.telemetry.events import Observer, TelemetryEvent, ignore
from greenroom.telemetry.instruments import EVENTS, STATE, Instrument, measurements, pool_label, state_of

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

_MAX_KNOWN = 2000

Read: TypeAlias = Callable[[], tuple[PoolStatus, PoolUsage]]
"""Returns the state of a pool, from any thread. Raises `PoolClosed` after its end."""


class Meters:
    """The instruments of this process, for all of its pools; by default with the application's provider."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        from opentelemetry import metrics  # noqa: PLC0415  already loaded

        meter = metrics.get_meter("greenroom", version("greenroom"), provider)
        self._lock = threading.Lock()
        self._names: dict[str, WeakMethod[Any]] = {}
        self._record: dict[Instrument, Callable[[float, dict[str, str]], None]] = {}
        for each in EVENTS:
            if each.boundaries:
                histogram = meter.create_histogram(
                    each.name, each.unit, each.description, explicit_bucket_boundaries_advisory=list(each.boundaries)
                )
                self._record[each] = histogram.record
            else:
                self._record[each] = meter.create_counter(each.name, each.unit, each.description).add
        for each in STATE:
            make = meter.create_observable_gauge if each.gauge else meter.create_observable_counter
            make(each.name, [self._callback(each)], each.unit, each.description)

    def observer(self, pool: str | None) -> Observer:
        """Return a consumer of a pool's events, or of the server's for `None`."""

        known: dict[tuple[Instrument, tuple[str, ...]], dict[str, str]] = {}  # cache

        def observe(event: TelemetryEvent) -> None:
            for instrument, value, labels in measurements(event):
                attributes = known.get((instrument, labels))
                if attributes is None:
                    attributes = dict(zip(map(_attribute, instrument.labels), labels, strict=True))
                    if pool is not None:
                        attributes[pool_label(instrument)] = pool
                    if len(known) < _MAX_KNOWN:
                        known[instrument, labels] = attributes
                self._record[instrument](value, attributes)

        return observe

    def name(self, wanted: str) -> str:
        """Return the name, with a number appended if another open pool has it."""
        with self._lock:
            taken = {name for name, read in self._names.items() if read() is not None}
            self._names = {name: self._names[name] for name in taken}
            number, name = 1, wanted
            while name in taken:
                number += 1
                name = f"{wanted}-{number}"
            return name

    def watch(self, name: str, read: Any) -> None:
        """Export the state of a pool while it exists; `read` is a `Read` that is a method of its backend."""
        with self._lock:
            self._names[name] = WeakMethod(read)

    def _callback(self, instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                pools = list(self._names.items())
            for name, reference in pools:
                read: Read | None = reference()
                try:
                    found = [] if read is None else list(state_of(*read()))
                except GreenroomError:  # it was closed
                    continue
                for each, value, labels in found:
                    if each is instrument:
                        attributes = dict(zip(instrument.labels, labels, strict=True))
                        yield Observation(value, {pool_label(instrument): name, **attributes})

        return observe


_state: dict[str, Meters] = {}
_lock = threading.Lock()


def meters() -> Meters | None:
    """Return the instruments, if the application has loaded OpenTelemetry, as it must to record metrics."""
    if "opentelemetry.metrics" not in sys.modules:
        return None
    with _lock:
        if "meters" not in _state:
            _state["meters"] = Meters()
        return _state["meters"]


def observer_of(pool: str | None) -> Observer:
    """Return the consumer of a pool's events, or of the server's for `None`."""
    found = meters()
    return ignore if found is None else found.observer(pool)


def _attribute(label: str) -> str:
    """Return the name of a label according to OpenTelemetry's conventions."""
    return label.replace("_", ".") if label != "http_response_status_code" else "http.response.status_code"
