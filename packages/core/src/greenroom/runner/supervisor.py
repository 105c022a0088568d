"""The first process of a sandbox: it talks to the host, manages the files, manages a worker that runs the code, and
starts shell commands.

It is a single loop over file descriptors. The host decides when an execution has used up its time and sends
`interrupt`; what follows (the grace period, the kill, a new worker) happens here. When standard input ends, the host is
gone, and the sandbox ends with it. `protocol` lists the messages.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from .confine import confine
from .files import DATA_DIR, FileTree, Transfers
from .idle import IdleOutput
from .memory import OutOfMemory
from .pieces import Pieces
from .protocol import Decoder, Frame, FrameError, HostEvent, HostOrder, WorkerOrder, crash, encode
from .run import Run, parse_error
from .shell import Shell
from .spawn import DEFAULT_CONTAINER_TYPE, SHELL, Origin, WorkerProcess, check_container_type

_CHUNK = 1 << 16  # the default capacity of a pipe
_WIDE = 1 << 18  # a larger capacity: a chunk of a file
_F_SETPIPE_SZ = 1031  # the fcntl module has it only on Linux
_FRAMES = 16  # the most that wait to be sent together
_MOST_FAILED_STARTS = 3
_MAX_REAPED = 100  # children per turn of the loop
_CACHE = "/opt/greenroom/cache"
_BROKEN = (
    FrameError,
    RecursionError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
)  # raised for invalid frames, which the code can send
_CRASHES = (-signal.SIGABRT, -signal.SIGILL, -signal.SIGTRAP)  # signals with which a runtime aborts


class Supervisor:
    """The event loop. `serve` returns when the host is gone."""

    def __init__(
        self,
        stdin: int,
        stdout: int,
        tree: FileTree,
        *,
        spawn: Callable[..., WorkerProcess] | None,
        user: int | None,
        rlimits: dict[str, int],
    ) -> None:
        """
        Args:
            stdin: the descriptor that the host writes to.
            stdout: the descriptor that the host reads from.
            tree: the session's files.
            spawn: starts a worker, if the container type has one.
            user: the user that shell commands become, if the supervisor is root.
            rlimits: the resource limits of shell commands, by name without `RLIMIT_`.
        """
        self._spawn = spawn
        self._stdin = stdin
        self._stdout = stdout
        self._tree = tree
        self._decoder = Decoder()
        self._outbox: list[bytes] = []  # frames for the host
        self._widened: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._run: Run | None = None
        self._waiting: list[Frame] = []  # orders for a worker that is not ready yet
        self._idle = IdleOutput()
        self._files = Transfers(tree)
        self._pieces = Pieces(self._send)
        self._killed = False
        self._state_lost = False  # while no code was running: the next execution reports it
        self._failed_starts = 0  # consecutive ones
        self._announced = False  # the host knows that a worker is ready
        self._oom = OutOfMemory()
        self._shell = Shell(self._selector, tree, self._send, user=user, rlimits=rlimits)
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, _do_nothing)  # without a handler it would not wake us
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._wake, self._waker = wake_read, wake_write
        self._selector.register(stdin, selectors.EVENT_READ, self._on_host)
        self._selector.register(wake_read, selectors.EVENT_READ, self._on_child)
        self._worker = None if spawn is None else self._start_worker(spawn)
        if spawn is None:
            self._send(HostEvent.ready())
            self._flush()

    def serve(self) -> None:
        """Work until the host is gone."""
        while True:
            times = [run.due() for run in (self._run, self._shell.run) if run is not None]
            due = min((time for time in times if time is not None), default=None)
            ready = self._selector.select(None if due is None else max(due - time.monotonic(), 0))
            if due is not None and time.monotonic() >= due:
                self._on_due()
                self._flush()
            # The host comes first: the other descriptors can have data without end.
            for key, _ in sorted(ready, key=lambda item: item[0].fileobj != self._stdin):
                callback: Callable[[], bool | None] = key.data
                worker = self._worker
                if callback() is False:
                    return
                self._flush()
                if self._worker is not worker:
                    break  # a new worker can have descriptors with the same numbers

    def _on_due(self) -> None:
        now = time.monotonic()
        self._shell.on_due(now)
        self._finish_command()
        run, worker = self._run, self._worker
        if run is None or worker is None:
            return
        run.send_due_text(now)
        if run.kill_at is not None and now >= run.kill_at:
            run.kill_at = None
            self._killed = True
            self._kill(worker)

    # The host

    def _send(self, frame: Frame) -> None:
        """Send a frame, together with other frames of the same callback."""
        self._outbox.append(encode(*frame))
        if len(self._outbox) >= _FRAMES or len(self._outbox[-1]) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        data = memoryview(b"".join(self._outbox))
        self._outbox.clear()
        if len(data) > _CHUNK:
            self._widen(self._stdout)
        while data:
            data = data[os.write(self._stdout, data) :]

    def _widen(self, pipe: int) -> None:
        """Increase the capacity of a pipe to the host: a large message then wakes both ends less often."""
        if pipe not in self._widened:
            self._widened.add(pipe)
            with contextlib.suppress(OSError):  # not a pipe, or this user's pipes have reached their limit
                fcntl.fcntl(pipe, _F_SETPIPE_SZ, _WIDE)

    def _on_host(self) -> bool:
        data = os.read(self._stdin, _WIDE)
        if not data:
            return False
        if len(data) == _CHUNK:
            self._widen(self._stdin)
        for order in self._decoder.feed(data):
            self._handle_order(order)
        return True

    def _handle_order(self, order: Frame) -> None:
        header, body = order
        match header["op"]:
            case "shell":
                self._shell.start(header, body)
            case "environment":
                self._shell.environment = json.loads(body)
                if self._worker is not None and self._worker.takes_orders:
                    self._pass_on(self._worker, order)
            case "take":
                self._pieces.take(int(header["id"]))
            case "give":
                self._pieces.give(order)
            case "execute" | "preload" | "save" | "load":
                if header["op"] in {"save", "load"}:
                    self._pieces.begin()
                if self._worker is not None and self._worker.takes_orders:
                    self._pass_on(self._worker, order)
                else:
                    self._waiting.append(order)
            case "interrupt":
                self._interrupt(int(header["id"]), float(header["grace"]))
            case "answer":
                self._answer(header, body)
            case _:
                self._send(self._files.answer(header, body))

    def _pass_on(self, worker: WorkerProcess, order: Frame) -> None:
        """Pass an order from the host to the worker."""
        header, body = order
        if header["op"] == "environment":
            order = WorkerOrder.environment(body)
        elif header["op"] == "execute":
            self._begin(worker, header)
            order = WorkerOrder.execute(header, body)
        elif header["op"] in {"save", "load"}:
            self._begin(worker, header)
            order = WorkerOrder.save(body) if header["op"] == "save" else WorkerOrder.load()
        else:
            order = WorkerOrder.preload(body)
        worker.outbox += encode(*order)
        self._on_worker_writable(worker)

    def _begin(self, worker: WorkerProcess, header: dict[str, Any]) -> None:
        worker.used = True
        self._run = Run(header, self._tree, self._send)
        self._idle.hand_over(self._run)

    def _on_worker_writable(self, worker: WorkerProcess) -> None:
        events = selectors.EVENT_READ if worker.flush() else selectors.EVENT_READ | selectors.EVENT_WRITE
        with contextlib.suppress(KeyError):  # the worker has closed its end
            if self._selector.get_key(worker.socket).events != events:
                self._selector.modify(worker.socket, events, partial(self._on_worker, worker))

    def _interrupt(self, number: int, grace: float) -> None:
        for index, (header, _) in enumerate(self._waiting):
            if header["op"] != "preload" and header["id"] == number:  # it has not begun
                del self._waiting[index]
                self._pieces.end()
                self._send(HostEvent.done(number, duration=0.0))
                return
        self._shell.interrupt(number, grace)
        run, worker = self._run, self._worker
        if run is None or worker is None or run.id != number or run.kill_at is not None:
            return
        run.kill_at = time.monotonic() + grace
        self._pieces.end()
        worker.signal(signal.SIGINT)  # if the code has not begun, this interrupts whatever delays it

    def _give_piece(self, worker: WorkerProcess, piece: bytes) -> None:
        worker.outbox += encode(*WorkerOrder.piece(piece))
        self._on_worker_writable(worker)

    def _answer(self, header: dict[str, Any], body: bytes) -> None:
        """Pass the answer to a call to the worker, unless its execution has ended."""
        run, worker = self._run, self._worker
        if run is not None and worker is not None and run.id == header["id"]:
            worker.outbox += encode(*WorkerOrder.answer(run.id, header["call"], body, failed=header["failed"]))
            self._on_worker_writable(worker)

    # The worker

    def _start_worker(self, spawn: Callable[[], WorkerProcess]) -> WorkerProcess:
        worker = spawn()
        self._selector.register(worker.socket, selectors.EVENT_READ, partial(self._on_worker, worker))
        for pipe in worker.pipes:
            self._selector.register(pipe.descriptor, selectors.EVENT_READ, partial(self._on_text, worker))
        return worker

    def _on_worker(self, worker: WorkerProcess) -> None:
        if worker.killed:
            return
        if worker.outbox:
            self._on_worker_writable(worker)
        try:
            data = worker.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(worker.socket)  # it is ending; its exit status decides
            return
        try:
            for event in worker.decoder.feed(data):
                self._read_text(worker)  # text written before a frame is already in the pipes, and goes first
                self._handle_event(worker, event)
        except _BROKEN:
            self._kill(worker)  # the code has written to the socket

    def _kill(self, worker: WorkerProcess) -> None:
        """Kill the worker. The execution ends with it: an end that it still reported would get the next one killed."""
        worker.kill()
        with contextlib.suppress(KeyError):  # it has closed its end
            self._selector.unregister(worker.socket)

    def _handle_event(self, worker: WorkerProcess, event: Frame) -> None:
        header, body = event
        run = self._run
        match header.get("ev"):
            case "ready":
                self._on_ready(worker)
            case "preloaded":
                self._idle.forget()
                self._send(HostEvent.preloaded())
            case "began":
                if run is not None and run.kill_at is not None:
                    worker.signal(signal.SIGINT)
            case "output":
                (run or self._idle).show(header, body)
                if header.get("last") is not True:
                    worker.acknowledge()
            case "error":
                if (error := parse_error(body)) is not None:
                    (run or self._idle).show_error(error, ends=header.get("ends") is True)
                worker.acknowledge()
            case "area":
                if run is not None:
                    (run.enter_area if header.get("begins") is True else run.leave_area)()
                worker.acknowledge()
            case "clear":
                (run or self._idle).clear(wait=header.get("wait") is True)
                worker.acknowledge()
            case "call":
                if run is not None:
                    run.call(header, body)
            case "withdraw":
                if run is not None:
                    run.withdraw(header)
            case "piece":
                self._pieces.offer(body, worker.acknowledge)
            case "more":
                self._pieces.want(partial(self._give_piece, worker))
            case "done":
                self._finish(duration=float(header["duration"]), error=parse_error(body))
            case _:
                pass

    def _on_ready(self, worker: WorkerProcess) -> None:
        worker.ready = True
        self._idle.forget()
        if not self._announced:
            self._announced = True
            self._send(HostEvent.ready())
        waiting, self._waiting = self._waiting, []
        if self._shell.environment:
            self._pass_on(worker, HostOrder.environment(self._shell.environment))
        for order in waiting:
            self._pass_on(worker, order)

    def _finish(self, **ending: Any) -> None:
        self._pieces.end()
        if self._run is not None:
            self._run.finish(state_lost=self._state_lost, **ending)
            self._run = None
            self._state_lost = False

    def _finish_command(self) -> None:
        if self._shell.finish_if_over(state_lost=self._state_lost):
            self._state_lost = False

    def _on_text(self, worker: WorkerProcess) -> None:
        self._read_text(worker, once=True)

    def _read_text(self, worker: WorkerProcess, *, once: bool = False) -> None:
        """Read from the worker's pipes: everything in them, or one piece of each."""
        for pipe in worker.pipes:
            held = _CHUNK if once else pipe.held()  # a process that never stops writing must not keep us here
            while held > 0:
                try:
                    data = os.read(pipe.descriptor, _CHUNK)
                except BlockingIOError:
                    break
                if not data:
                    with contextlib.suppress(KeyError):
                        self._selector.unregister(pipe.descriptor)
                    break
                held -= len(data)
                worker.look_at(pipe, data)
                (self._run or self._idle).add_text(pipe.name, data)
                if once:
                    break

    # The end of a worker

    def _on_child(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        for _ in range(_MAX_REAPED):  # code that creates processes without end must not keep us here
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            if self._spawn is not None and self._worker is not None and pid == self._worker.pid:
                self._worker = self._replace(self._worker, code, self._spawn)
                self._wake_up()  # there may be more
                break
            self._shell.on_end(pid, code)
        else:
            self._wake_up()
        self._finish_command()

    def _wake_up(self) -> None:
        """Check for ended processes again in the next iteration."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, which wakes us as well
            os.write(self._waker, b"\0")

    def _replace(self, worker: WorkerProcess, code: int, spawn: Callable[..., WorkerProcess]) -> WorkerProcess:
        """Kill everything that an ended worker has left, report its end, and start another."""
        out_of_memory = self._oom.occurred() and not self._killed
        _kill_all_others()
        with contextlib.suppress(OSError, *_BROKEN):
            while data := worker.socket.recv(_CHUNK):
                for event in worker.decoder.feed(data):
                    self._read_text(worker)
                    if event.header.get("ev") in ("output", "error"):
                        self._handle_event(worker, event)
        self._read_text(worker)
        self._failed_starts = 0 if worker.ready else self._failed_starts + 1
        # One that could not even start would fail again, unless code or a lack of memory ended it.
        if self._failed_starts > (_MOST_FAILED_STARTS if self._announced else 0):
            self._flush()
            os.write(2, self._idle.text())
            os._exit(1)
        for descriptor in (worker.socket, *(pipe.descriptor for pipe in worker.pipes)):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        worker.close()
        killed, self._killed = self._killed, False
        out_of_memory |= worker.reports_lack_of_memory and code in _CRASHES and not killed
        if self._run is not None:
            self._finish(crash=crash(code, killed=killed, out_of_memory=out_of_memory))
        elif worker.used:
            self._state_lost = True
        self._flush()  # the end is known, even if no other worker can be started
        return self._start_worker(partial(spawn, after_lack_of_memory=out_of_memory))


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    pass


def _kill_all_others() -> None:
    """Kill every process in the sandbox except this one."""
    if os.getpid() != 1:  # not in our own process namespace, so this is not a sandbox
        return
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)


def prepare_home(owner: int | None) -> None:
    """Prepare the sandbox: its directories, with the files that the image provides for them."""
    os.chdir(DATA_DIR)
    home = os.environ["HOME"]
    os.makedirs(home, exist_ok=True)
    if os.path.isdir(_CACHE):
        import shutil

        shutil.copytree(_CACHE, home, dirs_exist_ok=True, copy_function=shutil.copyfile)
    if owner is not None:
        for directory, _, names in os.walk(home):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                os.chown(path, owner, owner)


def main() -> NoReturn:
    """Act as the supervisor on standard input and output.

    The only argument is JSON, the engine's settings, all optional: `container_type`, `rlimits` of the workers by
    name without `RLIMIT_`, and `uid` or `worker_uid` and `allow_unfiltered`, which `confine` explains.
    """
    settings: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    container_type: str = settings.get("container_type", DEFAULT_CONTAINER_TYPE)
    try:
        check_container_type(container_type)
    except ValueError as error:
        sys.exit(str(error))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as is everything without a handler: process 1 is immune
    worker_uid = settings.get("worker_uid")
    try:
        confine(
            uid=settings.get("uid"),
            worker_uid=worker_uid,
            allow_unfiltered=settings.get("allow_unfiltered", False),
        )
    except OSError as error:
        sys.exit(f"The sandbox cannot drop its privileges: {error.strerror}.")
    prepare_home(worker_uid)
    supervise(settings)


def supervise(settings: Mapping[str, Any], origin: Origin | None = None) -> NoReturn:
    """Serve the host on standard input and output until it is gone.

    Args:
        settings: the engine's settings.
        origin: how forks of this process become workers; by default workers are new programs.
    """
    container_type: str = settings.get("container_type", DEFAULT_CONTAINER_TYPE)
    worker_uid = settings.get("worker_uid")
    # Anything printed here by mistake must not be mixed with the frames.
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    rlimits: dict[str, int] = settings.get("rlimits", {})
    spawn = partial(WorkerProcess, container_type, user=worker_uid, rlimits=rlimits, origin=origin)
    try:
        Supervisor(
            stdin,
            stdout,
            FileTree(owner=worker_uid),
            spawn=None if container_type == SHELL else spawn,
            user=worker_uid,
            rlimits=rlimits,
        ).serve()
    except BrokenPipeError:
        pass
    finally:
        _kill_all_others()
    os._exit(0)
