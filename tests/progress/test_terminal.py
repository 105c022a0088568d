"""What a terminal shows of long work: bars that come after a moment and leave nothing, and elsewhere nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from greenroom import RemoteFile
from greenroom.server.app import Application
from greenroom.server.registry import PoolRegistry
from greenroom.server.run import Server
from greenroom.server.settings import ServerSettings
from greenroom.testing.scripted import ScriptedBackend

LIMIT = 120.0
LARGE = 24 << 20
HOSTILE = "[bold]a[nothing]\x1b]0;title\x07\u202e.bin"


class HeldBackend(ScriptedBackend):
    """Takes uploads when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.pause = 0.0
        """Seconds before each upload."""

    async def upload(
        self,
        identifier: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> RemoteFile:
        await asyncio.sleep(self.pause)
        await asyncio.to_thread(self.gate.wait)
        return await super().upload(identifier, path, chunks, on_sent=on_sent)


@contextmanager
def serving(backend: ScriptedBackend) -> Generator[str, None, None]:
    settings = ServerSettings.parse({"port": 0, "shutdown_grace": 0})
    started: Future[tuple[str, Server, asyncio.AbstractEventLoop]] = Future()

    async def serve() -> None:
        pools = PoolRegistry()
        pools.add("default", backend)
        server = Server(Application(pools, settings, None), settings)
        server.on_start = lambda: started.set_result((server.url, server, asyncio.get_running_loop()))
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    address, server, loop = started.result(LIMIT)
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)
        thread.join()


class Terminal:
    """A command on a terminal of its own; its standard output goes nowhere."""

    def __init__(self, *arguments: str | Path, program: str = "", **environment: str) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, b"\x18\x00\xc8\x00\x00\x00\x00\x00")  # 24 lines of 200 characters
        inherited = {name: value for name, value in os.environ.items() if name not in {"CI", "COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [sys.executable, *(["-c", program] if program else ["-m", "greenroom"]), *map(str, arguments)],
            stdin=follower,
            stdout=subprocess.DEVNULL,
            stderr=follower,
            env={**inherited, "TERM": "xterm", **environment},
            start_new_session=True,
        )
        os.close(follower)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def until(self, pattern: str) -> None:
        deadline = time.monotonic() + LIMIT
        while re.search(pattern, self.seen) is None:
            assert select.select([self._leader], [], [], max(deadline - time.monotonic(), 0))[0], self.seen
            self.seen += os.read(self._leader, 65536).decode(errors="replace")

    def end(self) -> int:
        """Read to the end; return the exit code."""
        with contextlib.suppress(OSError):  # its other end is closed
            while piece := os.read(self._leader, 65536):
                self.seen += piece.decode(errors="replace")
        return self.process.wait(LIMIT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._leader)


@pytest.fixture
def backend() -> HeldBackend:
    return HeldBackend()


@pytest.fixture
def url(backend: HeldBackend) -> Generator[str, None, None]:
    with serving(backend) as address:
        yield address
        backend.gate.set()


@pytest.fixture
def terminal() -> Generator[Callable[..., Terminal], None, None]:
    with contextlib.ExitStack() as stack:

        def open_terminal(*arguments: Any, **environment: str) -> Terminal:
            opened = Terminal(*arguments, **environment)
            stack.callback(opened.close)
            return opened

        yield open_terminal


def uploading(url: str, local: Path) -> list[str | Path]:
    return ["run", "--pool", url, "--upload", local, "-c", "1"]


def left_on_screen(shown: str) -> str:
    """What remains when each line that was erased is gone."""
    lines = re.split(r"\r?\n|\r", shown)
    kept = [line.rpartition("\x1b[2K")[2] for line in lines]
    return "\n".join(filter(None, (re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in kept)))


@pytest.mark.slow
def test_a_large_upload_has_a_bar_that_leaves_nothing(
    backend: HeldBackend, url: str, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    (tmp_path / HOSTILE).write_bytes(bytes(LARGE))
    backend.gate.clear()
    shown = terminal(*uploading(url, tmp_path / HOSTILE))
    shown.until(r"Uploading \[bold\]a\[nothing\].* of 25\.2 MB")
    assert "\x1b[?25l" in shown.seen
    backend.gate.set()
    assert shown.end() == 0, shown.seen
    assert "\x1b]" not in shown.seen
    assert "\u202e" not in shown.seen
    assert shown.seen.rstrip("\x1b[12KA\r\n").endswith("\x1b[?25h"), repr(shown.seen[-200:])


@pytest.mark.slow
def test_ctrl_c_removes_the_progress_bar(
    backend: HeldBackend, url: str, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(LARGE))
    backend.gate.clear()
    shown = terminal(*uploading(url, tmp_path / "large.bin"))
    shown.until(r"Uploading large\.bin")
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == 130
    assert shown.seen.rindex("\x1b[?25h") > shown.seen.rindex("\x1b[?25l"), "the cursor is there again"
    assert left_on_screen(shown.seen[shown.seen.rindex("Uploading") :].partition("\x1b[2K")[2]) == "Interrupted."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "environment"),
    [(LARGE, {"TERM": "dumb"}), (LARGE, {"CI": "true"}), (1 << 20, {}), (LARGE, {"TERM": "dumb", "FORCE_COLOR": "1"})],
    ids=["dumb", "CI", "small", "dumb with colours"],
)
def test_nothing_is_drawn_for_small_or_disabled_progress(
    backend: HeldBackend,
    url: str,
    terminal: Callable[..., Terminal],
    tmp_path: Path,
    *,
    size: int,
    environment: dict[str, str],
) -> None:
    backend.pause = 1.0
    (tmp_path / "file.bin").write_bytes(bytes(size))
    shown = terminal(*uploading(url, tmp_path / "file.bin"), **environment)
    assert (shown.end(), "Uploading" in shown.seen) == (0, False), shown.seen
    if environment:
        assert shown.seen == ""


@pytest.mark.slow
def test_nothing_is_drawn_into_a_pipe(backend: HeldBackend, url: str, tmp_path: Path) -> None:
    backend.pause = 1.0
    (tmp_path / "large.bin").write_bytes(bytes(LARGE))
    ended = subprocess.run(
        [sys.executable, "-m", "greenroom", *map(str, uploading(url, tmp_path / "large.bin"))],
        capture_output=True,
        check=True,
        timeout=LIMIT,
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm", "CI": ""},
    )
    assert ended.stderr == b""


OF_A_SERVER = """
import asyncio
from greenroom.cli import place

async def work(show):
    show("[/nothing]\\x1b]0;title\\x07[bold]Running")
    await asyncio.sleep(0.5)

place.run(work, "Creating [red]a")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xterm", "dumb"])
def test_the_state_of_an_operation_is_not_markup_and_needs_a_full_terminal(
    terminal: Callable[..., Terminal], name: str
) -> None:
    shown = terminal(program=OF_A_SERVER, TERM=name)
    assert shown.end() == 0, shown.seen
    if name == "dumb":
        assert shown.seen == ""
    else:
        assert "Creating [red]a: [/nothing][bold]Running" in shown.seen
        assert "\x1b]" not in shown.seen


OPENING = """
import sys, threading
from greenroom.cli.progress import Display
from greenroom.progress import Progress

with Display("Opening the pools") as display:
    sys.stdin.readline()
    display.on_progress(Progress("pull", "image:1", 5_000_000, None))
    sys.stdin.readline()
    display.on_progress(Progress("pull", "image:1", 5_000_000, 20_000_000))
    sys.stdin.readline()
    display.on_progress(Progress("pull", "image:1", 20_000_000, 20_000_000))
    display.on_progress(Progress("start", "docker", 0, 1, "sandboxes"))
    sys.stdin.readline()
print("ended", file=sys.stderr)
"""


@pytest.mark.slow
def test_each_task_of_an_opening_is_shown_in_its_turn(terminal: Callable[..., Terminal]) -> None:
    shown = terminal(program=OPENING)
    for pattern in (
        r"Opening the pools",
        r"Pulling image:1 +5\.0 MB",
        r"Pulling image:1 .*5\.0 MB of 20\.0 MB",
        r"Starting a sandbox: docker.* 0/1",
    ):
        shown.until(pattern)
        shown.type("\n")
    assert shown.end() == 0
    assert shown.seen.rstrip().endswith("ended")
    assert shown.seen.rindex("\x1b[?25h") > shown.seen.rindex("\x1b[?25l")
