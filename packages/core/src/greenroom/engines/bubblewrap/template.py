"""The host's side of a template: the process that sandboxes of one kind are forked from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from greenroom.engines.bubblewrap.sandbox import BubblewrapSandbox

_READ = 1 << 18
_FORK_TIMEOUT = 60.0
_MAX_ANSWER = 4096


class ForkFailed(Exception):
    """A sandbox could not be forked.

    Attributes:
        refused: whether the template said so; otherwise it has ended, or does not answer.
    """

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


class ForkedProcess:
    """Process 1 of a sandbox that was forked. It is a child of the template, so its exit code is not known here."""

    returncode: int | None = None

    def __init__(
        self, process: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader,
        transports: Sequence[asyncio.BaseTransport],
    ) -> None:
        """
        Args:
            process: a descriptor of the process.
            stdin: the streams of the process, seen from here.
            transports: theirs.
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
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

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
    """A template, which ends with this object's `close`; its sandboxes end with it.

    Args:
        sandbox: the template's own, of bubblewrap.
        control: takes the requests.
    """

    def __init__(self, sandbox: BubblewrapSandbox, control: socket.socket) -> None:
        self._sandbox = sandbox
        self._control = control
        self._processes: list[ForkedProcess] = []

    @property
    def in_use(self) -> bool:
        """Whether a sandbox of it has not ended."""
        self._processes = [process for process in self._processes if not process.ended]
        return bool(self._processes)

    @property
    def alive(self) -> bool:
        return self._sandbox.alive

    async def fork(self, settings: Mapping[str, Any], groups: Sequence[Path]) -> ForkedProcess:
        """Fork a sandbox.

        Args:
            settings: the runner's, and what isolates the sandbox.
            groups: the files by which it joins its control groups.

        Raises:
            ForkFailed: it cannot be forked; nothing of it is left.
            OSError: there are no descriptors left, or a group is gone.
        """
        with contextlib.ExitStack() as stack:

            def own(descriptor: int) -> int:
                stack.callback(os.close, descriptor)
                return descriptor

            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                ends = _Ends()
                stack.callback(ends.close)
                opened = [own(os.open(group, os.O_WRONLY | os.O_CLOEXEC)) for group in groups]
                try:
                    passed = [theirs.fileno(), *ends.theirs, *opened]
                    socket.send_fds(self._control, [json.dumps(settings).encode()], passed)
                except OSError as error:
                    raise ForkFailed(f"it takes no request ({error.strerror})", refused=False) from error
                finally:
                    ends.close_theirs()
                theirs.close()
                ours.setblocking(False)
                process = await _forked(ours)
            try:
                forked = await ends.connect(process)
                self._processes = [each for each in self._processes if not each.ended] + [forked]
                return forked
            except BaseException:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                os.close(process)
                raise

    async def diagnosis(self) -> str:
        """Return what it has printed before its end."""
        return await self._sandbox.diagnosis()

    async def close(self) -> None:
        """End it and its sandboxes. Idempotent, bounded in time."""
        self._control.close()
        await self._sandbox.kill()


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
        """Close what is open."""
        for descriptor in list(self._open):
            self._close(descriptor)

    async def connect(self, process: int) -> ForkedProcess:
        """Make streams of our ends."""
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
        """Give one of our ends away."""
        self._open.discard(descriptor := self._ours[number])
        return os.fdopen(descriptor, "rb" if number else "wb", buffering=0)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.discard(descriptor)
            os.close(descriptor)


async def _forked(answers: socket.socket) -> int:
    """Return a descriptor of the new process, once that is isolated.

    Raises:
        ForkFailed: it cannot be.
    """
    process: int | None = None
    isolated = False
    try:
        async with asyncio.timeout(_FORK_TIMEOUT):
            while process is None or not isolated:
                data, descriptors = await _receive(answers)
                match data[:1]:
                    case b"P":
                        process = descriptors[0]
                    case b"I":
                        isolated = True
                    case b"E":
                        raise ForkFailed(data[1:].decode(errors="replace"), refused=True)
                    case _:
                        raise ForkFailed("it has ended", refused=False)
    except BaseException as error:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
        if isinstance(error, TimeoutError):
            raise ForkFailed(f"it has not answered for {_FORK_TIMEOUT:g} seconds", refused=False) from error
        raise
    return process


async def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, _MAX_ANSWER, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(connection, lambda: readable.done() or readable.set_result(None))
            try:
                await readable
            finally:
                loop.remove_reader(connection)
        else:
            return data, descriptors


def _pid_of(process: int) -> int:
    """Return a process's number among those of this process; 0 if it has ended."""
    for line in Path(f"/proc/self/fdinfo/{process}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return max(0, int(value))
    return 0
