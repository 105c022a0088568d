"""`greenroom mcp` as a client starts it, over real sandboxes: whatever ends, its sessions end too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.orphans.test_the_end import alive, below, containers
from tests.waiting import within

from greenroom.testing import engine_pool

from .wire import call, request, stateless

POOL = "bubblewrap:?preload=&ready_session_instances=0"
COMMAND = [str(Path(sys.executable).with_name("greenroom")), "mcp", "--pool", POOL]
LIMIT = 60.0  # seconds, after which nothing may be left

# A client that starts the command, makes one session, and says so.
CLIENT = """
import json, subprocess, sys, time
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
server.stdin.write(sys.argv[1].encode() + b"\\n")
server.stdin.flush()
server.stdout.readline()
print(server.pid, flush=True)
time.sleep(1000)
"""


class Process:
    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)

    def ask(self, message: Any) -> Any:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(json.dumps(message).encode() + b"\n")
        self.popen.stdin.flush()
        return json.loads(self.popen.stdout.readline())


@pytest.fixture
def server() -> Iterator[Process]:
    engine_pool("bubblewrap:", ready_session_instances=0).close()  # skips, or fails, where there is no such engine
    process = Process()
    yield process
    process.popen.kill()
    process.popen.communicate()


def run(server: Process, code: str, **arguments: str) -> Any:
    return server.ask(call("run_python", code=code, **arguments))["result"]


def test_it_serves_until_its_input_ends(server: Process) -> None:
    assert server.ask(request("initialize"))["result"]["protocolVersion"] == "2025-03-26"
    made = run(server, "x = 20")["structuredContent"]
    assert run(server, "x + 1", session_id=made["session_id"])["structuredContent"]["result"] == "21"
    group = below(server.popen.pid)
    assert group
    output, errors = server.popen.communicate(timeout=30)
    assert (server.popen.returncode, output, errors) == (0, b"", b"")
    assert within(LIMIT, lambda: not alive(group))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_sandbox(server: Process, number: signal.Signals) -> None:
    run(server, "x = 1")
    group = below(server.popen.pid)
    assert group
    server.popen.send_signal(number)
    server.popen.communicate(timeout=30)
    assert within(LIMIT, lambda: not alive(group))
    if number is not signal.SIGKILL:
        assert server.popen.returncode == 0


@pytest.mark.parametrize("engine", ["bubblewrap:", "docker:"])
def test_a_killed_client_leaves_neither_server_nor_sandbox(engine: str) -> None:
    engine_pool(engine, ready_session_instances=0).close()
    command = [*COMMAND[:3], f"{engine}?preload=&ready_session_instances=0"]
    arguments = [sys.executable, "-c", CLIENT, json.dumps(call("run_python", code="x = 1")), *command]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        server = int(client.stdout.readline())
        group = below(client.pid)
        assert server in {pid for pid, _ in group}
        assert len(group) > 1 or containers(server)
        client.kill()
    assert within(LIMIT, lambda: not alive(group) and not containers(server))


def test_a_pool_that_cannot_be_opened_is_an_error_in_one_line() -> None:
    ended = subprocess.run(
        [*COMMAND[:2], "--pool", "unknown:"], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert len(ended.stderr.splitlines()) == 1


def test_code_cannot_write_into_the_protocol(server: Process) -> None:
    code = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        os.write(int(name), b"{}\\n")
    except OSError:
        pass
"""
    run(server, code)
    assert server.ask(stateless("tools/list", "after"))["id"] == "after"
