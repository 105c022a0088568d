"""How far long work has got: the value that is reported, and the counting."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

ProgressTask: TypeAlias = Literal["upload", "download", "pull", "build", "install", "start"]
"""What is done: a transfer, an image that is pulled or built, packages that are installed, a sandbox that starts."""

ProgressUnit: TypeAlias = Literal["bytes", "steps", "packages", "sandboxes"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of long work has got, as `on_progress=` receives it.

    The values of one task never go back. If the work succeeds, the last one has `done == total`.
    """

    task: ProgressTask
    """What is done."""
    label: str
    """What it is done with: a file, an image, an engine. Code in a session can choose names of files, so the text can
    have any characters."""
    done: int
    total: int | None = None
    """`None` while it is unknown. A session reports the sizes of its files, and a file can change as it is read: then
    this changes, too."""
    unit: ProgressUnit = "bytes"

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0 to 1; `None` if the total is unknown."""
        if self.total is None:
            return None
        return min(self.done / self.total, 1.0) if self.total else 1.0


OnProgress: TypeAlias = Callable[[Progress], object]
"""A function of the caller's; its result is ignored."""

Report: TypeAlias = Callable[[Progress], None]
"""Takes each value where the work is done: on any thread, immediately, without raising."""


def unread(progress: Progress) -> None:
    """A `Report` that nobody reads."""
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
