"""Copy a session into others: one sandbox writes it, the others read it, and the host passes on bytes without reading.

The session's own code can produce any bytes; they can spoil its copies, which belong to the same user, and nothing
else. Their number and the time are limited, and only one piece at a time is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, cast

from greenroom.errors import ForkFailed, SandboxLost, in_units
from greenroom.local.channel import Channel
from greenroom.local.collecting import ExecutionLimits
from greenroom.models import Event, Execution, NotCarried, Output
from greenroom.runner.protocol import MAX_LEFT_OUT
from greenroom.untrusted import brief, one_line

_REPORT = 16 << 20
"""Bytes of memory that a sandbox's reports about a copy can take."""
_MARGIN = 16 << 20
"""Bytes that can arrive beyond the reported size: files grow."""
_AT_ONCE = 16
"""New sessions that are given a piece at the same time."""
_MOST_FAILED = 50
"""How many names can be left out, one attempt after another, before the copy fails."""
_SILENCE = 30.0
"""Seconds without a reply, after the time limit and the grace period, until a runner is considered dead."""
_LARGEST = 1 << 62
_LONGEST_NAME = 200
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """The limits of a copy."""

    seconds: float
    """From when the sandboxes of the new sessions have started; for all attempts together."""
    grace: float
    """Seconds from an interrupt to the kill."""
    size: int
    """Bytes."""


async def copy(
    parent: Channel, lease: Callable[[], Awaitable[Sequence[Channel]]], limits: CopyLimits
) -> tuple[NotCarried, ...]:
    """Copy a session into others.

    Args:
        parent: the channel of the session.
        lease: called once, when it is the copy's turn in the session; returns the channels of the new sessions.
        limits: of the copy.

    Returns:
        What was left out.

    Raises:
        ForkFailed: the new sessions cannot be used.
        SandboxLost: the session is lost.
    """
    timing = _Timing(limits)
    failed: dict[str, str] = {}
    children: list[Channel] = []

    async def prepare() -> None:
        if not children:
            children.extend(await lease())
            timing.begin()

    while True:
        attempt = _Attempt(parent, children, limits, timing)
        found = await attempt.run(list(failed), prepare)
        if found is None:
            break
        name, reason = found
        if name in failed:
            raise ForkFailed(
                f"The session could not be copied: {one_line(name)} could not be left out ({one_line(reason)})."
            )
        if len(failed) == _MOST_FAILED:
            raise ForkFailed(
                f"The session could not be copied: more than {_MOST_FAILED} of its variables could not be read, "
                f"{one_line(name)} among them ({one_line(reason)})."
            )
        if timing.is_over:
            raise _too_late(limits, name)
        failed[name] = reason
    left_out = (*(NotCarried(name, reason) for name, reason in failed.items()), *attempt.left_out)[:MAX_LEFT_OUT]
    for child in children:
        child.not_carried, child.state_was_lost = left_out, parent.state_was_lost
    return left_out


class _Timing:
    """The total time of all attempts of a copy."""

    def __init__(self, limits: CopyLimits) -> None:
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self.begin()

    def begin(self) -> None:
        self._ends = self._clock() + self._limits.seconds

    @property
    def is_over(self) -> bool:
        return self._clock() >= self._ends

    @property
    def execution(self) -> ExecutionLimits:
        """The limits of code that runs in a sandbox from now on."""
        seconds = max(self._ends - self._clock(), 0.001)
        return ExecutionLimits(timeout=seconds, grace=self._limits.grace, text=0, display=_REPORT)

    @property
    def reply(self) -> float:
        """Seconds in which a runner replies about a piece: until the piece is needed, or the code is stopped."""
        return max(self._ends - self._clock(), 0) + self._limits.grace + _SILENCE


class _Attempt:
    """Writes and reads once. What cannot be read is found out by reading; the next attempt leaves it out."""

    def __init__(self, parent: Channel, children: list[Channel], limits: CopyLimits, timing: _Timing) -> None:
        self._parent = parent
        self._children = children
        self._limits = limits
        self._timing = timing
        self._report: dict[str, Any] = {}
        self._failed: tuple[str, str] | None = None
        self._begun = asyncio.Event()
        self._giving = asyncio.Semaphore(_AT_ONCE)

    @property
    def left_out(self) -> tuple[NotCarried, ...]:
        """What the parent has left out."""
        pairs: object = self._report.get("left_out")
        if not isinstance(pairs, list):
            return ()
        found = (_pair(pair) for pair in cast("list[object]", pairs)[:MAX_LEFT_OUT])
        return tuple(NotCarried(*pair) for pair in found if pair is not None)

    async def run(self, without: Sequence[str], prepare: Callable[[], Awaitable[None]]) -> tuple[str, str] | None:
        """Copy once; return what could not be copied, and why, if that made the copy unusable."""
        options: dict[str, Any] = {"prepare": prepare, "begun": self._begun.set}
        limits = self._timing.execution
        saving = asyncio.create_task(self._parent.save(limits, self._take_report, without, **options))
        passing = asyncio.create_task(self._pass_on(saving))
        try:
            done, _ = await asyncio.wait([saving, passing], return_when=asyncio.FIRST_EXCEPTION)
            for task in (passing, saving):
                if task in done and not task.cancelled():
                    task.result()
        finally:
            for task in (passing, saving):
                task.cancel()
            await asyncio.wait([passing, saving])
        loaded = passing.result()
        if self._failed is not None:
            return self._failed
        if not saving.cancelled():  # because a child ended early
            _check(saving.result(), self._limits, self._report)
            if (failed := _pair(self._report.get("failed"))) is not None:
                return failed
        for execution in loaded:
            _check(execution, self._limits, {})
        return None

    def _take_report(self, event: Event) -> None:
        if (report := _report_in(event)) is not None:
            self._report = report

    def _take_child_report(self, event: Event) -> None:
        if (report := _report_in(event)) is not None:
            self._failed = self._failed or _pair(report.get("failed"))

    async def _pass_on(self, saving: asyncio.Task[Execution]) -> list[Execution]:
        """Pass on what the parent writes, until it has ended or a child cannot read it."""
        begun = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait([begun, saving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        if not self._begun.is_set():
            return []  # its own exception says why
        piece = await self._parent.take(self._timing.reply)
        size = self._report.get("size")
        if isinstance(size, int) and size > self._limits.size:
            raise _too_large(self._limits.size, in_units(min(size, _LARGEST)))
        if not piece:
            return []
        loading = [asyncio.create_task(self._load(child)) for child in self._children]
        try:
            total = 0
            while piece and not any(task.done() for task in loading):
                total += len(piece)
                if total > self._limits.size + _MARGIN:
                    raise _too_large(self._limits.size, f"{in_units(total)} or more")
                giving = [self._give(child, piece) for child in self._children]
                taken: list[bytes] = []
                await _together(self._take(taken), *giving)
                (piece,) = taken
            await _together(*(self._give(child, b"") for child in self._children))
            if piece:  # a child ended early: the rest is not needed
                saving.cancel()
            return await asyncio.gather(*loading)
        except SandboxLost as error:
            if self._parent.lost:
                raise
            raise ForkFailed(f"The session could not be copied: {error}") from error
        finally:
            for task in loading:
                task.cancel()
            await asyncio.wait(loading)

    async def _take(self, taken: list[bytes]) -> None:
        taken.append(await self._parent.take(self._timing.reply))

    async def _give(self, child: Channel, piece: bytes) -> None:
        async with self._giving:  # each has a copy of the piece meanwhile
            await child.give(piece, self._timing.reply)

    async def _load(self, child: Channel) -> Execution:
        return await child.load(self._timing.execution, self._take_child_report, lambda: None)


async def _together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Wait for all; if one fails, cancel the others."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _check(execution: Execution, limits: CopyLimits, report: dict[str, Any]) -> None:
    """Check that an execution of a copy succeeded.

    Raises:
        ForkFailed: it did not.
    """
    if execution.status == "succeeded":
        return
    error = execution.error
    if execution.status == "timed_out" or error is None:
        raise _too_late(limits, report.get("at"))
    name = one_line(error.name[:_LONGEST_NAME])
    raise ForkFailed(f"The session could not be copied: {name}: {brief(error.value)}")


def _too_late(limits: CopyLimits, at: object) -> ForkFailed:
    where = f" It was copying {one_line(at[:_LONGEST_NAME])} at that time." if isinstance(at, str) else ""
    return ForkFailed(f"The session could not be copied within {limits.seconds:g} seconds.{where}")


def _too_large(limit: int, size: str) -> ForkFailed:
    return ForkFailed(f"To be copied, the session's variables and files must be at most {in_units(limit)}, not {size}.")


def _report_in(event: Event) -> dict[str, Any] | None:
    """Return a worker's report about a copy, if this event contains one."""
    if not isinstance(event, Output) or not event.is_result:
        return None
    report: object = event.data.get("application/json")
    return cast("dict[str, Any]", report) if isinstance(report, dict) else None


def _pair(value: object) -> tuple[str, str] | None:
    """Return a name and a reason, as a sandbox reports them; `None` if the value is something else."""
    if not isinstance(value, list) or len(cast("list[object]", value)) != 2:
        return None
    name, reason = cast("list[object]", value)
    if not isinstance(name, str) or not isinstance(reason, str):
        return None
    return name[:_LONGEST_NAME], reason[:_LONGEST_REASON]
