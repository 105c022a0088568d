"""What signals cost: `1+1` with and without their consumers, in interleaved pairs on pools of one process.

`python benchmarks/telemetry.py bubblewrap: --pairs 60`. Each pair is a batch of executions on either pool, in a random
order, so that other work on the machine meets both. Printed are, each as the median of the pairs with its quartiles,
the ratio of the times, and the processor time of this process that an execution takes more, which tells something on a
busy machine, too. The first line compares two pools without consumers: what the measurement can tell. The last lines
are the processor time of recording an execution by itself, in a loop: the least of ten.

`python benchmarks/telemetry.py --instructions` counts instructions instead, by callgrind (valgrind), which takes some
minutes: what each consumer adds to the host process, and to all of `1+1` with its sandbox's processes; beside it what
OpenTelemetry's SDK alone takes for one span that has as many attributes, which is current meanwhile.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from unittest.mock import patch

import counting
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import greenroom
from greenroom.backend import Backend
from greenroom.connecting import open_backend
from greenroom.local.metering import Metering
from greenroom.local.recording import Recorder
from greenroom.models import Execution
from greenroom.sessions import OpenPool, SessionPool
from greenroom.telemetry import Observer, Work, both, ignore, meters, tracing
from greenroom.telemetry.aggregate import Aggregate


class Dropped(SpanProcessor):
    """Takes spans as an exporter in the background would, and drops them."""

    def on_end(self, span: ReadableSpan) -> None:
        """Do nothing: the export is not in the caller's way."""


def open_pool(url: str, observer: Observer) -> SessionPool:
    async def backend() -> Backend:
        return await open_backend(url, observer, ready_session_instances=0, preload=())

    return SessionPool(OpenPool.open(backend))


@dataclass(frozen=True)
class Batch:
    """The times of one execution, in seconds."""

    wall: float
    """The median."""
    cpu: float
    """The mean, of this process."""


def batch(session: greenroom.Session, size: int) -> Batch:
    times: list[float] = []
    cpu = time.process_time()
    for _ in range(size):
        began = time.perf_counter()
        session.execute("1+1")
        times.append(time.perf_counter() - began)
    return Batch(median(times), (time.process_time() - cpu) / size)


def compare(what: str, plain: Callable[[], Batch], watched: Callable[[], Batch], pairs: int) -> None:
    found: list[tuple[Batch, Batch]] = []
    for _ in range(pairs):
        if random.random() < 0.5:
            found.append((plain(), watched()))
        else:
            second = watched()
            found.append((plain(), second))
    low, middle, high = quantiles((100 * (b.wall / a.wall - 1) for a, b in found), n=4)
    less, typical, more = quantiles((1e6 * (b.cpu - a.cpu) for a, b in found), n=4)
    cpu = 1e6 * median(a.cpu for a, _ in found)
    print(
        f"{what}: {middle:+.1f} % ({low:+.1f} to {high:+.1f} %); "
        f"{typical:+.0f} us of processors ({less:+.0f} to {more:+.0f}), beside {cpu:.0f}"
    )


def alone(observer: Observer, rounds: int = 3000) -> float:
    """Return the seconds of processors that recording one execution takes, with nothing in it."""
    recorder = Recorder(observer, Metering(time.monotonic), "benchmark", content=False)
    execution = Execution("1", "succeeded", result="2")

    def once() -> float:
        began = time.process_time()
        for _ in range(rounds):
            with recorder.executing("session", Work.CODE) as recorded, recorded.span.active():
                recorded.began()
                recorded.ended(execution)
        return (time.process_time() - began) / rounds

    return min(once() for _ in range(10))


@dataclass(frozen=True)
class Consumers:
    """Those that are compared: for each the pool's observer, and whether spans are recorded."""

    tracer: trace.Tracer
    instruments: meters.Meters

    @classmethod
    def make(cls) -> Consumers:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(Dropped())
        reader = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        return cls(provider.get_tracer("greenroom"), meters.Meters(reader))

    def observers(self) -> dict[str, tuple[Observer, bool]]:
        def metrics() -> Observer:
            return self.instruments.observer("benchmark")

        return {
            "no consumer": (ignore, False),
            "events, counted for /metrics": (Aggregate().observe, False),
            "metrics by OpenTelemetry": (metrics(), False),
            "spans by OpenTelemetry": (ignore, True),
            "all of it": (both(Aggregate().observe, metrics()), True),
        }

    @contextmanager
    def tracing(self, recorded: bool) -> Generator[None, None, None]:
        """Record spans meanwhile, or make none."""
        with patch.object(tracing, "_tracer", lambda: self.tracer if recorded else None):
            yield

    def bare_span(self) -> None:
        """What the SDK takes at the least: a span with the attributes of an execution, current for a moment."""
        attributes = {"greenroom.session.id": "benchmark", "greenroom.pool.name": "default"}
        span = self.tracer.start_span("execute code", None, trace.SpanKind.INTERNAL, attributes)
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            pass
        span.set_attributes({"greenroom.execution.status": "succeeded", "greenroom.execution.duration": 0.001})
        span.end()


BARE_SPAN = "one span of the SDK by itself"


def count(url: str, size: int, rounds: int) -> None:
    """Print what each consumer costs, in instructions."""
    names = list(Consumers.make().observers())
    with counting.Counted(__file__, url, "--serve-batches") as counted:
        found = {name: [counted.count(name, size) for _ in range(rounds)] for name in [*names, BARE_SPAN]}
    sandbox = counting.of_sandbox("1+1", size)
    host = median(found[names[0]])
    print(f"1+1: {host / 1000:,.0f} thousand instructions of the host process, {sandbox / 1000:,.0f} of its sandbox")
    for name, values in found.items():
        spread = (max(values) - min(values)) / 1000
        more = median(values) - (0 if name == BARE_SPAN else host)
        print(
            f"{name}: {more / 1000:+,.1f} thousand (the counts differ by {spread:.1f}), {100 * more / host:+.1f} % of the "
            f"host process, {100 * more / (host + sandbox):+.1f} % of 1+1"
        )


def serve_batches(url: str) -> None:
    """Run the batches that standard input names, in the process that is counted."""
    consumers = Consumers.make()
    with ExitStack() as stack:
        sessions: dict[str, tuple[greenroom.Session, bool]] = {}
        for name, (observer, recorded) in consumers.observers().items():
            session = stack.enter_context(open_pool(url, observer)).session()
            batch(session, 20)
            sessions[name] = session, recorded
        print("ready", flush=True)
        for line in sys.stdin:
            name, _, size = line.rpartition(" ")
            if name == BARE_SPAN:
                for _ in range(int(size)):
                    consumers.bare_span()
            else:
                session, recorded = sessions[name]
                with consumers.tracing(recorded):
                    for _ in range(int(size)):
                        session.execute("1+1")
            print("done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="bubblewrap:")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=60)
    parser.add_argument("--instructions", action="store_true", help="count instructions")
    parser.add_argument("--serve-batches", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_batches:
        serve_batches(arguments.url)
    elif arguments.instructions:
        if name := counting.missing():
            parser.error(f"{name} must be installed.")
        count(arguments.url, arguments.batch, 3)
    else:
        compare_times(arguments.url, arguments.pairs, arguments.batch)


def compare_times(url: str, pairs: int, size: int) -> None:
    """Print what each consumer costs in pairs of batches, and what recording takes by itself."""
    consumers = Consumers.make()
    with ExitStack() as stack:

        def session_of(observer: Observer) -> greenroom.Session:
            session = stack.enter_context(open_pool(url, observer)).session()
            batch(session, 50)
            return session

        def run(session: greenroom.Session, *, recorded: bool) -> Callable[[], Batch]:
            def measure() -> Batch:
                with consumers.tracing(recorded):
                    return batch(session, size)

            return measure

        plain = session_of(ignore)
        print(f"1+1 in {1000 * batch(plain, 500).wall:.2f} ms, {pairs} pairs of {size}: ratio; processors")
        for name, (observer, recorded) in consumers.observers().items():
            compare(name, run(plain, recorded=False), run(session_of(observer), recorded=recorded), pairs)
    for name, (observer, recorded) in consumers.observers().items():
        with consumers.tracing(recorded):
            print(f"recording alone, {name}: {1e6 * alone(observer):.1f} us")


if __name__ == "__main__":
    main()
