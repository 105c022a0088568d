"""The contestants: Greenroom's engines and its peers, each with the same four operations."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.comparison.course import Course

import greenroom
from greenroom import Session, SessionPool

ROOT = Path(__file__).parents[2]
KERNEL = "ipykernel"
"""The peer to which ratios are calculated."""

PEERS = (KERNEL, "docker exec", "llm-sandbox", "AutoGen", "smolagents")
IMAGE = f"greenroom-python:{greenroom.__version__}"
GATEWAY_IMAGE = f"greenroom-peers:{greenroom.__version__}"
"""The same image with Jupyter's kernel gateway and a kernel, which smolagents requires."""

_PYTHON = ROOT / ".venv-peers/bin/python"
_WORKER = ROOT / "benchmarks/peers/worker.py"
_DOCKER_TIMEOUT = 30.0
_END = 15.0  # seconds for a peer's process to end, with everything that it has started


class LeftOut(Exception):
    """A contestant cannot take part; the message is the reason."""


FAILURES = (LeftOut, greenroom.GreenroomError, OSError)
"""The errors of a contestant that cannot continue."""


class Contestant(Protocol):
    """Opens a session, runs code in it, closes it."""

    name: str
    version: str

    def open(self) -> None:
        """Open a session; return when it accepts code, or earlier."""
        ...

    def run(self, code: str) -> None:
        """Run code in the session that was opened last."""
        ...

    def run_in_each(self, code: str, times: int) -> None:
        """Run code this many times in each open session, in all of them at the same time."""
        ...

    def close(self) -> None:
        """Close all sessions."""
        ...

    def leave(self) -> None:
        """End it, with everything that it has started. Idempotent."""
        ...


class Greenroom:
    """One of Greenroom's engines, without warm sandboxes."""

    version = greenroom.__version__

    def __init__(self, url: str, **options: Any) -> None:
        self.name = self.name_of(url)
        self.url = url
        self._sessions: list[Session] = []
        try:
            settings: dict[str, Any] = {"ready_session_instances": 0, **options}
            self._pool: SessionPool = greenroom.connect(url, **settings)
        except greenroom.EngineUnavailable as error:
            raise LeftOut(str(error)) from error

    @staticmethod
    def name_of(url: str) -> str:
        """Return the name of the engine with this URL."""
        return f"Greenroom, {url.removesuffix(':')}"

    def open(self) -> None:
        self._sessions.append(self._pool.session())

    def run(self, code: str) -> None:
        self._sessions[-1].execute(code).raise_for_error()

    def run_in_each(self, code: str, times: int) -> None:
        def several(session: Session) -> None:
            for _ in range(times):
                session.execute(code).raise_for_error()

        with ThreadPoolExecutor(len(self._sessions)) as threads:
            list(threads.map(several, self._sessions))

    def close(self) -> None:
        while self._sessions:
            self._sessions.pop().delete()

    def leave(self) -> None:
        self._pool.close()


class Peer:
    """A peer, in a separate process with the peers' environment.

    Args:
        name: one of `PEERS`.
        limit: seconds for each order; if one takes longer, the peer is killed.
        python: the interpreter of its process.
        worker: the program that drives it.
    """

    def __init__(self, name: str, *, limit: float = 90.0, python: Path = _PYTHON, worker: Path = _WORKER) -> None:
        self.name = name
        self._limit = limit
        self._left: dict[str, str] = {}  # what it leaves behind if it is killed
        image = GATEWAY_IMAGE if name == "smolagents" else IMAGE
        if not python.exists():
            raise LeftOut("the peers' environment is missing: make .venv-peers/.ready")
        if name != KERNEL:
            _require_image(image)
        self._process = subprocess.Popen(
            [python, worker, name, image],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is only for us; we then end it
        )
        try:
            self._left = self._answer()
        except BaseException:
            self.leave()
            raise
        self.version = self._left["version"]

    def open(self) -> None:
        self._order(do="open")

    def run(self, code: str) -> None:
        self._order(do="run", code=code)

    def run_in_each(self, code: str, times: int) -> None:
        self._order(do="run_in_each", code=code, times=times)

    def close(self) -> None:
        self._order(do="close")

    def leave(self) -> None:
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=_END)  # it ends when its input does
        for end in (self._process.terminate, self._process.kill):
            if self._process.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_END)
        left, self._left = self._left, {}
        if left:
            shutil.rmtree(left["directory"], ignore_errors=True)
            if self.name != KERNEL:
                _remove_containers(left["containers"])

    def _order(self, **order: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            error = self._answer().get("error")
        except (BrokenPipeError, ValueError):
            raise LeftOut("its process has ended") from None
        except BaseException:  # its next answer would belong to this order
            self._process.terminate()
            self.leave()
            raise
        if error is not None:
            raise LeftOut(" ".join(error.split()))

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self._limit)[0]:
            raise LeftOut(f"it did not answer within {self._limit:.0f} s")
        if not (line := self._process.stdout.readline()):
            raise LeftOut("its process has ended")
        return json.loads(line)


@contextmanager
def all_of(
    pools: Iterable[str], peers: Iterable[str], left_out: dict[str, str], **options: Any
) -> Generator[list[Contestant], None, None]:
    """Yield the contestants that can take part here, and end them all afterwards.

    Args:
        pools: URLs of Greenroom's engines.
        peers: names of peers.
        left_out: receives the reasons why others cannot take part, by name.
        options: the options of the pools.
    """
    made: list[Contestant] = []
    makers: dict[str, Callable[[], Contestant]] = {
        **{Greenroom.name_of(pool): partial(Greenroom, pool, **options) for pool in pools},
        **{name: partial(Peer, name) for name in peers},
    }
    try:
        for name, make in makers.items():
            try:
                made.append(make())
            except FAILURES as reason:
                left_out[name] = str(reason)
        yield list(made)
    finally:
        for contestant in made:
            with contextlib.suppress(*FAILURES):
                contestant.leave()


def in_turn(
    everyone: list[Contestant], left_out: dict[str, str], course: Course, act: Callable[[Contestant], None]
) -> None:
    """Call a function for each contestant; one that fails does not take part any longer."""
    for contestant in tuple(everyone):
        course.report(contestant.name)
        try:
            act(contestant)
        except FAILURES as reason:
            course.report(f"{contestant.name} is left out: {reason}")
            left_out[contestant.name] = str(reason)
            everyone.remove(contestant)
            with contextlib.suppress(*FAILURES):
                contestant.leave()


@contextmanager
def closed_after(everyone: list[Contestant], left_out: dict[str, str], course: Course) -> Generator[None, None, None]:
    """Close everyone's sessions at the end, even after an error."""
    try:
        yield
    finally:
        in_turn(everyone, left_out, course, lambda contestant: contestant.close())


def _remove_containers(prefix: str) -> None:
    """Remove the containers whose names have this prefix."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = _docker("ps", "--all", "--quiet", "--filter", f"name=^{prefix}").stdout.split()
        if found:
            _docker("rm", "--force", "--volumes", *found)


def _require_image(image: str) -> None:
    label = '{{index .Config.Labels "greenroom.packages"}}'
    try:
        found = _docker("image", "inspect", "--format", label, image)
    except OSError:
        raise LeftOut("Docker is not installed") from None
    except subprocess.SubprocessError as error:
        raise LeftOut(f"Docker does not respond: {error}") from None
    packages = ("jupyter-kernel-gateway", KERNEL) if image == GATEWAY_IMAGE else ()
    if found.returncode or not all(package in found.stdout for package in packages):
        options = "".join(f" --with {package}" for package in packages)
        raise LeftOut(f"its image is missing: greenroom image build --tag {image}{options}")


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=_DOCKER_TIMEOUT, check=False)
