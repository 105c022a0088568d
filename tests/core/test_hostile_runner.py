"""Every public call, over a runner that lies, stops, trickles or floods: it ends in time, with an allowed result.

What leaves a call is a `GreenroomError` or what the caller itself did, and the host keeps no more than its limits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from greenroom import GreenroomError, Session, SessionPool
from greenroom.engines.base import Engine, SandboxSpec, StreamSandbox
from greenroom.local import PoolSettings, channel
from greenroom.local.pool import LocalPool
from greenroom.models import ContainerType
from greenroom.runner.protocol import encode
from greenroom.sessions import OpenPool

from .scripted import READY, Answer, ScriptedSandbox, obey

LIMIT = 30.0
"""Seconds in which every call has ended, generously: its own time limits are a few tenths of a second here."""

VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2**70, 1e308, float("nan"), "", "x" * 300, "\ud800", "/mnt/data/a", [], {}),
    *([[]], {"a": [1]}, {"path": "/mnt/data/a", "size": 1}, [{"path": "/mnt/data/a"}] * 3, "stdout", "/etc/passwd"),
]
NAMES = [
    *("ev", "id", "stream", "display_id", "update", "result", "ends", "begins"),
    *("crash", "errno", "file", "entry", "wait", "duration", "exit_code", "oom", "call", "tool"),
]
EVENTS = [
    *("text", "output", "error", "clear", "area", "done", "reply", "ready", "preloaded", "news"),
    "call",
    "withdraw",
]


def echo(value: int = 0) -> int:
    return value


def liar(seed: int) -> Answer:
    """Says what is nearly right."""
    rng = random.Random(seed)

    def body() -> bytes:
        fields = {name: rng.choice(VALUES) for name in ("data", "metadata", "error", "files")}
        return rng.choice([b"", rng.randbytes(20), json.dumps(rng.choice([fields, *VALUES])).encode()])

    def answer(header: dict[str, Any], _body: bytes) -> Iterable[bytes]:
        for _ in range(rng.randrange(4)):
            said: dict[str, Any] = {"ev": rng.choice(EVENTS), "id": header.get("id"), "stream": "stdout", "file": 1}
            said |= {rng.choice(NAMES): rng.choice(VALUES) for _ in range(rng.randrange(3))}
            yield encode(said, body())
        if rng.random() < 0.5:
            yield from obey(header, b"")

    return answer


def stopped(_header: dict[str, Any], _body: bytes) -> Iterable[bytes]:
    return ()


class Trickle(ScriptedSandbox):
    """Says everything a byte at a time, and takes its time."""

    def say(self, data: bytes) -> None:
        for byte in data:
            super().say(bytes([byte]))

    async def receive(self) -> bytes:
        data = await super().receive()
        await asyncio.sleep(0.001)
        return data


class Flood(ScriptedSandbox):
    """Answers honestly, and never stops sending more."""

    frames = itertools.cycle([b""])

    async def receive(self) -> bytes:
        if self._said.empty() and not self._ended and self.heard:
            await asyncio.sleep(0)
            return next(self.frames)
        return await super().receive()


def flood(frame: dict[str, Any], body: bytes = b"") -> Callable[[], ScriptedSandbox]:
    def make() -> ScriptedSandbox:
        sandbox = Flood(stopped)
        sandbox.frames = itertools.cycle([encode({"id": 1, "stream": "stdout", **frame}, body) * 100])
        return sandbox

    return make


def blocked() -> ScriptedSandbox:
    sandbox = ScriptedSandbox(stopped)
    sandbox.blocked = True
    return sandbox


RUNNERS: dict[str, Callable[[], ScriptedSandbox]] = {
    "stops": lambda: ScriptedSandbox(stopped),
    "takes nothing": blocked,
    "trickles": lambda: Trickle(obey),
    "trickles lies": lambda: Trickle(liar(0)),
    "floods with text": flood({"ev": "text"}, b"x"),
    "floods with clears": flood({"ev": "clear"}),
    "floods with outputs": flood({"ev": "output"}, b'{"data": {}, "metadata": {}}'),
    "floods with errors": flood({"ev": "error"}, b'{"traceback": "x"}'),
    "floods with names": flood({"ev": "output", "display_id": "Ā" * 9_000}, b'{"data": {}, "metadata": {}}'),
    "floods with replies": flood({"ev": "reply"}),
    "floods with calls": flood({"ev": "call", "call": 1, "tool": "echo"}, b"{}"),
    "floods with withdrawals": flood({"ev": "withdraw", "call": 1}),
    "floods with nothing": flood({"ev": "news"}),
    "floods with heads": flood({"ev": "reply", "x": [[] for _ in range(10_000)]}),
    **{f"lies {seed}": lambda seed=seed: ScriptedSandbox(liar(seed)) for seed in range(16)},
}


class HostileEngine(Engine):
    name = "hostile"

    def __init__(self, make: Callable[[], ScriptedSandbox]) -> None:
        self._make = make

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        del container_type

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        del spec
        sandbox = self._make()
        sandbox.say(READY)
        return sandbox

    async def sweep(self) -> int:
        return 0

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SEND_TIMEOUT", "_REPLY_TIMEOUT", "_STOP_MARGIN"):
        monkeypatch.setattr(channel, name, 0.1)


@contextmanager
def hostile_pool(make: Callable[[], ScriptedSandbox]) -> Generator[SessionPool, None, None]:
    options = {
        "timeout": 0.1,
        "interrupt_grace": 0.1,
        "preload": (),
        "ready_session_instances": 0,
        "max_concurrent_sessions": 50,
    }
    settings = PoolSettings.model_validate(options)
    with SessionPool(OpenPool.open(lambda: LocalPool.open(HostileEngine(make), settings))) as pool:
        yield pool


def cancel(session: Session) -> object:
    handle = session.submit("x", timeout=1)
    time.sleep(0.05)
    handle.cancel()
    return handle.result(LIMIT)


BLOCKING: dict[str, Callable[[Session, Path], object]] = {
    "execute": lambda session, _: session.execute("x"),
    "execute with tools": lambda session, _: session.execute("x", tools=[echo]),
    "stream": lambda session, _: [str(event)[:10] for event in session.stream("x")],
    "submit": lambda session, _: session.submit("x", timeout=0.1).result(LIMIT),
    "cancel": lambda session, _: cancel(session),
    "upload": lambda session, _: session.upload(b"x" * 300_000, "a"),
    "download": lambda session, _: session.download("a"),
    "download to a file": lambda session, directory: session.download("a", directory / "a"),
    "files": lambda session, _: session.files(recursive=True),
    "file": lambda session, _: session.file("a"),
    "delete_file": lambda session, _: session.delete_file("a"),
    "info": lambda session, _: session.info(),
    "delete": lambda session, _: session.delete(),
}


async def stream(session: Session) -> None:
    async for _ in session.astream("x"):
        pass


ASYNCHRONOUS: dict[str, Callable[[Session, Path], Coroutine[Any, Any, object]]] = {
    "aexecute": lambda session, _: session.aexecute("x"),
    "aexecute with tools": lambda session, _: session.aexecute("x", tools=[echo]),
    "astream": lambda session, _: stream(session),
    "aupload": lambda session, _: session.aupload(b"x" * 300_000, "a"),
    "adownload": lambda session, _: session.adownload("a"),
    "afiles": lambda session, _: session.afiles(),
    "afile": lambda session, _: session.afile("a"),
    "adelete_file": lambda session, _: session.adelete_file("a"),
    "ainfo": lambda session, _: session.ainfo(),
    "adelete": lambda session, _: session.adelete(),
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_blocking_call_ends_in_time_with_a_result_or_an_error(runner: str, tmp_path: Path) -> None:
    with hostile_pool(RUNNERS[runner]) as pool:
        for name, call in BLOCKING.items():
            began = time.monotonic()
            with pool.session() as session, suppress(GreenroomError):
                call(session, tmp_path)
            assert time.monotonic() - began < LIMIT, name
        assert not [path for path in tmp_path.iterdir() if path.name != "a"], "nothing half-written stays"
        pool.status()
        pool.sessions()


@pytest.mark.parametrize("runner", RUNNERS)
async def test_an_asynchronous_call_ends_in_time_with_a_result_or_an_error(runner: str, tmp_path: Path) -> None:
    with hostile_pool(RUNNERS[runner]) as pool:

        async def survive(call: Callable[[Session, Path], Coroutine[Any, Any, object]]) -> None:
            async with pool.session() as session:
                with suppress(GreenroomError):
                    await asyncio.wait_for(call(session, tmp_path), LIMIT)

        await asyncio.gather(*map(survive, ASYNCHRONOUS.values()))


def resident() -> int:
    """Bytes of memory that this process holds."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("runner", [name for name in RUNNERS if name.startswith("floods")])
def test_a_flood_takes_no_host_memory(runner: str) -> None:
    with hostile_pool(RUNNERS[runner]) as pool:
        before = resident()
        sessions = [pool.session() for _ in range(5)]
        for session in sessions:
            session.submit("x", timeout=2)
        for _ in range(20):
            time.sleep(0.1)
            assert resident() - before < 200 << 20
