"""The first process of a sandbox: talks to the host, keeps the files, and keeps a worker that runs the code.

It is one loop over file descriptors and needs the standard library alone. The host decides when an execution
has had its time and says `interrupt`; what follows (the grace period, the kill, a new worker) happens here.
When standard input ends, the host is gone, and the sandbox ends with it.

Frames from the host, each with an `op`:

    execute     id, text_limit, output_limit; body: the code. Answered by text, output and clear, then done, whose
                body has the error and the new files
    interrupt   id, grace
    preload     body: the modules' names. Answered by preloaded
    open        id, path, mode "r" or "w";  read id, file, size;  write id, file, body;
    finish      id, file;  close id, file;  list id, path, recursive;  stat id, path;  delete id, path
                Each is answered by one reply with the same id, with an `errno` where it failed.

Frames to the host, each with an `ev`: ready, preloaded, text, output, clear, done, reply.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from .confine import confine
from .files import DATA_DIR, FileTree, Transfers
from .json_weight import TooDeep
from .protocol import ERROR_LIMITS, MAX_ENDING, MAX_NAME, MAX_OUTPUTS, VERSION, Decoder, FrameError, encode, output_cost
from .spawn import WorkerProcess

_CHUNK = 1 << 16
_MERGE_SECONDS = 0.001  # how long a piece of text waits for the next: print() writes its text and its newline apart
_SNAPSHOT_LIMIT = 2_000
_REAPED_AT_ONCE = 100
_CACHE = "/opt/greenroom/cache"


class Execution:
    """The execution under way, and what it may still say."""

    def __init__(self, header: dict[str, Any], before: dict[str, tuple[int, int]] | None) -> None:
        self.id = int(header["id"])
        self.text_left = int(header["text_limit"])
        self.output_left = int(header["output_limit"])
        self.outputs_left = MAX_OUTPUTS
        self.truncated = 0
        self.before = before
        self.began_at = time.perf_counter()
        self.running = False  # the worker has the code and can be interrupted
        self.kill_at: float | None = None  # set once it has been told to stop
        self.text: list[tuple[str, bytearray]] = []  # what waits to be passed on
        self.text_due = 0.0

    def due(self) -> float | None:
        """When there is something to do even if nothing happens before."""
        times = [self.text_due] if self.text else []
        if self.kill_at is not None:
            times.append(self.kill_at)
        return min(times, default=None)

    def may_show(self, header: dict[str, Any], body: bytes) -> bool:
        """Whether a rich output may be passed on; if so, it counts."""
        try:
            cost = output_cost(body, self.output_left)
        except TooDeep:
            return False
        new = not header["update"]
        if cost > self.output_left or (new and not self.outputs_left):
            return False
        self.output_left -= cost
        self.outputs_left -= new
        return True


class Supervisor:
    """The loop. `serve` returns when the host has gone."""

    def __init__(
        self, stdin: int, stdout: int, tree: FileTree, *, rlimits: dict[str, int], worker_uid: int | None
    ) -> None:
        self._rlimits = rlimits  # of the worker, by name without RLIMIT_
        self._worker_uid = worker_uid
        self._stdin = stdin
        self._stdout = stdout
        self._tree = tree
        self._decoder = Decoder()
        self._selector = selectors.DefaultSelector()
        self._execution: Execution | None = None
        self._waiting: list[tuple[dict[str, Any], bytes]] = []  # orders for a worker that is not ready yet
        self._idle_text: list[tuple[str, bytes]] = []  # written while no code ran: belongs to the next
        self._idle_size = 0
        self._files = Transfers(tree)
        self._killed = False
        self._state_lost = False  # while no code ran: the next execution says so
        self._first_ready = True
        self._oom_kills = _oom_kills()
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, _do_nothing)  # without a handler it would not wake us
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._wake, self._waker = wake_read, wake_write
        self._selector.register(stdin, selectors.EVENT_READ, self._on_host)
        self._selector.register(wake_read, selectors.EVENT_READ, self._on_child)
        self._worker = self._start_worker()

    def serve(self) -> None:
        while True:
            due = None if self._execution is None else self._execution.due()
            ready = self._selector.select(None if due is None else max(due - time.monotonic(), 0))
            if due is not None and time.monotonic() >= due:
                self._on_due()
            # The host first: what else there is may never end.
            for key, _ in sorted(ready, key=lambda item: item[0].fileobj != self._stdin):
                callback: Callable[[], bool | None] = key.data
                worker = self._worker
                if callback() is False:
                    return
                if self._worker is not worker:
                    break  # a new one may have taken the other descriptors' numbers

    def _on_due(self) -> None:
        execution = self._execution
        if execution is None:
            return
        now = time.monotonic()
        if execution.text and now >= execution.text_due:
            self._tell_text(execution)
        if execution.kill_at is not None and now >= execution.kill_at:
            execution.kill_at = None
            self._kill_worker()

    # The host

    def _tell(self, header: dict[str, Any], body: bytes = b"") -> None:
        data = memoryview(encode(header, body))
        while data:
            data = data[os.write(self._stdout, data) :]

    def _on_host(self) -> bool:
        data = os.read(self._stdin, _CHUNK)
        if not data:
            return False
        for header, body in self._decoder.feed(data):
            self._obey(header, body)
        return True

    def _obey(self, header: dict[str, Any], body: bytes) -> None:
        match header["op"]:
            case "execute" | "preload":
                if self._worker.ready:
                    self._order(header, body)
                else:
                    self._waiting.append((header, body))
            case "interrupt":
                self._interrupt(int(header["id"]), float(header["grace"]))
            case _:
                self._tell(*self._files.answer(header, body))

    def _order(self, header: dict[str, Any], body: bytes) -> None:
        if header["op"] == "execute":
            self._worker.used = True
            self._execution = Execution(header, self._tree.snapshot(_SNAPSHOT_LIMIT))
            held = self._idle_text
            self._forget_idle_text()
            for stream, data in held:
                self._pass_text(stream, data)
            header = {"op": "execute"}
        self._worker.outbox += encode(header, body)
        self._on_worker_writable()

    def _on_worker_writable(self) -> None:
        events = selectors.EVENT_READ if self._worker.flush() else selectors.EVENT_READ | selectors.EVENT_WRITE
        with contextlib.suppress(KeyError):  # it has closed its end
            self._selector.modify(self._worker.socket, events, self._on_worker)

    def _interrupt(self, identifier: int, grace: float) -> None:
        for index, (header, _) in enumerate(self._waiting):
            if header.get("id") == identifier and header["op"] == "execute":  # it has not begun
                del self._waiting[index]
                self._tell({"ev": "done", "id": identifier, "duration": 0.0, "truncated": 0}, _ending(None, []))
                return
        execution = self._execution
        if execution is None or execution.id != identifier or execution.kill_at is not None:
            return
        execution.kill_at = time.monotonic() + grace
        if execution.running:
            self._worker.signal(signal.SIGINT)

    # The worker

    def _start_worker(self) -> WorkerProcess:
        worker = WorkerProcess(user=self._worker_uid, rlimits=self._rlimits)
        self._selector.register(worker.socket, selectors.EVENT_READ, self._on_worker)
        for pipe in worker.pipes:
            self._selector.register(pipe.descriptor, selectors.EVENT_READ, self._on_text)
        return worker

    def _on_worker(self) -> None:
        if self._worker.outbox:
            self._on_worker_writable()
        # What was written before a frame is in the pipes already, and goes first.
        try:
            data = self._worker.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(self._worker.socket)  # it ends; its exit is what counts
            return
        try:
            for header, body in self._worker.decoder.feed(data):
                self._drain()
                self._hear(header, body)
        except (FrameError, RecursionError, KeyError, TypeError, ValueError):  # the code has written on the socket
            self._worker.signal(signal.SIGKILL)

    def _hear(self, header: dict[str, Any], body: bytes) -> None:
        execution = self._execution
        match header.get("ev"):
            case "ready":
                self._worker.ready = True
                self._forget_idle_text()
                if self._first_ready:
                    self._first_ready = False
                    self._tell({"ev": "ready", "version": VERSION, "python": sys.version.split()[0]})
                waiting, self._waiting = self._waiting, []
                for order, content in waiting:
                    self._order(order, content)
            case "preloaded":
                self._forget_idle_text()
                self._tell({"ev": "preloaded"})
            case "began":
                if execution is not None:
                    execution.running = True
                    if execution.kill_at is not None:
                        self._worker.signal(signal.SIGINT)
            case "output":
                if execution is not None:
                    shown = _output_header(header, execution.id)
                    if execution.may_show(shown, body):
                        self._tell_text(execution)
                        self._tell(shown, body)
                    else:
                        execution.truncated += len(body)
                self._worker.acknowledge()
            case "clear":
                if execution is not None:
                    execution.outputs_left = MAX_OUTPUTS
                    self._tell_text(execution)
                    self._tell({"ev": "clear", "id": execution.id, "wait": header.get("wait") is True})
                self._worker.acknowledge()
            case "done":
                self._finish({"duration": float(header["duration"])}, _error_of(body))
            case _:
                pass

    def _on_text(self) -> None:
        self._drain(once=True)

    def _drain(self, *, once: bool = False) -> None:
        """Pass on what the worker's pipes hold: all of it, or one piece of each."""
        for pipe in self._worker.pipes:
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
                self._pass_text(pipe.name, data)
                if once:
                    break

    def _pass_text(self, stream: str, data: bytes) -> None:
        execution = self._execution
        if execution is None:
            if self._idle_size < _CHUNK:
                self._idle_text.append((stream, data))
                self._idle_size += len(data)
            return
        kept = data[: execution.text_left]
        execution.text_left -= len(kept)
        execution.truncated += len(data) - len(kept)
        if not kept:
            return
        if not execution.text:
            execution.text_due = time.monotonic() + _MERGE_SECONDS
        if execution.text and execution.text[-1][0] == stream:
            execution.text[-1][1].extend(kept)
        else:
            execution.text.append((stream, bytearray(kept)))
        if len(execution.text[-1][1]) >= _CHUNK:
            self._tell_text(execution)

    def _tell_text(self, execution: Execution) -> None:
        """Pass on what waits, before anything that comes after it."""
        for stream, data in execution.text:
            self._tell({"ev": "text", "id": execution.id, "stream": stream}, bytes(data))
        execution.text.clear()

    def _forget_idle_text(self) -> None:
        self._idle_text, self._idle_size = [], 0

    def _finish(self, outcome: dict[str, Any], error: dict[str, str] | None) -> None:
        execution = self._execution
        if execution is None:
            return
        self._tell_text(execution)
        files: list[dict[str, Any]] = []
        after = self._tree.snapshot(_SNAPSHOT_LIMIT)
        if after is not None and execution.before is not None:
            changed = sorted(path for path, mark in after.items() if execution.before.get(path) != mark)
            files = [
                {"path": path, "size": after[path][0], "modified": after[path][1], "directory": False}
                for path in changed[:100]
            ]
        outcome |= {"truncated": execution.truncated, "state_lost": self._state_lost}
        self._tell({"ev": "done", "id": execution.id, **outcome}, _ending(error, files))
        self._execution = None
        self._state_lost = False

    def _kill_worker(self) -> None:
        self._killed = True
        self._worker.signal(signal.SIGKILL)

    def _on_child(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        for _ in range(_REAPED_AT_ONCE):  # code that makes processes without end must not keep us here
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker.pid:
                self._replace_worker(os.waitstatus_to_exitcode(status))
                break
        os.write(self._waker, b"\0")  # there may be more

    def _replace_worker(self, code: int) -> None:
        """The worker has ended: end all it left, say so, and start another."""
        oom_kills = _oom_kills()
        out_of_memory = not self._killed and oom_kills > self._oom_kills
        self._oom_kills = oom_kills
        _kill_all_others()
        with contextlib.suppress(OSError, FrameError):
            while data := self._worker.socket.recv(_CHUNK):
                for header, body in self._worker.decoder.feed(data):
                    self._drain()
                    if header.get("ev") == "output":
                        self._hear(header, body)
        self._drain()
        if not self._worker.ready:  # it could not even start, and a second one would fare no better
            for _, text in self._idle_text:
                os.write(2, text)
            os._exit(1)
        for descriptor in (self._worker.socket, *(pipe.descriptor for pipe in self._worker.pipes)):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        self._worker.close()
        killed, self._killed = self._killed, False
        execution = self._execution
        if execution is not None:
            crash = {"code": code, "killed": killed, "oom": out_of_memory}
            self._finish({"duration": time.perf_counter() - execution.began_at, "crash": crash}, None)
        elif self._worker.used:
            self._state_lost = True
        self._worker = self._start_worker()


def _output_header(header: dict[str, Any], identifier: int) -> dict[str, Any]:
    """What is passed on of an output's header: code may have written anything into it."""
    passed: dict[str, Any] = {"ev": "output", "id": identifier, "result": header.get("result") is True, "update": False}
    if isinstance(name := header.get("display_id"), str):
        passed |= {"display_id": name[:MAX_NAME], "update": header.get("update") is True}
    return passed


def _error_of(body: bytes) -> dict[str, str] | None:
    """The error that a worker reports with the end of its code.

    Raises:
        ValueError: the code has written it, and it is not one.
    """
    if len(body) > MAX_ENDING:
        raise ValueError("the error is too long")
    error: Any = json.loads(body)
    return None if error is None else {name: str(error[name])[:limit] for name, limit in ERROR_LIMITS.items()}


def _ending(error: dict[str, str] | None, files: list[dict[str, Any]]) -> bytes:
    return json.dumps({"error": error, "files": files}).encode()


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    pass


def _kill_all_others() -> None:
    """End every process in the sandbox but this one."""
    if os.getpid() != 1:  # not in a process namespace of our own: this is no sandbox
        return
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)


def _oom_kills() -> int:
    """How often the kernel has killed here for want of memory, as far as the sandbox can see its own limits."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            for line in file:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _prepare_home(owner: int | None) -> None:
    """Make the sandbox a place to work in: its directories, with the files that the image has prepared for them."""
    os.chdir(DATA_DIR)
    home = os.environ["HOME"]
    os.makedirs(home, exist_ok=True)
    if os.path.isdir(_CACHE):
        shutil.copytree(_CACHE, home, dirs_exist_ok=True, copy_function=shutil.copyfile)
    if owner is not None:
        for directory, _, names in os.walk(home):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                os.chown(path, owner, owner)


def main() -> NoReturn:
    """Be the supervisor on standard input and output."""
    settings: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as all that has no handler: process 1 is immune to the rest
    worker_uid = settings.get("worker_uid")
    confine(uid=settings.get("uid"), worker_uid=worker_uid)
    _prepare_home(worker_uid)
    # Anything printed here by mistake must not stand among the frames.
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        tree = FileTree(owner=worker_uid)
        Supervisor(stdin, stdout, tree, rlimits=settings.get("rlimits", {}), worker_uid=worker_uid).serve()
    except BrokenPipeError:
        pass
    finally:
        _kill_all_others()
    os._exit(0)
