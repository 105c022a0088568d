"""A server of Greenroom's own environment, run beside the clients as a user would run it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

GREENROOM = Path(__file__).resolve().parents[2] / ".venv/bin/greenroom"
POOL_PATH = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/group/sessionPools/pool"
_VERSION = "2025-10-02-preview"

POOLS = {
    # Its sandboxes show the interpreter of the clients, which has what their code imports.
    "bubblewrap": f"bubblewrap:?python={sys.executable}&preload=matplotlib.pyplot",
    "docker": "docker:?preload=matplotlib.pyplot",
}


@dataclass(frozen=True)
class Server:
    """A running `greenroom serve`."""

    endpoint: str
    """What the clients call the pool management endpoint."""
    key: str = field(repr=False)
    """What lets a caller in, in a token's place."""
    authority: Path | None = None
    """What clients have to trust, where it speaks TLS."""

    def prepare(self, identifier: str) -> None:
        """Begin a session and import what figures need, for a client whose own time limit is 5 seconds."""
        order = {
            "codeInputType": "Inline",
            "executionType": "Synchronous",
            "timeoutInSeconds": 120,
            "code": "import matplotlib.pyplot",
        }
        self._call("POST", f"executions?identifier={quote(identifier)}&api-version={_VERSION}", order, timeout=150)

    def delete(self, identifier: str) -> None:
        """End a session, so that the machine is not full of those of other tests."""
        self._call("DELETE", f"session?identifier={quote(identifier)}&api-version={_VERSION}")

    def sessions(self) -> set[str]:
        """The identifiers of the sessions that there are."""
        answer = json.loads(self._call("GET", f"listSessions?api-version={_VERSION}"))
        return {session["identifier"] for session in answer["sessions"]}

    def _call(self, method: str, path: str, body: object = None, *, timeout: float = 30) -> bytes:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/{path}", data=data, method=method, headers=headers)
        context = ssl.create_default_context(cafile=self.authority) if self.authority else None
        with urllib.request.urlopen(request, context=context, timeout=timeout) as response:
            return response.read()


@contextmanager
def serving(engine: str, key: str, *, tls: Path | None = None, pool: str | None = None) -> Generator[Server]:
    """A server until the end of the block, which has to be an orderly one.

    Without the engine the test is skipped, or fails where `GREENROOM_REQUIRE_ENGINES` says so.

    Args:
        engine: one of `POOLS`.
        key: what is to let callers in.
        tls: where its certificate is kept, if it is to have one.
        pool: the pool's URL, in place of that in `POOLS`.
    """
    options = ["--tls-self-signed", "--tls-directory", str(tls)] if tls else []
    process = subprocess.Popen(
        [GREENROOM, "serve", "--pool", pool or POOLS[engine], "--port", "0", *options],
        env={**os.environ, "GREENROOM_API_KEY": key},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    if not line.startswith("Serving"):
        reason = line + process.communicate()[1]
        if engine in os.environ.get("GREENROOM_REQUIRE_ENGINES", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield Server(line.split()[-1] + POOL_PATH, key, tls / "ca.pem" if tls else None)
    finally:
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert "Traceback" not in errors, errors
