"""The common part of the attacks: running code, and checking that no other session is harmed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from greenroom.errors import SandboxLost
from greenroom.models import Execution, StreamText
from greenroom.sessions import Session, SessionPool
from greenroom.testing.suite import Suite

T = TypeVar("T")

MIB = 1 << 20
MEMORY = 256 * MIB
DISK = 32 * MIB
PIDS = 64
GRACE = 2.0

CALL_MARGIN = 30.0
"""Seconds after its time limit and the grace period within which a call must have ended."""

NEIGHBOUR_MARGIN = 20.0
"""Seconds within which a neighbour must reply, even on a busy machine."""

PRELUDE = """
import ctypes, errno, json, os, platform, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
def call(number, *arguments):
    "A system call: `done`, or the name of its error."
    if number is None:
        return "ENOSYS"
    words = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if libc.syscall(ctypes.c_long(number), *words) >= 0:
        return "done"
    return errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))
def attempt(function, *arguments, **options):
    "How it ends: `done`, or the name of its error."
    try:
        function(*arguments, **options)
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    except Exception as error:
        return type(error).__name__
    return "done"
def tell(value):
    print(json.dumps(value))
"""


def run(session: Session, code: str, timeout: float = 30) -> Execution:
    """Run code after the prelude."""
    return session.execute(PRELUDE + code, timeout=timeout)


def ask(session: Session, code: str, timeout: float = 30) -> Any:
    """Run code, and return the value that it passes to `tell`."""
    execution = run(session, code, timeout)
    assert execution.succeeded, execution.text_for_model()
    return json.loads(execution.stdout)


def in_time(timeout: float, call: Callable[[], T]) -> T:
    """Make a call that must return or raise within its time limit and a margin.

    It runs in a thread, as a call that never ends must not block the tests.
    """
    ended: Future[T] = Future()

    def make() -> None:
        try:
            ended.set_result(call())
        except BaseException as error:  # noqa: BLE001  it is raised again below
            ended.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    return ended.result(timeout + GRACE + CALL_MARGIN)


def attack(session: Session, code: str, timeout: float = 5) -> Execution | SandboxLost:
    """Run code that can do anything. The call always ends in time: with an execution, or with a lost sandbox."""
    try:
        return in_time(timeout, lambda: session.execute(PRELUDE + code, timeout=timeout))
    except SandboxLost as lost:
        return lost


def answers(session: Session) -> None:
    """Check that the session works, or the new one that replaces it."""
    deadline = time.monotonic() + NEIGHBOUR_MARGIN + CALL_MARGIN
    while True:
        try:
            execution = in_time(NEIGHBOUR_MARGIN, lambda: session.execute("6 * 7", timeout=NEIGHBOUR_MARGIN))
        except SandboxLost:
            execution = None  # the session was about to end, and this call reports it
        if execution is not None and execution.result == "42":
            return
        assert time.monotonic() < deadline, execution and execution.text_for_model()
        time.sleep(0.2)  # remaining processes of the code may have to be killed first


def works(neighbour: Session) -> None:
    """Check that a neighbour replies as if nothing had happened, and has kept its variables."""
    execution = in_time(NEIGHBOUR_MARGIN, lambda: neighbour.execute("kept + 1", timeout=NEIGHBOUR_MARGIN))
    assert execution.result == "42", execution.text_for_model()


@contextmanager
def while_it_holds(session: Session, code: str, timeout: float = 30) -> Generator[None, None, None]:
    """Run code that takes as much of a resource as it can, prints `held` and waits; run the block meanwhile.

    The block also runs if the code has already ended: then it could not keep the resource.
    """
    stream = session.stream(PRELUDE + code + "\nprint('held', flush=True)\ntime.sleep(600)", timeout=timeout)
    try:
        for event in stream:
            if isinstance(event, StreamText) and "held" in event.text:
                break
    except SandboxLost:
        pass
    try:
        yield
    finally:
        stream.close()


def resident() -> int:
    """Return how many bytes of memory this process uses now."""
    return _status("VmRSS")


@contextmanager
def memory_stays_within(limit: int) -> Generator[None, None, None]:
    """Check that this process, the host, never uses more than this many additional bytes."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")
    yield
    most = _status("VmHWM")
    grown = most - before
    print(f"host memory: {before // MIB} MiB before, {most // MIB} at most, {resident() // MIB} after")  # pytest -rP
    assert grown <= limit, f"the host took {grown // MIB} MiB more, up to {limit // MIB} were expected"


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


@contextmanager
def neighbour_works(neighbour: Session) -> Generator[None, None, None]:
    """Call a neighbour repeatedly while the block runs."""
    ended = False

    def ask_on() -> int:
        asked = 0
        while not ended or not asked:
            works(neighbour)
            asked += 1
            time.sleep(0.1)
        return asked

    with ThreadPoolExecutor(1) as thread:
        asking: Future[int] = thread.submit(ask_on)
        try:
            yield
        finally:
            ended = True
        asking.result()


class AttackBase(Suite):
    """The pool's options, a session for harmless code, and a neighbour."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [
        # Azure's sandboxes are never this small; these fill up sooner.
        pytest.mark.filterwarnings("ignore::greenroom.local.settings.AzureRangeWarning")
    ]

    options: ClassVar[Mapping[str, Any]] = {
        "memory": MEMORY,
        "disk": DISK,
        "pids": PIDS,
        "interrupt_grace": GRACE,
        "output_limit": 100_000,
        "display_limit": 8 * MIB,
        "file_limit": 8 * MIB,
        "max_concurrent_sessions": 5,
        "ready_session_instances": 1,
        "preload": (),
    }

    @pytest.fixture(scope="class")
    @classmethod
    def victim(cls, pool: SessionPool) -> Iterator[Session]:
        """One session for all attacks; if an attack ends it, it begins anew."""
        with pool.session() as session:
            yield session

    @pytest.fixture(scope="class")
    @classmethod
    def neighbour(cls, pool: SessionPool) -> Iterator[Session]:
        """Another user's session, with a variable `kept`."""
        with pool.session() as session:
            session.execute("kept = 41").raise_for_error()
            yield session
