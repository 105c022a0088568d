"""One execution, output and files compared with peers: a part of `make bench`. `--only http` measures a single part.

Every figure comes with that of its peer, measured alternately in the same run: an ipykernel on the host, processes that
only pass a line along, `cat` through a pipe into the same sandbox, and an empty Starlette route. Ratios are of medians,
and also of the tenth percentiles, which other work on the machine disturbs less. A run of all parts writes them and a
profile of `1+1` into docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from benchmarks import profiles
from benchmarks.bare import bare
from benchmarks.comparison.measuring import machine, processes
from benchmarks.comparison.page import PATH, replaced
from benchmarks.sessions import PANDAS, ipykernel, seconds, wait_until_ready

import greenroom

PRINTS = "for i in range(50_000): print(i)"
DISPLAYS = "from IPython.display import HTML\nfor i in range(300): display(HTML(f'<b>{i}</b>'))"
LONG = "for _ in range(60_000): print('x' * 999)"
OUTPUT = {"50,000 short prints": PRINTS, "300 displays": DISPLAYS, "60 MB of output": LONG}

FILE_SIZE = 96 << 20
CALLERS = (1, 20, 200)
SESSIONS = 20
_CALLS = 100
"""The total over all callers; each makes at least one, and several one after another."""

_ROUTE = """
import socket
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def nothing(_request):
    return Response(b"{}", media_type="application/json")

application = Starlette(routes=[Route("/", nothing, methods=["POST"])])
# With this protocol asyncio disables Nagle's algorithm; otherwise each response would wait 40 ms to send its body.
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(application, log_level="critical", access_log=False)).run([listener])
"""


@dataclass(frozen=True)
class Row:
    """A measurement and that of its peer; times in seconds."""

    what: str
    ours: Sequence[float]
    peer: str
    theirs: Sequence[float]
    most: float | None = None
    """The highest ratio that is within the budget, if there is one."""


def in_turn(acts: Mapping[str, Callable[[], object]], rounds: int, batch: int = 1) -> dict[str, list[float]]:
    """Times of each action, by name: a batch of one, then of the next, as other work on the machine varies."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            times[name] += [seconds(act) for _ in range(batch)]
    return times


def checked(session: greenroom.Session, code: str) -> Callable[[], object]:
    return lambda: session.execute(code).raise_for_error()


def core(url: str, rounds: int) -> Generator[Row]:
    """The next execution, and output, compared with ipykernel's."""
    limits: dict[str, Any] = {"output_limit": "64Mi", "display_limit": "32Mi"}
    with (
        greenroom.connect(url, ready_session_instances=0, preload=(), **limits) as pool,
        ipykernel() as kernel,
        bare() as execute,
    ):
        session = pool.session()
        assert "2" in execute("1+1")
        acts: dict[str, Callable[[], object]] = {
            "ours": checked(session, "1+1"),
            "theirs": lambda: kernel("1+1"),
            "bare": lambda: execute("1+1"),
        }
        in_turn(acts, 20)
        times = in_turn(acts, 5 * rounds, batch=10)
        yield Row("`1+1`", times["ours"], "ipykernel", times["theirs"], 0.15)
        yield Row("`1+1`", times["ours"], "`run_cell` behind two pipes", times["bare"])
        for what, code in OUTPUT.items():
            acts = {"ours": checked(session, code), "theirs": partial(kernel, code)}
            times = in_turn(acts, max(rounds // 3, 3))
            yield Row(what, times["ours"], "ipykernel", times["theirs"], 1)


def warm(url: str, rounds: int) -> Generator[Row]:
    """A new session's first pandas result from a warm pool, compared with ipykernel's `1+1`."""
    ours: list[float] = []
    theirs: list[float] = []
    batch = 5
    with (
        greenroom.connect(url, ready_session_instances=batch, max_concurrent_sessions=2 * batch) as pool,
        ipykernel() as kernel,
    ):
        kernel("1+1")
        while len(ours) < rounds:
            wait_until_ready(pool, batch)
            sessions = [pool.session() for _ in range(batch)]
            for session in sessions:
                theirs.append(seconds(lambda: kernel("1+1")))
                ours.append(seconds(checked(session, PANDAS)))
            for session in sessions:
                session.delete()
    yield Row("new session, first pandas result, warm", ours, "ipykernel, `1+1`", theirs, 1.2)


def files(url: str, rounds: int) -> Generator[Row]:
    """A file into a sandbox and out of it, compared with `cat` through a pipe into the same sandbox (as root)."""
    with (
        greenroom.connect(url, ready_session_instances=0, preload=()) as pool,
        pool.session() as session,
        tempfile.TemporaryDirectory() as directory,
    ):
        source, target = Path(directory, "source"), Path(directory, "target")
        source.write_bytes(os.urandom(1 << 20) * (FILE_SIZE >> 20))
        session.upload(source, "source")
        inside = next(pid for pid in processes() if os.path.exists(f"/proc/{pid}/root/mnt/data/source"))  # noqa: PTH110
        enter = f"nsenter --all --target {inside}"

        def shell(command: str) -> Callable[[], object]:
            return lambda: subprocess.run(command, shell=True, check=True)

        def download() -> None:
            target.unlink(missing_ok=True)
            session.download("source", target)

        acts = {
            "up": lambda: session.upload(source, "source"),
            "cat up": shell(f"cat {source} | {enter} sh -c 'cat > /mnt/data/source'"),
            "down": download,
            "cat down": shell(f"rm -f {target}; {enter} cat /mnt/data/source | cat > {target}"),
        }
        times = in_turn(acts, max(rounds // 2, 5))
        yield Row(f"upload, {FILE_SIZE >> 20} MiB", times["up"], "`cat`", times["cat up"], 2)
        yield Row(f"download, {FILE_SIZE >> 20} MiB", times["down"], "`cat`", times["cat down"], 2)


@contextmanager
def served(url: str) -> Generator[str]:
    """The endpoint of `greenroom serve`, in a separate process."""
    url += f"{'&' if '?' in url else '?'}ready_session_instances=0&preload="
    command = [sys.executable, "-m", "greenroom", "serve", "--pool", url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield server.stderr.readline().split()[-1]
        finally:
            server.terminate()


@contextmanager
def empty_route() -> Generator[str]:
    """The URL of an empty Starlette route, in a separate process."""
    with subprocess.Popen([sys.executable, "-c", _ROUTE], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/"
        finally:
            server.terminate()


def http(url: str, rounds: int) -> Generator[Row]:
    """The next execution through `greenroom serve` and its client, compared with the core and an empty route."""
    with (
        greenroom.connect(url, ready_session_instances=0, preload=()) as local,
        served(url) as endpoint,
        greenroom.connect(endpoint) as remote,
        empty_route() as route,
        ipykernel() as kernel,
    ):
        pools = {"core": local, "http": remote}
        sessions = {name: [pool.session() for _ in range(SESSIONS)] for name, pool in pools.items()}
        for each in (*sessions["core"], *sessions["http"]):
            each.execute("1")
        acts: dict[str, Callable[[], object]] = {
            "http": checked(sessions["http"][0], "1+1"),
            "kernel": lambda: kernel("1+1"),
        }
        in_turn(acts, 20)
        times = in_turn(acts, 3 * rounds, batch=5)
        yield Row("`1+1` over HTTP", times["http"], "ipykernel", times["kernel"], 0.5)
        yield Row("`1+1` over HTTP", times["http"], "3 ms", [0.003], 1)
        for callers in CALLERS:
            many = {name: partial(_run, _many, sessions[name], callers) for name in pools}
            many["route"] = partial(_run, _many_posts, route, callers)
            times = in_turn(many, max(rounds // 2, 3))
            calls = max(_CALLS, callers)
            each_of = {name: [value / calls for value in values] for name, values in times.items()}
            what = f"`1+1` over HTTP, {callers} caller{'s' * (callers > 1)}, per call of {calls}"
            yield Row(what, each_of["http"], "core", each_of["core"], 3)
            yield Row(what, each_of["http"], "empty route, httpx", each_of["route"])


def _run(function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
    asyncio.run(function(*arguments))


async def _many(sessions: Sequence[greenroom.Session], callers: int) -> None:
    async def caller(session: greenroom.Session) -> None:
        for _ in range(max(_CALLS // callers, 1)):
            (await session.aexecute("1+1")).raise_for_error()

    await asyncio.gather(*(caller(sessions[number % len(sessions)]) for number in range(callers)))


async def _many_posts(url: str, callers: int) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(trust_env=False, verify=False, limits=limits, timeout=60) as client:

        async def caller() -> None:
            for _ in range(max(_CALLS // callers, 1)):
                await client.post(url, json={"code": "1+1"})

        await asyncio.gather(*(caller() for _ in range(callers)))


PARTS: dict[str, Callable[[str, int], Generator[Row]]] = {"core": core, "warm": warm, "files": files, "http": http}


def block(url: str, rows: Sequence[Row], rounds: int) -> Iterator[str]:
    """Yield the lines for docs/performance.md."""
    here = machine()
    yield (
        f"Measured on {datetime.now(UTC).date().isoformat()} on `{url}` with `python -m benchmarks.speed --rounds "
        f"{rounds}`, on {here['processors']} processors, Linux {here['kernel']}; the load was {here['load']:.1f} at "
        "the start. Figures in parentheses are of tenth percentiles, all others of medians."
    )
    yield ""
    yield "| | Greenroom | peer | | ratio | budget |"
    yield "|---|---:|---|---:|---:|---:|"
    yield from map(_line, rows)
    yield ""
    yield from profiles.table(url)


def _line(row: Row) -> str:
    ours, theirs = (median(row.ours), _low(row.ours)), (median(row.theirs), _low(row.theirs))
    budget = "" if row.most is None else f"{row.most:g}"
    ratio = " (".join(f"{mine / other:.2f}" for mine, other in zip(ours, theirs, strict=True))
    return f"| {row.what} | {_time(*ours)} | {row.peer} | {_time(*theirs)} | {ratio}) | {budget} |"


def _low(values: Sequence[float]) -> float:
    return quantiles(values, n=10, method="inclusive")[0] if len(values) > 1 else values[0]


def _time(middle: float, low: float) -> str:
    return f"{1000 * middle:,.2f} ms ({1000 * low:,.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", nargs="?", default="bubblewrap:", metavar="POOL")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part, and write nothing")
    arguments = parser.parse_args()
    chosen: list[str] = arguments.only or [part for part in PARTS if part != "files" or os.geteuid() == 0]
    rows: list[Row] = []
    for part in chosen:
        for row in PARTS[part](arguments.pool, arguments.rounds):
            rows.append(row)
            print(_line(row), file=sys.stderr, flush=True)
    if not arguments.only:
        page = replaced(PATH.read_text(), "one execution", block(arguments.pool, rows, arguments.rounds))
        PATH.write_text(page)


if __name__ == "__main__":
    main()
