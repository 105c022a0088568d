"""Progress bars for long work: only on a terminal, after a short delay, and removed at the end."""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from greenroom.progress import OnProgress, Progress, ProgressTask
from greenroom.untrusted import one_line

_DELAY = 0.5  # seconds
_LARGE = 4 << 20
"""The minimum size of a transfer that gets a bar, in bytes."""
_LONGEST_NAME = 60

_VERBS: dict[ProgressTask, str] = {
    "upload": "Uploading",
    "download": "Downloading",
    "pull": "Pulling",
    "build": "Building",
    "install": "Installing",
    "start": "Starting a sandbox:",
}


def can_draw(stream: TextIO | None = None) -> bool:
    """Whether a stream, by default standard error, is an interactive terminal on which lines can be redrawn.

    Unlike rich, this does not draw into a file if an environment variable asks for that.
    """
    if os.environ.get("TERM", "").lower() in {"dumb", "unknown"}:
        return False
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        return False
    return (stream or sys.stderr).isatty()


class Display:
    """A context in which long work is shown on standard error, if that is a terminal.

    Only transfers of several megabytes are shown, and nothing that ends within half a second. At the end of the
    context, and after Ctrl-C, the lines are removed.
    """

    def __init__(self, doing: str = "") -> None:
        """
        Args:
            doing: shown until the first progress is reported; by default nothing.
        """
        self._doing = one_line(doing)
        self._draws = can_draw()
        self._lock = threading.RLock()
        self._latest: dict[str, Progress] = {}
        """The running long tasks."""
        self._timer: threading.Timer | None = None
        self._is_late = False
        """Whether the work has taken long enough to be shown."""
        self._bars: Bars | None = None
        """What is on the screen."""
        self._rows: dict[str, TaskID] = {}

    @property
    def on_progress(self) -> OnProgress | None:
        """The function to pass as `on_progress`; `None` if nothing is drawn. Any thread can call it."""
        return self.show if self._draws else None

    def show(self, progress: Progress) -> None:
        """Show the progress of a task."""
        with self._lock:
            self._doing = ""
            if progress.done == progress.total:
                self._latest.pop(progress.task, None)
            elif _is_long(progress):
                self._latest[progress.task] = progress
            self._draw()

    def close(self) -> None:
        """Remove the lines. Idempotent."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._clear()

    def __enter__(self) -> Self:
        if self._draws:
            self._timer = threading.Timer(_DELAY, self._begin)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        with self._lock:
            self._is_late = True
            self._draw()

    def _draw(self) -> None:
        if self._timer is None or not self._is_late:
            return
        rows = {task: _description(progress) for task, progress in self._latest.items()}
        if self._doing:
            rows[""] = self._doing
        if not rows:
            self._clear()
            return
        bars = self._bars
        if bars is None:  # a new one each time: rich would start at the position of the last one
            bars = self._bars = _bars()
        for task in self._rows.keys() - rows.keys():
            bars.remove_task(self._rows.pop(task))
        for task, description in rows.items():
            if task not in self._rows:
                self._rows[task] = bars.add_task("", total=None)
            progress = self._latest.get(task)
            if progress is None:
                bars.update(self._rows[task], description=description)
            else:
                bars.update(
                    self._rows[task],
                    description=description,
                    completed=progress.done,
                    total=progress.total,
                    unit=progress.unit,
                )
        bars.start()

    def _clear(self) -> None:
        bars, self._bars = self._bars, None
        self._rows.clear()
        if bars is not None:
            bars.stop()


def _bars() -> Bars:
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        _Bar(),
        _Amount(),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False, markup=False, force_terminal=True, force_interactive=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _is_long(progress: Progress) -> bool:
    if progress.task not in {"upload", "download"}:
        return True
    return (progress.done if progress.total is None else progress.total) >= _LARGE


def _description(progress: Progress) -> str:
    name = one_line(progress.label)
    if len(name) > _LONGEST_NAME:
        name = f"…{name[1 - _LONGEST_NAME :]}"
    return f"{_VERBS[progress.task]} {name}"


class _Bar(ProgressColumn):
    """Empty while the total is unknown: only the spinner turns."""

    _bar = BarColumn(bar_width=24)

    def render(self, task: Task) -> RenderableType:
        return self._bar.render(task) if task.total else Text()


class _Amount(ProgressColumn):
    """How much is done, and of how much."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        if not unit:
            return Text()
        if unit != "bytes":
            return Text(f"{task.completed:.0f}/{task.total:.0f}" if task.total else f"{task.completed:.0f}")
        done = decimal(int(task.completed))
        return Text(done if task.total is None else f"{done} of {decimal(int(task.total))}")
