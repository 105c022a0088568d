"""One sandbox, started by bubblewrap or forked from a template: its streams, usage and end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from greenroom.engines import measuring
from greenroom.engines.base import Resources, StreamSandbox
from greenroom.engines.bubblewrap import cgroups
from greenroom.engines.watchdog import Watchdog
from greenroom.errors import InvalidRequest

_READ = 1 << 18
_STDERR_KEPT = 8192
_KILL_TIMEOUT = 5.0


class SandboxProcess(Protocol):
    """The process whose end is the sandbox's."""

    pid: int
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    @property
    def returncode(self) -> int | None:
        """Its exit code, if it has ended and the code is known."""
        ...

    async def wait(self) -> Any:
        """Wait until it has ended."""
        ...

    def end(self) -> None:
        """Kill it, and with it the whole sandbox."""
        ...

    def close(self) -> None:
        """Free its descriptors, after its end."""
        ...


class StartedProcess:
    """A bubblewrap process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101  pipes by construction
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._process = process
        self.pid = process.pid
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    def end(self) -> None:
        # All others end with the first process inside; once it has changed its user, bubblewrap itself can no
        # longer kill it.
        for pid in [*self._children(), self.pid]:
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        # Close the pipes that were not read to their end, for example after a flood: asyncio keeps them open.
        process: Any = self._process
        process._transport.close()  # noqa: SLF001

    def _children(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(child) for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []


class BubblewrapSandbox(StreamSandbox):
    """The first process of a sandbox, or the bubblewrap that started it, and the processes below it."""

    def __init__(
        self,
        process: SandboxProcess,
        group: cgroups.Group | None,
        watchdog: Watchdog | None = None,
        reclaiming_turn: asyncio.Semaphore | None = None,
    ) -> None:
        """
        Args:
            process: the first process, or the bubblewrap that started it.
            group: of all processes.
            watchdog: without one, the sandbox cannot be frozen.
            reclaiming_turn: limits how many sandboxes move pages to swap at the same time, because each takes a thread.
        """
        self.id = f"bubblewrap-{process.pid}"
        self._watchdog = watchdog
        self._reclaiming_turn = reclaiming_turn or asyncio.Semaphore(1)
        self._reclaiming: asyncio.Task[None] | None = None
        self._process = process
        self._group = group
        self._errors = bytearray()
        self._error_reader = asyncio.create_task(self._read_errors())
        self._end: asyncio.Task[None] | None = None
        self._resources: Resources | None = None
        self._gauge: measuring.Gauge | None = None

    async def send(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def receive(self) -> bytes:
        return await self._process.stdout.read(_READ)

    async def kill(self) -> None:
        if self._end is None:
            self._end = asyncio.create_task(self._kill())
        await asyncio.shield(self._end)

    async def resources(self) -> Resources | None:
        if self._end is None:
            self._measure()
        return self._resources

    def gauge(self) -> measuring.Gauge | None:
        if self._gauge is None and self._group is not None and self._end is None:
            self._gauge = measuring.Gauge(self._group.directories)
        return self._gauge

    def _measure(self) -> None:
        """Read what it has used; this only reads small kernel files, so it takes microseconds."""
        found = measuring.of_processes(self._process.pid) if self._group is None else self._group.resources()
        if found is not None and self._gauge is not None:
            found = replace(found, peak=max(found.peak or 0, self._gauge.highest))
        self._resources = found or self._resources

    async def limit_memory(self, memory: int) -> None:
        if self._group is None:
            await super().limit_memory(memory)
            return
        try:
            self._group.limit_memory(memory)
        except OSError as error:
            raise InvalidRequest(
                f"The session's memory limit cannot be set to {memory} bytes: {error.strerror}."
            ) from error

    async def take_full_share(self) -> None:
        if self._group is not None:
            self._group.take_full_share()

    async def freeze(self) -> bool:
        if self._group is None or self._watchdog is None or not await self._watchdog.is_on():
            return False
        if self._end is not None or not self._group.freeze():
            return False
        if self._group.allow_swap():
            self._reclaiming = asyncio.create_task(self._reclaim(self._group))
        return True

    async def thaw(self) -> None:
        if self._reclaiming is not None:
            self._reclaiming.cancel()  # a piece that is being moved can be interrupted safely
        if self._group is not None:
            self._group.thaw()

    async def _reclaim(self, group: cgroups.Group) -> None:
        more = True
        while more:
            async with self._reclaiming_turn:
                more = await asyncio.to_thread(group.reclaim)

    async def diagnosis(self) -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._error_reader), 1)
        text = self._errors.decode("utf-8", "replace").strip()
        code = self._process.returncode
        return text or (f"it exited with code {code}" if code is not None else "")

    async def _kill(self) -> None:
        if self._reclaiming is not None:
            self._reclaiming.cancel()
        if self._group is not None:
            await asyncio.to_thread(self._group.kill)
        else:
            self._measure()
        self._process.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _KILL_TIMEOUT)
        self._error_reader.cancel()
        await asyncio.wait([self._error_reader])
        self._process.close()
        if self._group is not None:
            self._measure()  # the total is complete only once all of them have ended
            if self._gauge is not None:
                self._gauge.close()
            await asyncio.to_thread(self._group.remove)

    async def _read_errors(self) -> None:
        while data := await self._process.stderr.read(4096):
            self._errors += data
            del self._errors[:-_STDERR_KEPT]


async def abandon(start: asyncio.Task[SandboxProcess], group: cgroups.Group | None) -> None:
    """Clean up a start whose caller was cancelled: the process may still be created."""
    try:
        process = await start
    except BaseException:  # noqa: BLE001  the caller has received it or was cancelled
        if group is not None:
            await asyncio.to_thread(group.remove)
    else:
        await BubblewrapSandbox(process, group).kill()
