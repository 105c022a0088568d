"""The progress of a run, and the time limits of its parts."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_GRACE = 60.0  # seconds over its time limit after which a part is stopped, whatever it is doing
_LINES = 2.0  # seconds between two lines without a terminal


class TimeUp(BaseException):
    """A part is stopped. Not an `Exception`, so that only the end of the part handles it."""


class Course:
    """Reports the progress of a run, and ends each part in time.

    A part that checks `over` between its rounds stops by itself; one that does not is stopped a minute later. A failed
    part does not end the run.

    Attributes:
        ended_early: the parts that have not measured everything, with the reason.
    """

    def __init__(self, parts: int, console: Console, *, grace: float = _GRACE) -> None:
        """
        Args:
            parts: the number of parts.
            console: where to report.
            grace: seconds that a part may exceed its time limit.
        """
        self.ended_early: dict[str, str] = {}
        self._parts = parts
        self._console = console
        self._grace = grace
        self._began = time.monotonic()
        self._ends = self._due = self._began
        self._number = 0
        self._title = ""
        self._told = 0.0
        self._progress = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("", total=parts)

    @contextmanager
    def part(self, title: str, limit: float) -> Generator[None, None, None]:
        """Run the next part with this time limit in seconds, plus the time that earlier parts have not used."""
        self._number += 1
        self._title = title
        now = time.monotonic()
        self._due += limit
        self._ends = max(self._due, now + limit)
        limit = self._ends - now
        self.report("")
        before = signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, limit + self._grace)
        try:
            with self._progress:
                yield
        except TimeUp:
            self.ended_early[title] = f"it was stopped after {limit + self._grace:.0f} s"
        except Exception as error:  # noqa: BLE001  the other parts are still worth measuring
            self.ended_early[title] = f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self._progress.update(self._task, completed=self._number)
        if title in self.ended_early:
            self._console.print(f"{title} ended early: {self.ended_early[title]}", markup=False, soft_wrap=True)

    @property
    def left(self) -> float:
        """The seconds that the part has left."""
        return self._ends - time.monotonic()

    def over(self, what: str = "the time was up") -> bool:
        """Whether the part's time is up; if so, record what it leaves out."""
        if self.left > 0:
            return False
        self.end_early(what)
        return True

    def end_early(self, reason: str) -> None:
        """Record that the part does not measure everything."""
        self.ended_early.setdefault(self._title, reason)

    def report(self, what: str) -> None:
        """Report what the part is doing."""
        description = ": ".join(filter(None, (self._title, what)))
        self._progress.update(self._task, description=description)
        now = time.monotonic()
        if not self._console.is_terminal and (not what or now - self._told > _LINES):
            self._told = now
            line = f"{self._number:2}/{self._parts} {now - self._began:5.0f} s  {description}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TimeUp
