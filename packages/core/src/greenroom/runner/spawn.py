"""Start the worker, the process that runs a session's code, and hold the supervisor's ends of its descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import termios
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from .confine import WORKER_STEP_DOWN, be_dumpable
from .open_files import OpenFile, close_all_except, open_again
from .protocol import Decoder

DEFAULT_CONTAINER_TYPE = "PythonLTS"


class Command(NamedTuple):
    """How a worker is started."""

    arguments: list[str]
    environment: dict[str, str]
    """Environment variables for this language; those of the sandbox take precedence."""
    reserved: int = 0
    """Bytes of memory that it reserves without using them, which `RLIMIT_DATA` counts."""
    out_of_memory: bytes | None = None
    """Text that it writes to its standard error before it crashes for lack of memory."""


class Origin(NamedTuple):
    """How forks of this process become workers."""

    become: Callable[[int, int], NoReturn]
    """Given descriptors for orders and for acknowledgements, turns a fork into a worker."""
    files: list[OpenFile]
    """Files that the modules of this process keep open."""


NOBODY_THERE = {
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    # vi would wait for a key that nobody presses. Its commands can still be used without a screen.
    "VIMINIT": (
        "set noswapfile | autocmd VimEnter * if mode(1) !=# 'cv' | call writefile(['An editor cannot be used: "
        "this session is not interactive. Change the file with code.'], '/dev/stderr', 'a') | cquit | endif"
    ),
}
"""Environment variables that keep programs from waiting for someone at a terminal."""

_NEEDED = 32 << 20  # bytes without which a worker cannot do anything useful

SHELL = "Shell"
"""The container type without a worker: all of its code is shell commands."""


def _python(step_down: str) -> Command:
    source = step_down + (
        "import sys; sys.path.insert(0, sys.argv.pop()); from greenroom_runner.workers.python import main; "
        "sys.path.pop(0); main(3, 4)"
    )
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {
        # Libraries check these to detect that they draw for a notebook; plotly does not recognize ours by itself.
        # Unlike in a kernel, text has no colours, as models read it.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PLOTLY_RENDERER": "plotly_mimetype",
        **NOBODY_THERE,
        # Bytecode is matched to its source by size and time in seconds. Code that repairs a module within a second
        # would run the old one.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Command([sys.executable, "-I", "-B", "-u", "-c", source, home], environment)


def _node(step_down: str) -> Command:
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "workers", "node", "main.cjs")
    command = [
        shutil.which("node") or "node",
        "--disable-warning=ExperimentalWarning",
        "--expose-internals",  # its parser, and signals in a thread
        "--experimental-vm-modules",  # `import()` in cells, and the positions of errors in modules
        "--no-force-async-hooks-checks",  # an interrupt leaves calls unfinished
        worker,
    ]
    if step_down:
        command = [sys.executable, "-I", "-S", "-c", f"{step_down}os.execv({command[0]!r}, {command!r})"]
    node_modules = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(command[0]))), "lib", "node_modules")
    # V8 reserves 512 MiB for compiled code, all of it writable, and its threads have stacks.
    return Command(command, {"NODE_PATH": node_modules}, 640 << 20, b"out of memory")


_COMMANDS: dict[str, Callable[[str], Command]] = {DEFAULT_CONTAINER_TYPE: _python, "NodeLTS": _node}
"""By container type: the worker's command, given Python source that must run first (or an empty string)."""


def check_container_type(name: str) -> None:
    """Check that a sandbox can have a container type.

    Raises:
        ValueError: the type is not known here.
    """
    known = (*_COMMANDS, SHELL)
    if name not in known:
        raise ValueError(f"container_type must be one of {', '.join(known)}, not {name!r}")


class Pipe:
    """The read end of a program's standard output or standard error."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)

    def held(self) -> int:
        """Return how many bytes can be read now."""
        return 0 if self.closed else struct.unpack("i", fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4)))[0]

    @property
    def closed(self) -> bool:
        return self.descriptor < 0

    def close(self) -> None:
        """Close it. Idempotent."""
        if not self.closed:
            os.close(self.descriptor)
            self.descriptor = -1


def output_pipes(user: int | None) -> tuple[list[Pipe], list[int]]:
    """Return pipes for a program's standard output and standard error, and their write ends.

    Args:
        user: the program's user, if the supervisor is root.
    """
    if user is not None:
        os.seteuid(user)  # otherwise the program could not open /dev/stdout by that name
    try:
        (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe()
    finally:
        if user is not None:
            os.seteuid(0)
    return [Pipe("stdout", out_read), Pipe("stderr", err_read)], [out_write, err_write]


def python_environment() -> dict[str, str]:
    """Return the variables that a Python worker has in addition to those of its sandbox."""
    return {name: value for name, value in _python("").environment.items() if name not in os.environ}


def _spawn(command: Command, ends: list[int]) -> int:
    """Start a worker's program with these as its first five descriptors; return its process."""
    null, out_write, err_write, orders, acks = ends
    return os.posix_spawn(
        command.arguments[0],
        command.arguments,
        command.environment | dict(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, out_write, 1),
            (os.POSIX_SPAWN_DUP2, err_write, 2),
            (os.POSIX_SPAWN_DUP2, orders, 10),
            (os.POSIX_SPAWN_DUP2, acks, 11),
            (os.POSIX_SPAWN_DUP2, 10, 3),
            (os.POSIX_SPAWN_DUP2, 11, 4),
            (os.POSIX_SPAWN_CLOSE, 10),
            (os.POSIX_SPAWN_CLOSE, 11),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT],
    )


def _fork(environment: dict[str, str], ends: list[int], origin: Origin, *, needed: int) -> int:
    """Fork a worker with these and the origin's files as its only descriptors; return its process.

    The child first allocates the memory that a worker needs and frees it; if that fails, the child ends.

    The child keeps all objects of this process, unused: if one were garbage-collected, it could close a descriptor that
    code has since opened under the same number. So the child must not return from here.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        spare = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]
        kept = {file.descriptor for file in origin.files}
        numbers = [number for number in range(len(ends) + len(kept)) if number not in kept][: len(ends)]
        for number, descriptor in zip(numbers, spare, strict=True):
            os.dup2(descriptor, number)
        close_all_except({*numbers, *kept})
        for file in origin.files:
            open_again(file)
        be_dumpable()
        bytearray(needed)[::4096] = bytes(range(1, 2)) * (needed // 4096)
        os.environ.update({**environment, **os.environ})
        origin.become(*numbers[3:])
    except BaseException:  # noqa: BLE001  nothing else can be done with it here
        traceback.print_exc()
    finally:
        os._exit(1)


class WorkerProcess:
    """One worker, from its start to its end."""

    def __init__(
        self,
        container_type: str,
        *,
        user: int | None,
        rlimits: dict[str, int],
        origin: Origin | None = None,
        after_lack_of_memory: bool = False,
    ) -> None:
        """
        Args:
            container_type: determines the kind of worker.
            user: the user that the worker becomes, if the supervisor is root.
            rlimits: the worker's resource limits, by name without `RLIMIT_`.
            origin: how a fork of this process becomes the worker; by default the worker is a new program.
            after_lack_of_memory: whether the previous worker was killed for lack of memory.
        """
        mine, theirs = socket.socketpair()
        acks_read, self.acks = os.pipe()
        os.set_blocking(self.acks, False)
        self.pipes, (out_write, err_write) = output_pipes(user)
        null = os.open(os.devnull, os.O_RDONLY)
        command = _COMMANDS[container_type]("" if user is None else WORKER_STEP_DOWN.format(user))
        ends = [null, out_write, err_write, theirs.fileno(), acks_read]
        if origin is None:
            self.pid = _spawn(command, ends)
        else:
            self.pid = _fork(command.environment, ends, origin, needed=_NEEDED if after_lack_of_memory else 0)
        if "DATA" in rlimits:
            rlimits = {**rlimits, "DATA": rlimits["DATA"] + command.reserved}
        for name, limit in rlimits.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self.pid, getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        theirs.close()
        for descriptor in (acks_read, out_write, err_write, null):
            os.close(descriptor)
        mine.setblocking(False)
        self.socket = mine
        self.decoder = Decoder()
        self.outbox = bytearray()
        self.ready = False
        self.killed = False  # it gets no more orders, and its further events do not count
        self.used = False  # it has run code of the session
        self.reports_lack_of_memory = False
        self._out_of_memory = command.out_of_memory

    def flush(self) -> bool:
        """Write as much of the outbox as the worker accepts; return whether that was everything.

        It never blocks: a worker that reads no orders must not keep the supervisor from reading the host's.
        """
        try:
            while self.outbox:
                del self.outbox[: self.socket.send(self.outbox)]
        except BlockingIOError:
            return False
        except OSError:  # it has ended, which its exit reports better
            self.outbox.clear()
        return True

    def look_at(self, pipe: Pipe, data: bytes) -> None:
        """Check its standard error for the text that precedes a crash for lack of memory."""
        if pipe.name == "stderr" and self._out_of_memory is not None and self._out_of_memory in data:
            self.reports_lack_of_memory = True

    def acknowledge(self) -> None:
        """Let the worker continue after a display."""
        with contextlib.suppress(OSError):
            os.write(self.acks, b"\0")

    @property
    def takes_orders(self) -> bool:
        return self.ready and not self.killed

    def kill(self) -> None:
        """Kill the worker's process group, which can take a while to end."""
        self.killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the worker's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Close the supervisor's ends of its descriptors."""
        self.socket.close()
        os.close(self.acks)
        for pipe in self.pipes:
            pipe.close()
