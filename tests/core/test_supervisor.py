"""The end of a worker, in a supervisor whose worker is a script."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from greenroom.runner.protocol import Decoder, Frame, HostOrder, encode

# A killed process can take a while to end: this one does not notice.
_SUPERVISOR = """
import sys
from functools import partial
from greenroom.runner import spawn
from greenroom.runner.files import FileTree
from greenroom.runner.supervisor import Supervisor

class Slow(spawn.WorkerProcess):
    def signal(self, number):
        pass

spawn._COMMANDS["PythonLTS"] = lambda _: spawn.Command([sys.executable, "-I", "-c", sys.argv[1]], {})
worker = partial(Slow, "PythonLTS", user=None, rlimits={})
Supervisor(0, 1, FileTree("."), spawn=worker, user=None, rlimits={}).serve()
"""
# It does what the first order's code says, and ends the further ones properly.
_WORKER = """
import json, os, struct, time
def frame(header, body=b""):
    text = json.dumps(header).encode()
    os.write(3, struct.pack(">II", len(text), len(body)) + text + body)
def done():
    frame({"ev": "done", "duration": 0.0}, b"null")
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(3, size - len(data)) or os._exit(0)
    return data
frame({"ev": "ready"})
while True:
    sizes = struct.unpack(">II", read(8))
    read(sizes[0])
    exec(read(sizes[1]))
    done()
"""


class Sandbox:
    """A supervisor and its host."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._number = 0
        assert self.read().header["ev"] == "ready"

    def read(self) -> Frame:
        assert self._process.stdout is not None
        while not self._frames:
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, "the supervisor has ended"
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    def execute(self, code: str) -> Frame:
        """Run code in the worker; returns the end."""
        assert self._process.stdin is not None
        self._number += 1
        order = HostOrder.execute(self._number, code, text_limit=100, output_limit=100)
        os.write(self._process.stdin.fileno(), encode(*order))
        while (frame := self.read()).header["ev"] != "done":
            pass
        assert frame.header["id"] == self._number
        return frame


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR, _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path_factory.mktemp("data"),
    ) as process:
        assert process.stdin is not None
        try:
            yield Sandbox(process)
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    "broken",
    [
        'os.write(3, struct.pack(">II", 9, 1 << 30))',
        'os.write(3, struct.pack(">II", 1, 0) + b"{")',
        'frame({"ev": "done"})',
        'frame({"ev": "error"}, b"[]")',
    ],
)
def test_a_frame_after_a_broken_one_does_not_end_the_execution(sandbox: Sandbox, broken: str) -> None:
    """Otherwise the next one would begin in a worker that is about to end."""
    for _ in range(2):
        end = sandbox.execute(f"{broken}\ntime.sleep(0.3)\ndone()\ntime.sleep(0.3)\nos._exit(1)")
        assert "crash" in end.header
        end = sandbox.execute("pass")
        assert "crash" not in end.header


def test_orders_wait_while_a_worker_without_an_execution_ends(sandbox: Sandbox) -> None:
    later = 'frame({"ev": "done", "duration": 0.0}, b"null")\ntime.sleep(0.2)\nframe({"ev": "done"})\ntime.sleep(0.5)'
    sandbox.execute(f"{later}\nos._exit(1)")
    time.sleep(0.4)
    end = sandbox.execute("pass")
    assert "crash" not in end.header
    assert end.header["state_lost"] is True


@pytest.mark.parametrize("body", ["b'[]'", "b'null'", "b'{}'", "bytes([255])", "b'[' * 100_000"])
def test_a_broken_error_before_the_worker_ends_fails_only_the_execution(sandbox: Sandbox, body: str) -> None:
    code = f"frame({{'ev': 'error'}}, {body})\nos._exit(1)"
    for _ in range(5):
        assert "crash" in sandbox.execute(code).header
        assert "crash" not in sandbox.execute("pass").header
