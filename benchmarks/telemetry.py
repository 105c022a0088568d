"""What signals cost: `1+1` with and without their consumers, in interleaved pairs on pools of one process.

`python benchmarks/telemetry.py bubblewrap: --pairs 60`. Each pair is a batch of executions on either pool, in a random
order, so that other work on the machine meets both. Printed are, each as the median of the pairs with its quartiles,
the ratio of the times, and the processor time of this process that an execution takes more, which tells something on a
busy machine, too. The first line compares two pools without consumers: what the measurement can tell. The last lines
are the processor time of recording an execution by itself, in a loop: the least of ten.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from unittest.mock import patch

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import greenroom
from greenroom.backend import Backend
from greenroom.connecting import open_backend
from greenroom.local.metering import Metering
from greenroom.local.recording import Recorder
from greenroom.models import Execution
from greenroom.server.state.file import StateFile
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.sessions import OpenPool, SessionPool
from greenroom.telemetry import Observer, Work, both, ignore, meters, nobody, python_logging, tracing
from greenroom.telemetry.aggregate import Aggregate


class Dropped(SpanProcessor):
    """Takes spans as an exporter in the background would, and drops them."""

    def on_end(self, span: ReadableSpan) -> None:
        """Do nothing: the export is not in the caller's way."""


def open_pool(url: str, observer: Observer, *, logging: bool = False) -> SessionPool:
    """Open a pool; without `logging`, one with no observer has no consumer at all, as a server's would."""

    async def backend() -> Backend:
        with contextlib.nullcontext() if logging else patch.object(python_logging, "observer_of", nobody):
            return await open_backend(url, observer, ready_session_instances=0, preload=())

    return SessionPool(OpenPool.open(backend))


@contextlib.contextmanager
def log_in(path: Path) -> Generator[Observer, None, None]:
    """Yield the consumer that keeps a server's log in a file."""

    async def open_store() -> LogStore:
        await (await StateFile.open(path)).close()
        return LogStore(path, LogLimits())

    store = asyncio.run(open_store())
    try:
        yield store.observer_of("benchmark")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="bubblewrap:")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=60)
    arguments = parser.parse_args()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Dropped())
    tracer = provider.get_tracer("greenroom")
    with ExitStack() as stack:

        def session_of(observer: Observer, *, logging: bool = False) -> greenroom.Session:
            pool = stack.enter_context(open_pool(arguments.url, observer, logging=logging))
            session = pool.session()
            batch(session, 50)
            return session

        def run(session: greenroom.Session, *, traced: bool) -> Callable[[], Batch]:
            def measure() -> Batch:
                with patch.object(tracing, "_tracer", lambda: tracer if traced else None):
                    return batch(session, arguments.batch)

            return measure

        aggregate = Aggregate()
        instruments = meters.Meters(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))
        plain, other, prometheus = session_of(ignore), session_of(ignore), session_of(aggregate.observe)
        otel = session_of(instruments.observer("benchmark"))
        logging = session_of(ignore, logging=True)
        log = stack.enter_context(log_in(Path(stack.enter_context(TemporaryDirectory()), "state.db")))
        logged = session_of(log)
        wall = 1000 * batch(plain, 500).wall
        print(f"1+1 in {wall:.2f} ms, {arguments.pairs} pairs of {arguments.batch}: ratio; processors")
        untraced = run(plain, traced=False)
        for what, session, traced in (
            ("two pools without consumers", other, False),
            ("events, counted for /metrics", prometheus, False),
            ("Python's logging, not set up", logging, False),
            ("the log of a server, in a file", logged, False),
            ("metrics by OpenTelemetry", otel, False),
            ("spans", other, True),
            ("spans and metrics by OpenTelemetry", otel, True),
        ):
            compare(what, untraced, run(session, traced=traced), arguments.pairs)
        for what, observer, traced in (
            ("without consumers", ignore, False),
            ("events, counted for /metrics", Aggregate().observe, False),
            ("Python's logging, not set up", python_logging.observer_of("benchmark"), False),
            ("the log of a server, in a file", log, False),
            ("metrics by OpenTelemetry", instruments.observer("benchmark"), False),
            ("spans", ignore, True),
            ("all of it", both(Aggregate().observe, instruments.observer("benchmark")), True),
        ):
            with patch.object(tracing, "_tracer", lambda traced=traced: tracer if traced else None):
                print(f"recording alone, {what}: {1e6 * alone(observer):.1f} us")


if __name__ == "__main__":
    main()
