"""The results as a page of Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import greenroom
from load.run import Result

_HEAD = """# A web service under load

This page shows the throughput and latency of [the example service](../examples/web_service), and what is lost
when a worker is killed. `make load` wrote it for Greenroom {version} on {date}, on a machine with {processors}
processors, which also ran the load test. {users} users each have their own session on bubblewrap. Each request runs
`count += 1` in it, and each user sends the next request after the outcome of the previous one. {workers} uvicorn
workers share the sessions through one `greenroom serve`. In the middle of each run, a worker is killed with SIGKILL,
and uvicorn starts another.

{table}
A request whose connection breaks is sent again with the same `Idempotency-Key`, so its code runs only once. At the end,
each session's count is compared with the number of requests that had an outcome. A session counts as lost if it was
restarted or if the two numbers differ. Latency is measured by the user, from the first attempt to the outcome.
"""


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


_ROWS: Sequence[tuple[str, Callable[[Result], str]]] = (
    ("seconds", lambda result: f"{result.seconds:.0f}"),
    ("requests with an outcome", lambda result: f"{result.requests:,}"),
    ("requests per second", lambda result: f"{result.per_second:.0f}"),
    ("latency, 50th percentile", lambda result: _milliseconds(result.median)),
    ("latency, 99th percentile", lambda result: _milliseconds(result.percentile_99)),
    ("latency, slowest", lambda result: _milliseconds(result.slowest)),
    ("memory of uvicorn and its workers, at most", lambda result: _mebibytes(result.memory_workers)),
    ("memory of `greenroom serve`, at most", lambda result: _mebibytes(result.memory_server)),
    ("memory of all sandboxes, at most", lambda result: _mebibytes(result.memory_sandboxes)),
    ("workers killed and replaced", lambda result: f"{result.workers_replaced}"),
    ("connections broken before a response", lambda result: f"{result.broken}"),
    ("requests sent again", lambda result: f"{result.resent}"),
    ("requests without an outcome", lambda result: f"{result.unanswered}"),
    ("sessions lost", lambda result: f"{result.sessions_lost}"),
    ("processes left after the end", lambda result: f"{result.sandboxes_left}"),
)


def page_of(results: Sequence[Result], workers: int) -> str:
    """Return the page."""
    heads = [f"{result.pause:g} s between requests" if result.pause else "no pause" for result in results]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(results)}"]
    lines += [f"| {name} | {' | '.join(value(result) for result in results)} |" for name, value in _ROWS]
    return _HEAD.format(
        version=greenroom.__version__,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        processors=os.cpu_count(),
        users=results[0].users,
        workers=workers,
        table="\n".join(lines) + "\n",
    )
