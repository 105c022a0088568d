"""The host side of a template: the process from which sandboxes of one kind are forked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from greenroom.engines.bubblewrap.sandbox import BubblewrapSandbox

_READ = 1 << 18
_TIMEOUT = 30.0
_PREPARING_TIMEOUT = 10.0  # while it imports modules; beyond that, starting a new sandbox is faster
_BUSY_TIMEOUT = 5.0  # while too many requests are waiting
_BUSY_INTERVAL = 0.02
_BUSY = (errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS)
_MAX_ANSWER = 4096


class ForkFailed(Exception):
    """A sandbox could not be forked.

    Attributes:
        permanent: whether every further fork of the template would fail, too.
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


class NotNow(ForkFailed):
    """The template is still importing modules, or a resource is scarce: starting a new sandbox is faster."""


class TemplateLost(Exception):
    """The template has ended, or does not respond."""


class ForkedProcess:
    """Process 1 of a forked sandbox. It is a child of the template, so its exit code is not known here."""

    returncode: int | None = None

    def __init__(
        self,
        process: int,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader,
        transports: Sequence[asyncio.BaseTransport],
    ) -> None:
        """
        Args:
            process: a descriptor of the process.
            stdin: this process's ends of the standard streams.
            transports: the transports of these streams.
        """
        self.pid = _pid_of(process)
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._process = process
        self._transports = transports
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(process, self._on_end)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        if not self._ended.is_set():
            _kill(self._process)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        if self._process >= 0:
            self._loop.remove_reader(self._process)
            os.close(self._process)
            self._process = -1

    def _on_end(self) -> None:
        self._loop.remove_reader(self._process)
        self._ended.set()


class Template:
    """A template. Its sandboxes end when it ends.

    Args:
        sandbox: the template's own sandbox, started by bubblewrap.
        control: the socket for requests to it.
    """

    def __init__(self, sandbox: BubblewrapSandbox, control: socket.socket) -> None:
        self._sandbox = sandbox
        self._control = control
        self._processes: list[ForkedProcess] = []
        self._prepared = False
        self._slow = False  # a request timed out while the template was being prepared
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control, self._on_message)

    @property
    def in_use(self) -> bool:
        """Whether one of its sandboxes is still running."""
        return not all(process.ended for process in self._processes)

    async def fork(self, settings: Mapping[str, Any], groups: Sequence[Path]) -> ForkedProcess:
        """Fork a sandbox.

        Args:
            settings: for the runner, and for isolating the sandbox.
            groups: the files through which the sandbox joins its control groups.

        Raises:
            ForkFailed: the sandbox cannot be forked; nothing is left behind.
            TemplateLost: the template cannot fork any more.
            OSError: no descriptors are left, or a control group is gone.
        """
        if self._slow and not self._prepared:
            raise NotNow("its modules are still being imported")
        ends = _Ends()
        try:
            process = await self._request(settings, groups, ends)
            try:
                forked = await ends.connect(process)
            except BaseException:
                _discard(process)
                raise
        finally:
            ends.close()
        self._processes = [each for each in self._processes if not each.ended] + [forked]
        return forked

    async def close(self) -> None:
        """End it and its sandboxes. Idempotent, bounded in time."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()
        await self._sandbox.kill()

    async def _request(self, settings: Mapping[str, Any], groups: Sequence[Path], ends: _Ends) -> int:
        """Have a sandbox forked; return a descriptor of its first process, once it is isolated."""
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answers, contextlib.ExitStack() as stack:
            with theirs:
                opened: list[int] = []
                for group in groups:
                    opened.append(os.open(group, os.O_WRONLY | os.O_CLOEXEC))
                    stack.callback(os.close, opened[-1])
                answers.setblocking(False)
                passed = [theirs.fileno(), *ends.theirs, *opened]
                await self._send(json.dumps(settings).encode(), passed)
                ends.close_theirs()
            try:
                async with asyncio.timeout(_TIMEOUT if self._prepared else _PREPARING_TIMEOUT):
                    return await _forked(answers)
            except TimeoutError as error:
                if self._prepared:
                    raise TemplateLost(f"it has not responded for {_TIMEOUT:g} seconds") from error
                self._slow = True
                raise NotNow("its modules are still being imported") from error
            except EOFError as error:
                if self._ended:
                    raise await self._lost("it has ended") from error
                raise ForkFailed("its process has ended") from error

    async def _send(self, request: bytes, descriptors: Sequence[int]) -> None:
        give_up = self._loop.time() + _BUSY_TIMEOUT
        while True:
            try:
                socket.send_fds(self._control, [request], descriptors)
            except (BrokenPipeError, ConnectionError) as error:
                raise await self._lost("it has ended") from error
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno not in _BUSY:
                    raise ForkFailed(reason) from error
                if self._loop.time() >= give_up:
                    raise NotNow(reason) from error
            else:
                return
            await asyncio.sleep(_BUSY_INTERVAL)  # several callers can wait, and the event loop wakes only one of them

    async def _lost(self, reason: object) -> TemplateLost:
        await self._sandbox.kill()
        return TemplateLost(await self._sandbox.diagnosis() or reason)

    @property
    def _ended(self) -> bool:
        try:
            return not self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _on_message(self) -> None:
        try:
            message = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            self._prepared = True
        else:
            self._loop.remove_reader(self._control)


class _Ends:
    """The pipes of a sandbox's standard streams."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self.theirs: list[int] = []
        self._ours: list[int] = []
        try:
            for writes in (True, False, False):
                read, write = os.pipe2(os.O_CLOEXEC)
                self._open |= {read, write}
                self._ours.append(write if writes else read)
                self.theirs.append(read if writes else write)
        except OSError:
            self.close()
            raise

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            self._close(descriptor)

    def close(self) -> None:
        """Close what is still open."""
        for descriptor in list(self._open):
            self._close(descriptor)

    async def connect(self, process: int) -> ForkedProcess:
        """Turn our ends into streams."""
        loop = asyncio.get_running_loop()
        transports: list[asyncio.BaseTransport] = []
        try:
            stdin, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, self._file(0))
            transports.append(stdin)
            readers: list[asyncio.StreamReader] = []
            for number in (1, 2):
                readers.append(reader := asyncio.StreamReader(limit=_READ, loop=loop))
                output, _ = await loop.connect_read_pipe(
                    lambda reader=reader: asyncio.StreamReaderProtocol(reader, loop=loop), self._file(number)
                )
                transports.append(output)
            writer = asyncio.StreamWriter(stdin, protocol, None, loop)
            return ForkedProcess(process, writer, readers[0], readers[1], transports)
        except BaseException:
            for transport in transports:
                transport.close()
            raise

    def _file(self, number: int) -> Any:
        """Give away one of our ends."""
        self._open.discard(descriptor := self._ours[number])
        return os.fdopen(descriptor, "rb" if number else "wb", buffering=0)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.discard(descriptor)
            os.close(descriptor)


async def _forked(answers: socket.socket) -> int:
    """Return a descriptor of the new process, once it is isolated.

    Raises:
        ForkFailed: the process could not be forked or isolated.
        EOFError: the process or the template has ended.
    """
    process: int | None = None
    isolated = False
    try:
        while process is None or not isolated:
            data, descriptors = await _receive(answers)
            match data[:1]:
                case b"P":
                    if not descriptors:  # the process ends when its streams close
                        raise NotNow("this process has too many open files")
                    process = descriptors[0]
                case b"I":
                    isolated = True
                case b"B":
                    raise NotNow(data[1:].decode(errors="replace"))
                case b"E" | b"N":
                    raise ForkFailed(data[1:].decode(errors="replace"), permanent=data[:1] == b"N")
                case _:
                    raise EOFError
    except BaseException:
        if process is not None:
            _discard(process)
        raise
    return process


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)


def _discard(process: int) -> None:
    """Kill a process, and close its descriptor."""
    _kill(process)
    os.close(process)


async def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, _MAX_ANSWER, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
        else:
            return data, descriptors


def _pid_of(process: int) -> int:
    """Return the ID of a process in this process's namespace; 0 if it has ended."""
    for line in Path(f"/proc/self/fdinfo/{process}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return max(0, int(value))
    return 0
