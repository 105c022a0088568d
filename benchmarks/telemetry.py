"""The cost of telemetry: `1+1` with and without its consumers, in interleaved pairs on pools of one process.

`python benchmarks/telemetry.py bubblewrap: --pairs 60`. Each pair is a batch of executions on either pool, in a random
order, so that other work on the machine affects both. It prints, each as the median of the pairs with its quartiles,
the ratio of the times, and the additional processor time of this process per execution, which is meaningful on a busy
machine, too. The first line compares two pools without consumers: the measurement's resolution. The last lines are the
processor time of recording an execution alone, in a loop: the minimum of ten.

`python benchmarks/telemetry.py --instructions` counts instructions instead, with callgrind (valgrind), which takes some
minutes: what each consumer adds to the host process, and to the whole of `1+1` including its sandbox's processes; and
what OpenTelemetry's SDK takes alone for a span with such attributes that is current for a moment, and for a value.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from unittest.mock import patch

import counting
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import greenroom
from greenroom.backend import Backend
from greenroom.connecting import open_backend
from greenroom.local.metering import Metering
from greenroom.local.recording import Recorder
from greenroom.models import Execution
from greenroom.server.state.file import StateFile
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.sessions import OpenPool, SessionPool
from greenroom.telemetry import Observer, Work, both, ignore, meters, nobody, python_logging, tracing, writer
from greenroom.telemetry.aggregate import Aggregate


class Dropped(SpanProcessor):
    """Receives spans like an exporter in the background, and drops them."""

    def on_end(self, span: ReadableSpan) -> None:
        """Do nothing: the export does not delay the caller."""


@contextmanager
def log_in(path: Path) -> Generator[LogStore, None, None]:
    """Yield the consumer that writes a server's log, to a file."""

    async def open_store() -> LogStore:
        await (await StateFile.open(path)).close()
        return LogStore(path, LogLimits())

    store = asyncio.run(open_store())
    try:
        yield store
    finally:
        asyncio.run(store.close())


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


def record(observer: Observer, rounds: int) -> None:
    """Record executions without content."""
    recorder = Recorder(observer, Metering(time.monotonic), "benchmark", content=False)
    execution = Execution("1", "succeeded", result="2")
    for _ in range(rounds):
        with recorder.executing("session", Work.CODE) as recorded, recorded.span.active():
            recorded.began()
            recorded.ended(execution)


def alone(observer: Observer, rounds: int = 3000) -> float:
    """Return the seconds of processor time that recording one execution takes."""

    def once() -> float:
        began = time.process_time()
        record(observer, rounds)
        return (time.process_time() - began) / rounds

    return min(once() for _ in range(10))


@dataclass(frozen=True)
class Consumer:
    """The consumers with which a pool is opened, and its tracer provider."""

    observer: Observer = ignore
    tracer: trace.Tracer | None = None

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        """Create spans with this one's tracer in the meantime, or none."""
        with patch.object(tracing, "_tracer", lambda: self.tracer):
            yield


def open_pool(url: str, consumer: Consumer) -> SessionPool:
    async def backend() -> Backend:
        with patch.object(python_logging, "observer_of", nobody):  # a program's pool also has this observer
            return await open_backend(url, consumer.observer, ready_session_instances=0, preload=())

    return SessionPool(OpenPool.open(backend))


class Consumers:
    """The consumers to compare, starting with none; and OpenTelemetry's SDK alone."""

    def __init__(self, store: LogStore) -> None:
        """Take the store of a server's log."""
        log = store.observer_of("benchmark")
        self.write = partial(store._writer.flush, 60)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        """Writes the waiting records."""
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(Dropped())
        tracer = self._tracer = provider.get_tracer("greenroom")
        sampling = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
        metering = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        self._histogram = metering.get_meter("benchmark").create_histogram("duration", "s")
        instruments = meters.Meters(metering)
        self.all = {
            NOBODY: Consumer(),
            "events, counted for /metrics": Consumer(Aggregate().observe),
            "Python's logging, not set up": Consumer(python_logging.observer_of("benchmark")),
            "the log of a server, in a file": Consumer(log),
            "both, as a server has": Consumer(both(Aggregate().observe, log)),
            "metrics by OpenTelemetry": Consumer(instruments.observer("benchmark")),
            "spans by OpenTelemetry": Consumer(tracer=tracer),
            "spans that are sampled out": Consumer(tracer=sampling.get_tracer("greenroom")),
            ALL: Consumer(both(both(Aggregate().observe, log), instruments.observer("benchmark")), tracer),
        }
        self.bare: dict[str, Callable[[], None]] = {"one span": self._span, "one value of a histogram": self._value}

    def _span(self) -> None:
        attributes = {"greenroom.session.id": "benchmark", "greenroom.pool.name": "default"}
        span = self._tracer.start_span("execute code", None, trace.SpanKind.INTERNAL, attributes)
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            pass
        span.set_attributes({"greenroom.execution.status": "succeeded", "greenroom.execution.duration": 0.001})
        span.end()

    def _value(self) -> None:
        self._histogram.record(0.001, {"work": "code", "status": "succeeded", "pool": "benchmark"})


@contextmanager
def all_consumers() -> Generator[Consumers, None, None]:
    with TemporaryDirectory() as folder, log_in(Path(folder, "state.db")) as store:
        yield Consumers(store)


NOBODY = "no consumer"
ALL = "all of it"
RECORDING = "recording alone, "


def count(url: str, size: int, rounds: int) -> None:
    """Print what each consumer costs, in instructions."""
    with all_consumers() as consumers, counting.Counted(__file__, url, "--serve-batches") as counted:

        def least(batch: str) -> float:
            # Timers and other threads only add to the counts.
            return min(counted.count(batch, size) for _ in range(rounds)) / 1000

        executions = {name: least(name) for name in consumers.all}
        alone = {name: least(f"{RECORDING}{name}") for name in consumers.all}
        bare = {name: least(name) for name in consumers.bare}
    host = executions[NOBODY]
    whole = host + counting.of_sandbox("1+1", size) / 1000
    print(f"1+1: {whole:,.0f} thousand instructions, {host:,.0f} of them in the host process")
    for name, total in executions.items():
        more, recording = total - host, alone[name] - alone[NOBODY]
        print(
            f"{name}: {more:+.1f} thousand, {100 * more / whole:+.1f} % of 1+1, {100 * more / host:+.1f} % of the host "
            f"process; by recording alone {recording:+.1f} thousand, {100 * recording / whole:+.1f} % of 1+1"
        )
    print(f"{NOBODY}, by recording alone: {alone[NOBODY]:.1f} thousand, {100 * alone[NOBODY] / whole:.1f} % of 1+1")
    for name, total in bare.items():
        print(f"OpenTelemetry's SDK by itself, {name}: {total:.1f} thousand, {100 * total / whole:.1f} % of 1+1")
    own = executions[ALL] - host - sum(bare.values())
    print(f"{ALL}, without OpenTelemetry's SDK by itself: {own:+.1f} thousand, {100 * own / whole:+.1f} % of 1+1")


def serve_batches(url: str) -> None:
    """Run the batches named on standard input, in the process whose instructions are counted.

    Everything except timers takes some fifty times longer there, so the log collects records for the length of a batch.
    """
    writer._GATHER *= 50  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    with all_consumers() as consumers, ExitStack() as stack:
        sessions: dict[str, greenroom.Session] = {}
        for name, consumer in consumers.all.items():
            session = sessions[name] = stack.enter_context(open_pool(url, consumer)).session()
            batch(session, 20)
        print("ready", flush=True)
        for line in sys.stdin:
            words, _, size = line.rpartition(" ")
            name = words.removeprefix(RECORDING)
            if name in consumers.bare:
                for _ in range(int(size)):
                    consumers.bare[name]()
            elif name != words:
                with consumers.all[name].watching():
                    record(consumers.all[name].observer, int(size))
            else:
                with consumers.all[name].watching():
                    for _ in range(int(size)):
                        sessions[name].execute("1+1")
            consumers.write()
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
        count(arguments.url, arguments.batch, 5)
    else:
        compare_times(arguments.url, arguments.pairs, arguments.batch)


def compare_times(url: str, pairs: int, size: int) -> None:
    """Print what each consumer costs in pairs of batches, and what recording takes alone."""
    with all_consumers() as consumers, ExitStack() as stack:

        def session_of(consumer: Consumer) -> greenroom.Session:
            session = stack.enter_context(open_pool(url, consumer)).session()
            batch(session, 50)
            return session

        def run(consumer: Consumer, session: greenroom.Session) -> Callable[[], Batch]:
            def measure() -> Batch:
                with consumer.watching():
                    return batch(session, size)

            return measure

        plain = session_of(Consumer())
        print(f"1+1 in {1000 * batch(plain, 500).wall:.2f} ms, {pairs} pairs of {size}: ratio; processors")
        for name, consumer in consumers.all.items():
            compare(name, run(Consumer(), plain), run(consumer, session_of(consumer)), pairs)
    for name, consumer in consumers.all.items():
        with consumer.watching():
            print(f"recording alone, {name}: {1e6 * alone(consumer.observer):.1f} us")


if __name__ == "__main__":
    main()
