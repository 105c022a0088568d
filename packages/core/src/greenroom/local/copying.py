"""Copy a session into others: one sandbox writes it, the others read it, and the host passes on bytes it never reads.

The bytes can be anything that the session's own code could make them; they can spoil its copies, which belong to the
same user, and nothing else. Their number and the time are limited, and one piece at a time is in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from greenroom.errors import ForkFailed, SandboxLost, in_units
from greenroom.local.channel import Channel
from greenroom.local.collecting import ExecutionLimits
from greenroom.models import Event, Execution, NotCarried, Output
from greenroom.runner.protocol import MAX_LEFT_OUT
from greenroom.untrusted import brief, one_line

_REPORT = 16 << 20
"""Bytes of memory that the reports of a sandbox about a copy can take."""
_MARGIN = 16 << 20
"""Bytes that can come beyond the size that was reported: files grow."""
_AT_ONCE = 16
"""New sessions that are given a piece at the same time."""
_LONGEST_NAME = 200
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """The limits of a copy."""

    seconds: float
    grace: float
    """Seconds from an interrupt to the kill."""
    size: int
    """Bytes."""


async def copy(
    parent: Channel, lease: Callable[[], Awaitable[Sequence[Channel]]], limits: CopyLimits
) -> tuple[NotCarried, ...]:
    """Copy a session into others.

    Args:
        parent: has the session.
        lease: called once, when it is the copy's turn in the session; gives the channels of the new ones.
        limits: of the copy.

    Returns:
        What was left out.

    Raises:
        ForkFailed: the others cannot be used.
        SandboxLost: the session is lost.
    """
    ends = time.monotonic() + limits.seconds
    failed: dict[str, str] = {}
    children: list[Channel] = []

    async def prepare() -> None:
        nonlocal ends
        if not children:
            children.extend(await lease())
            ends = time.monotonic() + limits.seconds

    while True:
        attempt = _Attempt(parent, children, limits, max(ends - time.monotonic(), 0.001))
        found = await attempt.run(list(failed), prepare)
        if found is None:
            break
        name, reason = found
        if name in failed:
            raise ForkFailed(f"The session could not be copied: {one_line(name)} could not be left out ({reason}).")
        failed[name] = reason
    left_out = tuple(NotCarried(name, reason) for name, reason in failed.items()) + attempt.left_out
    for child in children:
        child.not_carried = left_out
    return left_out


class _Attempt:
    """Writes and reads once. What cannot be read is found by reading; the next attempt does without it."""

    def __init__(self, parent: Channel, children: list[Channel], limits: CopyLimits, seconds: float) -> None:
        self._parent = parent
        self._children = children
        self._limits = limits
        self._report: dict[str, Any] = {}
        self._failed: tuple[str, str] | None = None
        self._execution = ExecutionLimits(timeout=seconds, grace=limits.grace, text=0, display=_REPORT)
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
        """Copy once; return what could not be copied, and why, if the copy is of no use for that."""
        options: dict[str, Any] = {"prepare": prepare, "begun": self._begun.set}
        saving = asyncio.create_task(self._parent.save(self._execution, self._take_report, without, **options))
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
        if not saving.cancelled():  # because a child has ended early
            _check(saving.result(), self._limits, self._report)
            if (failed := _pair(self._report.get("failed"))) is not None:
                return failed
        for execution in loaded:
            _check(execution, self._limits, {})
        return None

    def _take_report(self, event: Event) -> None:
        if isinstance(event, Output) and event.is_result and isinstance(event.data.get("application/json"), dict):
            self._report = cast("dict[str, Any]", event.data["application/json"])

    def _take_child_report(self, event: Event) -> None:
        if isinstance(event, Output) and event.is_result and isinstance(event.data.get("application/json"), dict):
            self._failed = self._failed or _pair(event.data["application/json"].get("failed"))

    async def _pass_on(self, saving: asyncio.Task[Execution]) -> list[Execution]:
        """Pass on what the parent writes, until it has ended or a child cannot read it."""
        begun = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait([begun, saving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        if not self._begun.is_set():
            return []  # its own exception says why
        piece = await self._parent.take()
        size = self._report.get("size")
        if isinstance(size, int) and size > self._limits.size:
            raise _too_large(self._limits.size, size)
        if not piece:
            return []
        loading = [asyncio.create_task(self._load(child)) for child in self._children]
        try:
            total = 0
            while piece and not any(task.done() for task in loading):
                total += len(piece)
                if total > self._limits.size + _MARGIN:
                    raise _too_large(self._limits.size)
                giving = [self._give(child, piece) for child in self._children]
                piece, *_ = await asyncio.gather(self._parent.take(), *giving)
            await asyncio.gather(*(self._give(child, b"") for child in self._children))
            if piece:  # a child has ended early: the rest is of no use
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

    async def _give(self, child: Channel, piece: bytes) -> None:
        async with self._giving:  # each has a copy of the piece meanwhile
            await child.give(piece)

    async def _load(self, child: Channel) -> Execution:
        return await child.load(self._execution, self._take_child_report, lambda: None)


def _check(execution: Execution, limits: CopyLimits, report: dict[str, Any]) -> None:
    """Check that an execution of a copy succeeded.

    Raises:
        ForkFailed: it did not.
    """
    if execution.status == "succeeded":
        return
    error = execution.error
    if execution.status == "timed_out" or error is None:
        at = report.get("at")
        where = f" It was at {one_line(at[:_LONGEST_NAME])} then." if isinstance(at, str) else ""
        raise ForkFailed(f"The session could not be copied in {limits.seconds:g} seconds.{where}")
    raise ForkFailed(f"The session could not be copied: {error.name}: {brief(error.value)}")


def _too_large(limit: int, size: int | None = None) -> ForkFailed:
    than = "more" if size is None else in_units(size)
    return ForkFailed(
        f"The variables and files of a session must have at most {in_units(limit)} to be copied, not {than}."
    )


def _pair(value: object) -> tuple[str, str] | None:
    """Return a name and a reason, as a sandbox reports them."""
    if not isinstance(value, list) or len(cast("list[object]", value)) != 2:
        return None
    name, reason = cast("list[object]", value)
    if not isinstance(name, str) or not isinstance(reason, str):
        return None
    return name[:_LONGEST_NAME], reason[:_LONGEST_REASON]
