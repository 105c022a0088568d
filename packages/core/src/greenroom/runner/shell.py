"""Shell commands: processes beside the worker, under the same confinement, that cannot access its variables."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from .confine import step_down
from .files import DATA_DIR, FileTree
from .memory import OutOfMemory
from .protocol import Frame
from .run import Run
from .spawn import NOBODY_THERE, Pipe, output_pipes

NOT_RUN = 126
"""The exit code of a command that could not be started, as in a shell."""

_CHUNK = 1 << 16
_LONG = 100_000  # bytes; Linux takes no argument of 128 KiB
_MAX_LEFT = 256  # pipes of background processes that are still read, as they would end if their writes failed

# If memory runs out, the kernel must kill a command and not the supervisor. A kill before the exec is not reportable.
_LAUNCH = '{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null; exec "$@"'


class Order(NamedTuple):
    """What the host asks to run."""

    command: str | list[str]
    """The command for bash, or for sh if that is missing; or a program and its arguments."""
    stdin: bytes
    environment: Mapping[str, str]

    @classmethod
    def parse(cls, header: Mapping[str, Any], body: bytes) -> Order:
        """Set the parts from the order's body: variables, command, standard input."""
        begin, end = int(header["env"]), len(body) - int(header["stdin"])
        text = body[begin:end].decode()
        return cls(
            command=text.split("\0") if header["argv"] else text,
            stdin=body[end:],
            environment=json.loads(body[:begin]) if begin else {},
        )


class Command:
    """A running command, in its own process group."""

    def __init__(self, pid: int, pipes: list[Pipe], run: Run) -> None:
        self.pid = pid
        self.pipes = pipes
        self.run = run
        self.exit_code: int | None = None
        self.interrupted = False
        self.killed = False

    @property
    def over(self) -> bool:
        """Whether it has ended; if it was interrupted, whether its whole group has ended or was killed."""
        if self.exit_code is None:
            return False
        return self.killed or not self.interrupted or not self.signal(0)

    def signal(self, number: int) -> bool:
        """Send a signal to its process group; return whether there was one."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            if self.exit_code is not None:
                return False
            with contextlib.suppress(PermissionError):
                os.kill(self.pid, number)  # it does not have its own group yet, and its process ID has not been reused
        except PermissionError:
            pass
        return True


class Shell:
    """Runs the host's commands, one at a time.

    Attributes:
        environment: the session's variables, in addition to those of the sandbox.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        tree: FileTree,
        send: Callable[[Frame], None],
        *,
        user: int | None,
        rlimits: Mapping[str, int],
    ) -> None:
        self.environment: dict[str, str] = {}
        self._selector = selector
        self._tree = tree
        self._send = send
        self._user = user
        self._rlimits = rlimits
        self._command: Command | None = None
        self._left: list[Pipe] = []
        self._oom = OutOfMemory()

    @property
    def run(self) -> Run | None:
        """The execution of the command that is running now."""
        return None if self._command is None else self._command.run

    def start(self, header: dict[str, Any], body: bytes) -> None:
        """Start a command. Its end is reported to the host by `done`."""
        order = Order.parse(header, body)
        variables = {**self.environment, **order.environment}
        run = Run(header, self._tree, self._send)
        self._oom.occurred()
        pipes, ends = output_pipes(self._user)
        try:
            pid = self._spawn(order, variables, ends)
        except OSError as error:
            for pipe in pipes:
                pipe.close()
            run.add_text("stderr", f"The command cannot be started: {error.strerror}.\n".encode())
            run.finish(exit_code=NOT_RUN, state_lost=False)
            return
        finally:
            for end in ends:
                os.close(end)
        command = self._command = Command(pid, pipes, run)
        for pipe in pipes:
            self._selector.register(
                pipe.descriptor, selectors.EVENT_READ, lambda pipe=pipe: self._on_text(command, pipe)
            )

    def interrupt(self, number: int, grace: float) -> None:
        """Stop a command: its process group is asked to end, and killed after the grace period."""
        command = self._command
        if command is None or command.run.id != number or command.interrupted:
            return
        command.interrupted = True
        command.run.kill_at = time.monotonic() + grace
        command.signal(signal.SIGTERM)
        command.signal(signal.SIGCONT)

    def on_due(self, now: float) -> None:
        """Do whatever is due now."""
        command = self._command
        if command is None:
            return
        command.run.send_due_text(now)
        if command.run.kill_at is not None and now >= command.run.kill_at:
            command.run.kill_at = None
            command.killed = True
            command.signal(signal.SIGKILL)

    def on_end(self, pid: int, exit_code: int) -> None:
        """Note that a process has ended and was reaped."""
        if self._command is not None and pid == self._command.pid:
            self._command.exit_code = 128 - exit_code if exit_code < 0 else exit_code

    def finish_if_over(self, *, state_lost: bool) -> bool:
        """Report the end of the command if it has ended; return whether it has."""
        command = self._command
        if command is None or not command.over:
            return False
        for pipe in command.pipes:
            held = pipe.held()  # a background process that never stops writing must not keep us here
            while held > 0 and (data := self._read(pipe)):
                command.run.add_text(pipe.name, data)
                held -= len(data)
        self._command = None
        self._left = [pipe for pipe in (*self._left, *command.pipes) if not pipe.closed]
        while len(self._left) > _MAX_LEFT:
            self._drop(self._left.pop(0))
        command.run.finish(
            exit_code=command.exit_code,
            killed=command.killed,
            out_of_memory=self._oom.occurred() and command.exit_code != 0,
            state_lost=state_lost,
        )
        return True

    def _on_text(self, command: Command, pipe: Pipe) -> None:
        data = self._read(pipe)
        if data and self._command is command:
            command.run.add_text(pipe.name, data)

    def _read(self, pipe: Pipe) -> bytes:
        """Return the contents of a pipe, up to a limit; at its end, close it."""
        if pipe.closed:  # while an earlier event was handled
            return b""
        try:
            data = os.read(pipe.descriptor, _CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            self._drop(pipe)
        return data

    def _drop(self, pipe: Pipe) -> None:
        self._selector.unregister(pipe.descriptor)
        pipe.close()

    def _spawn(self, order: Order, variables: Mapping[str, str], ends: list[int]) -> int:
        """Start the process of a command; return its process ID.

        Raises:
            OSError: the session has reached its limit of processes.
        """
        pid = os.fork()
        if pid == 0:
            self._exec(order, variables, ends)
        return pid

    def _exec(self, order: Order, variables: Mapping[str, str], ends: list[int]) -> NoReturn:
        """Become the command. This process is a copy of the supervisor, whose other descriptors close at the exec."""
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for descriptor, end in enumerate(ends, 1):
                os.dup2(end, descriptor)
            for name, limit in self._rlimits.items():
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
            if self._user is not None:
                step_down(self._user)
            if order.stdin:
                os.dup2(_file_of(order.stdin, os.MFD_CLOEXEC), 0)
            os.chdir(DATA_DIR)
            environment = {**NOBODY_THERE, **os.environ, **variables}
            arguments = _arguments(order.command, variables.get("PATH"))
            os.execve("/bin/sh", ["sh", "-c", _LAUNCH, "sh", *arguments], environment)  # noqa: S606
        except BaseException as error:  # noqa: BLE001  nothing else can be done with it here
            reason = error.strerror if isinstance(error, OSError) else error
            os.write(2, f"The command cannot be started: {reason}.\n".encode())
        finally:
            os._exit(NOT_RUN)


def _arguments(command: str | list[str], path: str | None) -> list[str]:
    if not isinstance(command, str):
        return command
    if path is not None:  # the system's profile sets another one
        command = f"export PATH={shlex.quote(path)}; {command}"
    bash = shutil.which("bash")
    shell = ["/bin/sh"] if bash is None else [bash, "-l"]
    if len(command.encode()) < _LONG:
        return [*shell, "-c", command]
    return [*shell, f"/proc/self/fd/{_file_of(command.encode(), 0)}"]


def _file_of(content: bytes, flags: int) -> int:
    """Return a descriptor of a file in memory that programs can read."""
    descriptor = os.memfd_create("greenroom", flags)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
