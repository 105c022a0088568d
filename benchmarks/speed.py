"""One execution beside its peers, in turn in one run: `python -m benchmarks.speed`, with `--only http` for one part.

Every figure stands beside that of its peer, measured in the same rounds: an ipykernel on the host, `cat` through a pipe
into the same sandbox, and a route of Starlette that does nothing. Ratios are of medians, and beside them of the
shortest times, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from benchmarks.sessions import PANDAS, ipykernel, seconds, wait_until_ready
from rich.console import Console
from rich.table import Table

import greenroom

PRINTS = "for i in range(50_000): print(i)"
DISPLAYS = "from IPython.display import HTML\nfor i in range(300): display(HTML(f'<b>{i}</b>'))"
LONG = "for _ in range(60_000): print('x' * 999)"
OUTPUT = {"50,000 short prints": PRINTS, "300 displays": DISPLAYS, "60 MB of output": LONG}

FILE_SIZE = 96 << 20
CALLERS = (20, 200)
SESSIONS = 20

ROUTE = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def nothing(_request):
    return Response(b"{}", media_type="application/json")

application = Starlette(routes=[Route("/", nothing, methods=["POST"])])
uvicorn.run(application, port=int(sys.argv[1]), log_level="critical", access_log=False)
"""


@dataclass(frozen=True)
class Row:
    """What was measured, beside its peer; times in seconds."""

    what: str
    ours: Sequence[float]
    peer: str
    theirs: Sequence[float]
    most: float
    """The highest ratio that is within the budget."""


def in_turn(acts: Mapping[str, Callable[[], object]], rounds: int, batch: int = 1) -> dict[str, list[float]]:
    """Times of each act, by name: a batch of one, then one of the next, as other work comes and goes."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            times[name] += [seconds(act) for _ in range(batch)]
    return times


def checked(session: greenroom.Session, code: str) -> Callable[[], object]:
    return lambda: session.execute(code).raise_for_error()


def core(url: str, rounds: int) -> Generator[Row]:
    """The next execution, and output, beside ipykernel's."""
    limits: dict[str, Any] = {"output_limit": "64Mi", "display_limit": "32Mi"}
    with greenroom.connect(url, ready_session_instances=0, preload=(), **limits) as pool, ipykernel() as kernel:
        session = pool.session()
        for _ in range(20):
            session.execute("1+1")
            kernel("1+1")
        times = in_turn({"ours": checked(session, "1+1"), "theirs": lambda: kernel("1+1")}, 5 * rounds, batch=10)
        yield Row("1+1", times["ours"], "ipykernel", times["theirs"], 0.15)
        for what, code in OUTPUT.items():
            acts = {"ours": checked(session, code), "theirs": lambda code=code: kernel(code)}
            times = in_turn(acts, max(rounds // 4, 3))
            yield Row(what, times["ours"], "ipykernel", times["theirs"], 1)


def warm(url: str, rounds: int) -> Generator[Row]:
    """A new session's first result of pandas from a warm pool, beside ipykernel's `1+1`."""
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
    yield Row("new session, first pandas result, warm", ours, "ipykernel, 1+1", theirs, 1.2)


def files(url: str, rounds: int) -> Generator[Row]:
    """A file into a sandbox and out of it, beside `cat` through a pipe into the same sandbox (as root)."""
    with (
        greenroom.connect(url, ready_session_instances=0, preload=()) as pool,
        pool.session() as session,
        tempfile.TemporaryDirectory() as directory,
    ):
        enter = f"nsenter --all --target {session.execute('0') and _first_process()}"
        source, target = Path(directory, "source"), Path(directory, "target")
        source.write_bytes(os.urandom(1 << 20) * (FILE_SIZE >> 20))

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
        session.upload(source, "source")
        times = in_turn(acts, max(rounds // 2, 5))
        yield Row(f"upload, {FILE_SIZE >> 20} MiB", times["up"], "cat", times["cat up"], 2)
        yield Row(f"download, {FILE_SIZE >> 20} MiB", times["down"], "cat", times["cat down"], 2)


def _first_process() -> int:
    """The first process of the newest sandbox that this process has."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    newest = max(int(pid) for path in children for pid in path.read_text().split())
    with suppress(OSError):
        return int(Path(f"/proc/{newest}/task/{newest}/children").read_text().split()[0])
    return newest


@contextmanager
def served(url: str) -> Generator[str]:
    """The endpoint of `greenroom serve`, in a process of its own."""
    url += f"{'&' if '?' in url else '?'}ready_session_instances=0&preload="
    command = [sys.executable, "-m", "greenroom", "serve", "--pool", url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield server.stderr.readline().split()[-1]
        finally:
            server.terminate()


@contextmanager
def empty_route(port: int = 8731) -> Generator[str]:
    """The URL of a route of Starlette that does nothing, in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", ROUTE, str(port)]) as server:
        url = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(300):
                with suppress(httpx.TransportError):
                    httpx.post(url, trust_env=False)
                    break
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()


def http(url: str, rounds: int) -> Generator[Row]:
    """The next execution through `greenroom serve` and its client, beside the core and an empty route of Starlette."""
    with (
        greenroom.connect(url, ready_session_instances=0, preload=()) as local,
        served(url) as endpoint,
        greenroom.connect(endpoint) as remote,
        empty_route() as route,
        httpx.Client(trust_env=False) as client,
    ):
        here, there = local.session(), remote.session()
        acts = {
            "core": checked(here, "1+1"),
            "http": checked(there, "1+1"),
            "route": lambda: client.post(route, json={"code": "1+1"}),
        }
        in_turn(acts, 20)
        times = in_turn(acts, 5 * rounds, batch=10)
        yield Row("1+1 over HTTP", times["http"], "core", times["core"], 3)
        yield Row("1+1 over HTTP", times["http"], "3 ms", [0.003], 1)
        yield Row("1+1 over HTTP", times["http"], "empty route, httpx", times["route"], 3)
        pools = {"core": local, "http": remote}
        sessions = {name: [pool.session() for _ in range(SESSIONS)] for name, pool in pools.items()}
        for name in pools:
            for session in sessions[name]:
                session.execute("1")
        for callers in CALLERS:
            many: dict[str, Callable[[], object]] = {
                name: partial(_run, _many, sessions[name], callers) for name in pools
            }
            many["route"] = partial(_run, _many_posts, route, callers)
            times = in_turn(many, max(rounds // 4, 3))
            each = {name: [value / (callers * _EACH) for value in values] for name, values in times.items()}
            what = f"1+1 over HTTP, {callers} callers, {SESSIONS} sessions, each of"
            yield Row(what, each["http"], "core", each["core"], 3)
            yield Row(what, each["http"], "empty route, httpx", each["route"], 3)


_EACH = 5  # calls of each caller, one after the other


def _run(function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
    asyncio.run(function(*arguments))


async def _many(sessions: Sequence[greenroom.Session], callers: int) -> None:
    async def caller(session: greenroom.Session) -> None:
        for _ in range(_EACH):
            await session.aexecute("1+1")

    await asyncio.gather(*(caller(sessions[number % len(sessions)]) for number in range(callers)))


async def _many_posts(url: str, callers: int) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as client:

        async def caller() -> None:
            for _ in range(_EACH):
                await client.post(url, json={"code": "1+1"})

        await asyncio.gather(*(caller() for _ in range(callers)))


PARTS: dict[str, Callable[[str, int], Generator[Row]]] = {"core": core, "warm": warm, "files": files, "http": http}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", nargs="?", default="bubblewrap:", metavar="POOL")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=PARTS, action="append")
    arguments = parser.parse_args()
    console = Console()
    table = Table(title=f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    for column in ("what", "median", "shortest", "peer", "median", "shortest", "ratio", "of the shortest", "budget"):
        table.add_column(column, justify="left" if column in {"what", "peer"} else "right")
    chosen: list[str] = arguments.only or [part for part in PARTS if part != "files" or os.geteuid() == 0]
    for part in chosen:
        for row in PARTS[part](arguments.pool, arguments.rounds):
            ours, theirs = (median(row.ours), min(row.ours)), (median(row.theirs), min(row.theirs))
            ratios = [f"{mine / other:.2f}" for mine, other in zip(ours, theirs, strict=True)]
            times: list[Any] = [*map(_milliseconds, ours), row.peer, *map(_milliseconds, theirs)]
            table.add_row(row.what, *times, *ratios, f"{row.most:g}")
            print(row.what, *times, *ratios, sep="\t", file=sys.stderr, flush=True)
    console.print(table)


def _milliseconds(value: float) -> str:
    return f"{1000 * value:,.2f} ms"


if __name__ == "__main__":
    main()
