"""A template: a process that has imported what Python sandboxes need, and forks each as a new sandbox.

It never runs a user's code and holds no secrets. For each sandbox, the host sends it a request with descriptors: where
to answer, the sandbox's standard streams, and the files through which it joins its control groups. The answers are `P`
with a descriptor of the new process, and then `I` once the process is isolated; or, with a reason, `E` if that failed,
`B` if processes, descriptors or memory were scarce, and `N` if it would always fail. The template sends `R` once it has
imported everything.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import warnings
from functools import partial
from typing import Any, NoReturn

from . import isolation, seccomp
from .confine import confine, drop_capabilities
from .files import DATA_DIR
from .lookups import Lookups
from .open_files import OpenFile, close_all_except, left_open, open_by_path
from .spawn import Origin, python_environment
from .supervisor import prepare_home, supervise
from .workers.link import Nowhere
from .workers.python import Worker, prepare
from .workers.python import main as serve
from .workers.randomness import renew

_MAX_REQUEST = 1 << 16
_MAX_DESCRIPTORS = 16
_SNAPSHOT_LIMIT = 8 << 20  # bytes of files below the home directory

_ALIGNMENT, _LARGEST_SMALL = 16, 512  # sizes of objects, in bytes, for which Python's own allocator has pages
_FILLED = 64 << 10  # bytes of objects of each size; more has no further effect

_BUSY = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS)
_DELETED = " (deleted)"


class _Unsound(Exception):
    """Something in the fork would undo its isolation, and that of every other fork."""


class Template:
    """The event loop. `serve` returns when the host is gone."""

    def __init__(self, control: int, settings: dict[str, Any]) -> None:
        """
        Args:
            control: a socket to the host, on which each message is a request.
            settings: common to all of its sandboxes: `network`, `disk`, `shared_memory`, `preload` (modules to import),
                and `variables` (the names of those that a new sandbox sets before it imports these).
        """
        self._control = socket.socket(fileno=control)
        self._settings = settings
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._variables = python_environment()
        self._kept = isolation.shown_in_writable()
        self._refusal: str | None = None
        self._files: list[OpenFile] = []
        self._sandboxes: set[int] = set()
        self._fillers: list[bytes] = []
        os.environ.update(self._variables)
        prepare_home(None)
        self._worker = prepare()
        self._home = _files_of_home()
        self._lookups = Lookups()

    def serve(self) -> None:
        """Fork a sandbox for each request until the host is gone."""
        for module in self._settings["preload"]:
            if not self._serve_one(wait=False):
                return
            self._worker.preload([module])
        if not self._serve_one(wait=False):
            return
        self._prepare()
        self._control.send(b"R")
        while self._serve_one():
            pass

    def _prepare(self) -> None:
        """Once all modules are imported, do the work that sandboxes then need not do."""
        _warm_up(self._worker)
        self._lookups.end()
        self._home = _files_of_home()
        gc.collect()  # objects that nothing uses can keep files open
        self._review()
        self._fillers = _fill_gaps()
        gc.freeze()  # collections in a sandbox must not touch, and so copy, shared pages

    def _review(self) -> None:
        """Decide whether to fork, after modules have been imported: they could have changed what forks rely on."""
        _forget_ended_children()
        self._refusal = self._refusal or self._obstacle()

    def _obstacle(self) -> str | None:
        """Return why forks of this process would be unsound; `None` if they are sound."""
        if names := self._lookups.among(self._settings["variables"]):
            return f"the preloaded modules read variables that env sets: {', '.join(names)}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if (pid := os.fork()) == 0:  # before a fork, libraries end threads that they can restart
                os._exit(0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        if (threads := len(os.listdir("/proc/self/task"))) > 1:
            return f"the preloaded modules have left {threads - 1} threads running"
        self._files, others = left_open({0, 1, 2, self._control.fileno(), self._own})
        if others:
            return f"the preloaded modules have left files open: {', '.join(others)}"
        if shared := _shared_memory():
            return f"the preloaded modules have memory that forks would share: {', '.join(shared)}"
        if started := _children() - self._sandboxes:
            return f"the preloaded modules have left {len(started)} processes running"
        return None

    def _serve_one(self, *, wait: bool = True) -> bool:
        """Answer one request; return whether the host is still there.

        Without `wait`, only if there is one already: its caller prefers a sandbox now to one with all modules.
        """
        if not wait:
            if not select.select([self._control], [], [], 0)[0]:
                return True
            self._review()
        data, descriptors, flags, _ = socket.recv_fds(self._control, _MAX_REQUEST, _MAX_DESCRIPTORS)
        if not data:
            return False
        if flags & socket.MSG_CTRUNC:  # too many open files: the host notices that the answers end
            for descriptor in descriptors:
                os.close(descriptor)
            return True
        answer = descriptors[0]
        try:
            if self._refusal is not None:
                _send(answer, f"N{self._refusal}".encode())
                return True
            if _has_gone(answer):
                return True
            pid = isolation.fork(self._own)
            if pid == 0:
                self._become(json.loads(data), descriptors)
            self._sandboxes = {*filter(_is_there, self._sandboxes), pid}
            process = os.pidfd_open(pid)
            try:
                _send(answer, b"P", process)
            finally:
                os.close(process)
        except OSError as error:
            _send(answer, _failure(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _become(self, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """Act as the supervisor of a new sandbox. As in a worker, this must never return."""
        answer = descriptors[0]
        try:
            self._lookups.end()
            _check_alone()  # modules can act in every fork
            isolation.join(descriptors[4:])
            for number, descriptor in enumerate(descriptors[1:4]):
                os.dup2(descriptor, number)
            close_all_except({0, 1, 2, answer, *(file.descriptor for file in self._files)})
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            user: int | None = request.get("uid")
            isolation.enter(
                network=self._settings["network"],
                disk=self._settings["disk"],
                shared_memory=self._settings["shared_memory"],
                user=user,
                events=request["events"],
                kept=self._kept,
            )
            _check_alone()  # another thread or process would keep its privileges
            if user is None:
                drop_capabilities()
            confine(uid=user, worker_uid=None, allow_unfiltered=request.get("allow_unfiltered", False))
            _open_by_path(self._files)
            for name in self._variables:
                del os.environ[name]
            _write_home(self._home)
            _send(answer, b"I")
            os.close(answer)
            supervise(request, Origin(partial(_serve, self._worker), self._files))
        except BaseException as error:  # noqa: BLE001  the host reports it
            with contextlib.suppress(OSError):
                _send(answer, _failure(error))
        finally:
            os._exit(1)


def _serve(worker: Worker, orders: int, acks: int) -> NoReturn:
    renew()
    serve(orders, acks, lambda: worker)


def _warm_up(worker: Worker) -> None:
    """Do what the first code of a session would otherwise do for the first time."""
    renew()  # OpenSSL's first time takes milliseconds
    seccomp.program()
    worker.attach(Nowhere())
    worker.rehearse()
    worker.detach()


def _fill_gaps() -> list[bytes]:
    """Return objects that fill the gaps between others of the same sizes.

    New objects in a fork then lie together in new pages, instead of each gap causing a copy of a shared page.
    """
    overhead = sys.getsizeof(b"")
    sizes = range(-overhead % _ALIGNMENT, _LARGEST_SMALL - overhead + 1, _ALIGNMENT)
    return [bytes(size) for size in sizes for _ in range(_FILLED // (size + overhead))]


def _files_of_home() -> list[tuple[str, bytes | None]]:
    """Return the directories below the home directory, and the files with their contents, by their paths."""
    found: list[tuple[str, bytes | None]] = []
    left = _SNAPSHOT_LIMIT
    for directory, _, names in os.walk(os.environ["HOME"]):
        found.append((directory, None))
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.path.getsize(path) <= left:
                with open(path, "rb") as file:
                    found.append((path, content := file.read()))
                left -= len(content)
    return found


def _write_home(files: list[tuple[str, bytes | None]]) -> None:
    os.chdir(DATA_DIR)
    for path, content in files:
        if content is None:
            os.makedirs(path, exist_ok=True)
        else:
            with open(path, "wb") as file:
                file.write(content)


def _open_by_path(files: list[OpenFile]) -> None:
    for file in files:
        try:
            open_by_path(file)
        except OSError as error:
            if error.errno in _BUSY:
                raise
            raise _Unsound(f"the preloaded modules have left files open: {file.path} ({error.strerror})") from error


def _send(answer: int, data: bytes, *descriptors: int) -> None:
    with socket.socket(fileno=os.dup(answer)) as connection, contextlib.suppress(BrokenPipeError, ConnectionError):
        socket.send_fds(connection, [data], descriptors)


def _has_gone(answer: int) -> bool:
    """Whether the host no longer waits for an answer."""
    waiting = select.poll()
    waiting.register(answer, 0)
    return bool(waiting.poll(0))


def _failure(error: BaseException) -> bytes:
    """Return the answer that reports an error."""
    if isinstance(error, _Unsound):
        return f"N{error}".encode()
    if isinstance(error, OSError):
        return f"{'B' if error.errno in _BUSY else 'E'}{error.strerror or error}".encode()
    return f"E{type(error).__name__}: {error}".encode()


def _check_alone() -> None:
    """Check that this process has a single thread and no children.

    Raises:
        _Unsound: it has more.
    """
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise _Unsound(f"the preloaded modules start {threads - 1} threads in each fork")
    if started := _children():
        raise _Unsound(f"the preloaded modules start {len(started)} processes in each fork")


def _children() -> set[int]:
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
            found.update(map(int, file.read().split()))
    return found


def _forget_ended_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them from now on
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _is_there(process: int) -> bool:
    return os.path.exists(f"/proc/{process}")


def _shared_memory() -> list[str]:
    """Return mappings through which writes in one process can be seen in others, now or once made writable."""
    found: list[str] = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, permissions, _, _, _, *rest = line.rstrip("\n").split(maxsplit=5)
            place = rest[0] if rest else ""
            if "s" in permissions and ("w" in permissions or not _is_read_only(place)):
                found.append(place.removesuffix(_DELETED) or "unnamed")
    return found


def _is_read_only(place: str) -> bool:
    """Whether this is a file that this process cannot write to, even as root."""
    return os.path.isfile(place) and not os.access(place, os.W_OK)


def main() -> NoReturn:
    """Act as a template. The last argument is JSON: the settings, and the number of the `control` socket."""
    settings: dict[str, Any] = json.loads(sys.argv.pop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _forget_ended_children()
    os.set_inheritable(settings["control"], False)
    os.dup2(2, 1)  # output of modules during their import
    Template(settings["control"], settings).serve()
    os._exit(0)
