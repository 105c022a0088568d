"""The progress of long operations: the value that is reported, and how it is counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

ProgressTask: TypeAlias = Literal["upload", "download", "pull", "build", "install", "start"]
"""The operation: transferring a file, pulling or building an image, installing packages, or starting a sandbox."""

ProgressUnit: TypeAlias = Literal["bytes", "steps", "packages", "sandboxes"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a long operation, as `on_progress=` receives it.

    `done` never decreases within a task. If the operation succeeds, the last value has `done == total`.
    """

    task: ProgressTask
    """The kind of operation."""
    label: str
    """The file, image or engine concerned. Code in a session can choose file names, so the text can contain any
    characters."""
    done: int
    total: int | None = None
    """`None` while it is unknown. It can change, because a file of a session can change while it is read."""
    unit: ProgressUnit = "bytes"

    @property
    def fraction(self) -> float | None:
        """The completed fraction, from 0 to 1; `None` if the total is unknown."""
        if self.total is None:
            return None
        return min(self.done / self.total, 1.0) if self.total else 1.0


OnProgress: TypeAlias = Callable[[Progress], object]
"""The caller's function; its result is ignored."""

Report: TypeAlias = Callable[[Progress], None]
"""Receives each value where the work is done, on any thread; must return immediately and never raise."""


def unread(progress: Progress) -> None:
    """A `Report` that discards the values."""
    del progress


def check_callback(on_progress: OnProgress | None) -> OnProgress | None:
    """Return the function if it can be called with values.

    Raises:
        InvalidRequest: it is not callable, or asynchronous.
    """
    if on_progress is None:
        return None
    if not callable(on_progress):  # pyright: ignore[reportUnnecessaryComparison]  a caller without types
        raise InvalidRequest(f"The on_progress must be a function, not {brief(on_progress)}.")
    if inspect.iscoroutinefunction(on_progress) or inspect.iscoroutinefunction(getattr(on_progress, "__call__", None)):  # noqa: B004
        raise InvalidRequest("The on_progress must be a function that is not async, also for asynchronous methods.")
    return on_progress


class Meter:
    """Counts one task, and reports each change."""

    def __init__(
        self,
        report: Report,
        task: ProgressTask,
        label: str,
        *,
        total: int | None = None,
        unit: ProgressUnit = "bytes",
    ) -> None:
        self._report = report
        self._task: ProgressTask = task
        self._label = label
        self._unit: ProgressUnit = unit
        self._total = total
        self.done = 0

    @property
    def is_read(self) -> bool:
        """Whether somebody reads the reports."""
        return self._report is not unread

    def begin(self) -> None:
        """Report that nothing is done yet."""
        self._send()

    def expect(self, total: int | None) -> None:
        """Take a total that has become known, or unknown."""
        self._total = total
        self._send()

    def advance(self, count: int) -> None:
        """Add what has been done since the last call."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """Take how much is done; it never becomes less."""
        if done > self.done:
            self.done = done
            self._send()

    def finish(self) -> None:
        """Report that all is done, whatever was expected."""
        if self._unit != "bytes" and self._total is not None:
            self.done = max(self.done, self._total)
        self._total = self.done
        self._send()

    def _send(self) -> None:
        if not self.is_read:
            return
        if self._total is not None and self.done > self._total:
            self._total = None
        self._report(Progress(self._task, self._label, self.done, self._total, self._unit))
