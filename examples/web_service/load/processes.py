"""The processes of the service: `greenroom serve`, and uvicorn with its workers."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from code_service.users import new_token

ROOT = Path(__file__).parents[1]
_PATIENCE = 120.0
"""Seconds for a process to start or to end, on a busy machine."""


class NotStarted(Exception):
    """A process did not start; the message is what it said."""


@dataclass(frozen=True)
class Server:
    """A process that serves, and those that it has started."""

    pid: int
    url: str
    process: subprocess.Popen[bytes]
    said: Path
    """The file with its output."""

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_PATIENCE)

    def workers(self) -> list[int]:
        """The workers of uvicorn. It has another child, which keeps track of resources."""
        return [pid for pid in children(self.pid) if "spawn_main" in _command(pid)]


@dataclass(frozen=True)
class Service:
    """The whole: workers that share the sessions of one server."""

    pool: Server
    web: Server
    key: str
    """Of the server."""
    secret: str
    """Of the service."""

    def headers(self, user: str) -> dict[str, str]:
        """The headers of a user's requests."""
        return {"Authorization": f"Bearer {new_token(self.secret, user, 24 * 3600)}"}


@contextmanager
def running(pool: str, *, workers: int = 2, **settings: object) -> Generator[Service, None, None]:
    """Run `greenroom serve` and the service; both end afterwards, whatever has happened.

    Args:
        pool: the URL of the pool that is served.
        workers: of uvicorn.
        settings: those of the service, by their names.

    Raises:
        NotStarted: one of them did not start.
    """
    key, secret = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        serve = ["greenroom", "serve", "--pool", pool, "--port", "0", "--no-ui"]
        server = stack.enter_context(
            _serving(serve, r" at (http://\S+)", Path(directory, "pool"), GREENROOM_API_KEY=key)
        )
        uvicorn = ["uvicorn", "code_service.app:create_app", "--factory", "--port", "0", f"--workers={workers}"]
        limits = ["--timeout-graceful-shutdown=40", "--timeout-worker-healthcheck=30", "--no-access-log"]
        variables = {
            "GREENROOM_POOL": server.url,
            "GREENROOM_API_KEY": key,
            "CODE_SERVICE_SECRET": secret,
            "CODE_SERVICE_RATES": str(Path(directory, "rates.sqlite")),
            **{f"CODE_SERVICE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        ready = r"(?s)running on (http://\S+)" + ".*startup complete" * workers
        web = stack.enter_context(_serving([*uvicorn, *limits], ready, Path(directory, "web"), **variables))
        yield Service(server, web, key, secret)


@contextmanager
def _serving(command: list[str], address: str, said: Path, **variables: str) -> Generator[Server, None, None]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "CODE_SERVICE_"))}
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**kept, **variables, "NO_COLOR": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Server(process.pid, _address(process, address, said), process, said)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        with contextlib.suppress(
            ProcessLookupError
        ):  # what it has left, such as the workers of a parent that was killed
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _address(process: subprocess.Popen[bytes], pattern: str, said: Path) -> str:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(pattern, said.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise NotStarted(said.read_text(errors="replace"))


def children(pid: int) -> list[int]:
    """The processes that a process has started, as far as they live."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def descendants(pid: int) -> list[int]:
    """Its children, their children, and so on."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def open_files(pid: int) -> int:
    """How many files and connections a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def still_there(pids: list[int]) -> int:
    """How many processes do not end within half a minute."""
    deadline = time.monotonic() + 30
    while (left := sum(map(_is_alive, pids))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended can wait for whoever inherits it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def memory(pids: list[int]) -> int:
    """The bytes that processes hold together; what they share is counted once, where the kernel tells it."""
    return sum(map(_memory, pids))


def _memory(pid: int) -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) << 10 if found else 0
    return 0


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
