"""Record when the sessions of a load test arrive and how long they stay, in tests/soak/test_many.py."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles

from greenroom.backend import Backend
from greenroom.connecting import open_backend
from greenroom.sessions import OpenPool, SessionPool
from greenroom.telemetry import SandboxEnded, SandboxStarted, SessionAllocated, TelemetryEvent

_CLIENTS = 20


class _Recorder:
    """Records when sessions arrived and ended."""

    def __init__(self) -> None:
        self.came: dict[str, float] = {}
        self.allocated: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.starts: list[float] = []

    def observe(self, event: TelemetryEvent) -> None:
        now = time.monotonic()
        match event:
            case SessionAllocated(identifier=identifier, wait=wait):
                self.came[identifier], self.allocated[identifier] = now - wait, now
            case SandboxEnded(identifier=str() as identifier):
                self.ended[identifier] = now
            case SandboxStarted(duration=duration):
                self.starts.append(duration)
            case _:
                pass


def record(url: str, count: int, file: Path) -> None:
    """Run this many sessions from twenty clients, one after another per client, and write the recording to a file."""
    recorder = _Recorder()

    async def backend() -> Backend:
        options = {"max_concurrent_sessions": _CLIENTS, "ready_session_instances": 2, "acquire_timeout": 300}
        return await open_backend(url, recorder.observe, preload=(), **options)  # pyright: ignore[reportArgumentType]

    numbers, lock = iter(range(count)), threading.Lock()

    def client(pool: SessionPool) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            with pool.session() as session:
                session.upload(b"x" * 10_000, "data.bin")
                session.execute(f"x = {number}; print(x); len(open('data.bin').read())", timeout=120).raise_for_error()

    with SessionPool(OpenPool.open(backend)) as pool, ThreadPoolExecutor(_CLIENTS) as threads:
        for each in [threads.submit(client, pool) for _ in range(_CLIENTS)]:
            each.result()
    file.write_text(_text(recorder, url))


def _text(recorder: _Recorder, url: str) -> str:
    first = min(recorder.came.values())
    rows = sorted(
        (recorder.came[each] - first, recorder.ended[each] - recorder.allocated[each])
        for each in recorder.came.keys() & recorder.ended.keys()
    )
    low, middle, high = quantiles(recorder.starts, n=4)
    lines = [
        "# Sessions of the load test in tests/soak/test_many.py: when each came and how long it stayed, in seconds.",
        f"# {len(rows)} sessions of {_CLIENTS} clients, one after the other, through a pool of {_CLIENTS} on {url}",
        f"# Starts took {middle:.2f} s (median; quartiles {low:.2f} and {high:.2f}), as other work ran on the machine.",
        "# Recorded by python -m benchmarks.ready_instances record.",
        "at,stays",
        *(f"{at:.3f},{stays:.3f}" for at, stays in rows),
    ]
    return "\n".join(lines) + "\n"
