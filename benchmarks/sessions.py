"""Tool calls, HTTP, and executions while sandboxes start: `make bench`, or `python benchmarks/sessions.py docker:`.

Each figure is a median over `--rounds` (at least 20). Peers run in the same minutes on the same machine: a bare pipe
to a process, and an ipykernel on the host. `python -m benchmarks.comparison` measures starts, concurrent sessions and
memory, compared with more peers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from statistics import median, quantiles

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import greenroom
from greenroom import SessionPool
from greenroom.azure.codecs.shared import LATEST

PANDAS = "import pandas as pd\npd.DataFrame({'a': [1, 2, 3]}).a.sum()"


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def wait_until_ready(pool: SessionPool, count: int) -> None:
    """Wait until this many sandboxes are warm: a session takes the oldest, and preloading takes time."""
    deadline = time.monotonic() + 120
    while pool.status().ready < count and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(4)


def beside_starts(url: str, rounds: int) -> tuple[float, float]:
    """The 95th percentile of the next execution: on a quiet pool, and while ten sandboxes start and import."""
    calm: list[float] = []
    busy: list[float] = []
    count = 10
    with (
        greenroom.connect(url, ready_session_instances=count, max_concurrent_sessions=3 * count) as pool,
        pool.session() as session,
    ):
        session.execute("1+1")
        for _ in range(max(rounds // 5, 1)):
            wait_until_ready(pool, count)
            calm += [seconds(lambda: session.execute("1+1")) for _ in range(200)]
            others = [pool.session() for _ in range(count)]
            for other in others:
                other.execute("1")
            imported = None  # when they should have finished their imports, which a pool does not report
            while imported is None or time.monotonic() < imported:
                busy += [seconds(lambda: session.execute("1+1")) for _ in range(20)]
                if imported is None and pool.status().ready >= count:
                    imported = time.monotonic() + 1
            for other in others:
                other.delete()
    return quantiles(calm, n=20)[-1], quantiles(busy, n=20)[-1]


INNER_CALLS = """
import time
times = []
for _ in range({count}):
    began = time.perf_counter()
    double(21)
    times.append(time.perf_counter() - began)
times
"""


def inner_call(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Round trips of calls from code to an application's function; and the next executions in the same minutes."""

    def double(number: int) -> int:
        return 2 * number

    inner: list[float] = []
    outer: list[float] = []
    with greenroom.connect(url, ready_session_instances=0) as pool, pool.session() as session:
        for _ in range(20):
            session.execute("double(1)", tools=[double])
        for _ in range(rounds):  # alternating, as other work on the machine varies
            outer += [seconds(lambda: session.execute("1+1")) for _ in range(20)]
            result = session.execute(INNER_CALLS.format(count=20), tools=[double]).raise_for_error().result
            inner += json.loads(result or "[]")
    return inner, outer


def with_quartiles(times: list[float]) -> str:
    low, middle, high = quantiles((1000 * each for each in times), n=4)
    return f"{middle:.2f} ms ({low:.2f} to {high:.2f})"


def over_http(url: str, rounds: int) -> tuple[float, float]:
    """The next execution through `greenroom serve` in a separate process, in our version and in Azure's."""
    command = [sys.executable, "-m", "greenroom", "serve", "--pool", url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            endpoint = server.stderr.readline().split()[-1]
            with greenroom.connect(endpoint) as ours, greenroom.connect(endpoint, api_version=LATEST) as azures:
                sessions = ours.session(), azures.session()
                times = [
                    [seconds(lambda session=session: session.execute("1+1")) for session in sessions]
                    for _ in range(20 + rounds * 10)  # alternating, as other work on the machine varies
                ]
            first, second = zip(*times[20:], strict=True)
            return median(first), median(second)
        finally:
            server.terminate()


def bare_pipe(rounds: int) -> float:
    command = [sys.executable, "-c", "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def once() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("1+1\n")
            process.stdin.flush()
            process.stdout.readline()

        once()
        result = median(seconds(once) for _ in range(rounds * 10))
        process.stdin.close()
        return result


@contextmanager
def ipykernel() -> Generator[Callable[[str], object], None, None]:
    from jupyter_client.manager import KernelManager  # noqa: PLC0415  only this peer needs it

    manager = KernelManager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    try:
        yield lambda code: client.execute_interactive(code, timeout=60, output_hook=_ignore)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _ignore(_message: object) -> None:
    pass


def kernel_execution(rounds: int) -> float:
    with ipykernel() as execute:
        execute("1+1")
        return median(seconds(lambda: execute("1+1")) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", default=["bubblewrap:", "docker:"], metavar="POOL")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--tools", action="store_true", help="measure calls of tools alone, in five times as many rounds"
    )
    arguments = parser.parse_args()
    rounds: int = arguments.rounds
    console = Console()
    table = Table(title=f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    table.add_column("what")
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)
    )
    rows: dict[str, list[str]] = {}

    def measure(where: str, what: str, unit: str, act: Callable[[], float | None]) -> None:
        task = progress.add_task(f"{where} {what}")
        value = act()
        progress.remove_task(task)
        scaled = None if value is None else value * 1000 if unit == "ms" else value
        rows.setdefault(what, []).append("-" if scaled is None else f"{scaled:,.2f} {unit}")

    with progress:
        for pool in arguments.pools:
            try:
                greenroom.connect(pool, ready_session_instances=0).close()
            except greenroom.EngineUnavailable as error:
                console.print(f"{pool} is left out: {error}", markup=False)
                continue
            table.add_column(pool, justify="right")
            inner, outer = inner_call(pool, 5 * rounds if arguments.tools else rounds)
            for what, value in (
                ("one call of a tool (quartiles)", with_quartiles(inner)),
                ("1+1, in the same minutes", with_quartiles(outer)),
                ("the call, divided by that", f"{median(inner) / median(outer):.2f}"),
            ):
                rows.setdefault(what, []).append(value)
            if arguments.tools:
                continue
            calm, busy = beside_starts(pool, rounds)
            measure(pool, "1+1, 95th percentile", "ms", lambda calm=calm: calm)
            measure(pool, "the same while ten sandboxes start", "ms", lambda busy=busy: busy)
            ours, azures = over_http(pool, rounds)
            measure(pool, "the same over HTTP", "ms", lambda ours=ours: ours)
            measure(pool, "the same over HTTP, in Azure's contract", "ms", lambda azures=azures: azures)
        if not arguments.no_peers and not arguments.tools:
            measure("peer", "peer: bare pipe, one line there and back", "ms", lambda: bare_pipe(rounds))
            measure("peer", "peer: ipykernel on the host, 1+1", "ms", lambda: kernel_execution(rounds))
    for what, values in rows.items():
        table.add_row(what, *values)
    console.print(table)


if __name__ == "__main__":
    main()
