"""Shell commands for the engine in memory: processes of this machine, without isolation."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

from greenroom.runner.files import FileTree
from greenroom.runner.protocol import Frame
from greenroom.runner.run import Run
from greenroom.runner.shell import NOT_RUN, Order

_POLL = 0.02
_CHUNK = 1 << 16
_LONG = 100_000  # bytes; Linux takes no argument of 128 KiB


class MemoryCommand:
    """One command in a directory, which `run` executes."""

    def __init__(self, header: dict[str, Any], body: bytes, environment: dict[str, str]) -> None:
        self._header = header
        self._order = Order.parse(header, body)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """Kill it. Any thread may call this."""
        self._interrupted = True
        if (process := self._process) is not None:
            _kill(process)

    def run(self, directory: str, tree: FileTree, send: Callable[[Frame], None]) -> None:
        """Run it, and send its output and its end."""
        run = Run(self._header, tree, send)
        command = self._order.command
        with tempfile.TemporaryFile() as stdin, tempfile.NamedTemporaryFile() as script:
            stdin.write(self._order.stdin)
            stdin.seek(0)
            if isinstance(command, list):
                arguments = command
            elif len(command.encode()) < _LONG:
                arguments = ["bash", "-lc", command]
            else:
                script.write(command.encode())
                script.flush()
                arguments = ["bash", "-l", script.name]
            try:
                process = self._process = subprocess.Popen(
                    arguments,
                    cwd=directory,
                    # Without the tester's home directory, whose profile a login shell would read.
                    env={**os.environ, "HOME": directory, **self._environment, **self._order.environment},
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                run.add_text("stderr", f"The command cannot be started: {error.strerror}.\n".encode())
                run.finish(exit_code=NOT_RUN, state_lost=False)
                return
            with process:
                if self._interrupted:
                    _kill(process)
                self._copy(process, run)
        code = process.returncode
        run.finish(exit_code=128 - code if code < 0 else code, state_lost=False)

    def _copy(self, process: subprocess.Popen[bytes], run: Run) -> None:
        """Pass on a process's output until it has ended."""
        with selectors.DefaultSelector() as selector:
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
                    selector.register(pipe, selectors.EVENT_READ, name)
            ended = False
            while selector.get_map():
                ready = selector.select(0 if ended else _POLL)
                for key, _ in ready:
                    if data := os.read(key.fd, _CHUNK):
                        run.add_text(key.data, data)
                    else:
                        selector.unregister(key.fileobj)
                run.send_due_text(time.monotonic())
                if ended and not ready:  # background processes keep the pipes open
                    break
                ended = process.poll() is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
