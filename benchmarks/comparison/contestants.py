"""What is compared: Greenroom's engines and its peers, each with the same four verbs."""

from __future__ import annotations

import contextlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self

import greenroom
from greenroom import Session, SessionPool

ROOT = Path(__file__).parents[2]
PEERS = ("ipykernel", "docker exec", "llm-sandbox", "AutoGen", "smolagents")
IMAGE = f"greenroom-python:{greenroom.__version__}"
GATEWAY_IMAGE = f"greenroom-peers:{greenroom.__version__}"
"""The same image with Jupyter's kernel gateway, which smolagents needs."""

_PYTHON = ROOT / ".venv-peers/bin/python"
_WORKER = ROOT / "benchmarks/peers/worker.py"


class LeftOut(Exception):
    """A contestant cannot take part; the message is the reason."""


class Contestant(Protocol):
    """Opens a session, runs code in it, closes it."""

    name: str
    version: str

    def open(self) -> None:
        """Open a session; return when it takes code, or before."""
        ...

    def run(self, code: str) -> None:
        """Run code in the session that was opened last."""
        ...

    def run_in_each(self, code: str, times: int) -> None:
        """Run code so many times in each open session, in all of them at the same time."""
        ...

    def close(self) -> None:
        """Close all sessions."""
        ...

    def leave(self) -> None:
        """End, with everything that it has started."""
        ...


class Greenroom:
    """One of Greenroom's engines, without warm sandboxes."""

    version = greenroom.__version__

    def __init__(self, url: str, **options: Any) -> None:
        self.name = f"Greenroom, {url.partition(':')[0]}"
        self.url = url
        self._sessions: list[Session] = []
        try:
            settings: dict[str, Any] = {"ready_session_instances": 0, **options}
            self._pool: SessionPool = greenroom.connect(url, **settings)
        except greenroom.EngineUnavailable as error:
            raise LeftOut(str(error)) from error

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
    """A peer, in a process of its own with the peers' environment."""

    def __init__(self, name: str) -> None:
        self.name = name
        image = GATEWAY_IMAGE if name == "smolagents" else IMAGE
        if not _PYTHON.exists():
            raise LeftOut("the peers' environment is missing: make .venv-peers/.ready")
        if name != "ipykernel":
            _require_image(image)
        self._process = subprocess.Popen(
            [_PYTHON, _WORKER, name, image],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version: str = self._answer()["version"]

    def open(self) -> None:
        self._order(do="open")

    def run(self, code: str) -> None:
        self._order(do="run", code=code)

    def run_in_each(self, code: str, times: int) -> None:
        self._order(do="run_in_each", code=code, times=times)

    def close(self) -> None:
        self._order(do="close")

    def leave(self) -> None:
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=60)  # the end of its input ends it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _order(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        if (error := self._answer().get("error")) is not None:
            raise LeftOut(error)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise LeftOut("its process has ended")
        return json.loads(line)


def _require_image(image: str) -> None:
    try:
        found = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0
    except OSError:
        raise LeftOut("Docker is not installed") from None
    if not found:
        package = " --with jupyter-kernel-gateway" if image == GATEWAY_IMAGE else ""
        raise LeftOut(f"its image is missing: greenroom image build --tag {image}{package}")
