"""One execution in the supervisor: its output to the host, within limits, and its end."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .files import FileTree
from .json_weight import TooDeep
from .protocol import (
    ERROR_LIMITS,
    MAX_CALL,
    MAX_ENDING,
    MAX_NAME,
    MAX_OUTPUTS,
    MAX_TOOL_NAME,
    Frame,
    FrameError,
    HostEvent,
    file_entry,
    output_cost,
)

TEXT_PIECE = 1 << 16
"""The size in bytes at which text is sent without waiting for more."""

_MERGE_SECONDS = 0.001  # how long text waits for more: print() writes its text and its newline separately
_SNAPSHOT_LIMIT = 2_000  # entries; if there are more, changes are detected by modification time
_MAX_CHANGED = 100
_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")
_CLOCK_TICK = 10_000_000  # nanoseconds by which the clock of files can lag


class Run:
    """The execution that the worker is running, within the limits that the host has set.

    Attributes:
        id: the host's number for it.
        kill_at: when to kill the worker; set when the execution is interrupted.
    """

    def __init__(self, order: dict[str, Any], tree: FileTree, send: Callable[[Frame], None]) -> None:
        """
        Args:
            order: the header of the host's order.
            tree: the session's files.
            send: sends a frame to the host.
        """
        self.id = int(order["id"])
        self.kill_at: float | None = None
        self._send = send
        self._tree = tree
        self._text_left = int(order["text_limit"])
        self._output_left = int(order.get("output_limit", 0))
        self._outputs_left = MAX_OUTPUTS
        self._calls_left = int(order.get("call_limit", 0))
        self._call_bytes_left = int(order.get("call_bytes", 0))
        self._last_call = 0
        self._areas = 0  # number of open ones
        self._truncated = 0
        self._text: list[tuple[str, bytearray]] = []  # waiting to be sent
        self._text_due = 0.0
        self._files_before = tree.snapshot(_SNAPSHOT_LIMIT)
        self._began_at = time.perf_counter()
        self._began_time = time.time_ns() - _CLOCK_TICK

    def due(self) -> float | None:
        """Return when there is something to do even if nothing happens before."""
        times = [self._text_due] if self._text else []
        if self.kill_at is not None:
            times.append(self.kill_at)
        return min(times, default=None)

    def add_text(self, stream: str, data: bytes) -> None:
        """Take the code's output to a stream; it is sent soon, together with what follows it."""
        kept = data[: self._text_left]
        self._text_left -= len(kept)
        self._truncated += len(data) - len(kept)
        if not kept:
            return
        if not self._text:
            self._text_due = time.monotonic() + _MERGE_SECONDS
        if self._text and self._text[-1][0] == stream:
            self._text[-1][1].extend(kept)
        else:
            self._text.append((stream, bytearray(kept)))
        if len(self._text[-1][1]) >= TEXT_PIECE:
            self.send_text()

    def send_text(self) -> None:
        """Send the waiting text, before anything that comes after it."""
        for stream, data in self._text:
            self._send(HostEvent.text(self.id, stream, bytes(data)))
        self._text.clear()

    def send_due_text(self, now: float) -> None:
        """Send the waiting text if it has waited long enough."""
        if self._text and now >= self._text_due:
            self.send_text()

    def show(self, header: Mapping[str, Any], body: bytes) -> None:
        """Send a worker's rich output, or count it as truncated. The code may have put anything into it."""
        name = header.get("display_id")
        display_id = name[:MAX_NAME] if isinstance(name, str) else None
        update = display_id is not None and header.get("update") is True
        if not self._may_show(body, update=update):
            self._truncated += len(body)
            return
        self.send_text()
        result = header.get("result") is True
        self._send(HostEvent.output(self.id, body, result=result, display_id=display_id, update=update))

    def _may_show(self, body: bytes, *, update: bool) -> bool:
        """Whether a rich output is within the limits; if so, count it."""
        try:
            cost = output_cost(body, self._output_left)
        except TooDeep:
            return False
        if cost > self._output_left or (not update and not self._outputs_left):
            return False
        self._output_left -= cost
        self._outputs_left -= not update
        return True

    def show_error(self, error: Mapping[str, str], *, ends: bool) -> None:
        """Send an error that the code shows, or count it as truncated; it counts as text."""
        frame = HostEvent.error(self.id, error, ends=ends)
        if len(frame.body) > self._text_left or not self._outputs_left:
            self._truncated += len(frame.body)
            return
        self._text_left -= len(frame.body)
        self._outputs_left -= 1
        self.send_text()
        self._send(frame)

    def clear(self, *, wait: bool) -> None:
        """Have the host discard the output so far."""
        if not self._areas:
            self._outputs_left = MAX_OUTPUTS
        self.send_text()
        self._send(HostEvent.clear(self.id, wait=wait))

    def enter_area(self) -> None:
        """Begin an area. Only the outermost one is reported to the host."""
        self._areas += 1
        if self._areas == 1:
            self.send_text()
            self._send(HostEvent.area(self.id, begins=True))

    def leave_area(self) -> None:
        """End an area, unless it began before this execution."""
        if self._areas:
            self._areas -= 1
            if not self._areas:
                self.send_text()
                self._send(HostEvent.area(self.id, begins=False))

    def call(self, header: Mapping[str, Any], body: bytes) -> None:
        """Pass on a call of a tool, after the text before it. A call of another execution is dropped.

        Raises:
            FrameError: the number is not new, or there are more calls or bytes than allowed.
        """
        number, tool = header.get("call"), header.get("tool")
        if header.get("id") != self.id:
            return
        self._calls_left -= 1
        self._call_bytes_left -= len(body)
        if self._calls_left < 0 or self._call_bytes_left < 0:
            raise FrameError("the worker sent more calls than allowed")
        if type(number) is not int or not self._last_call < number <= MAX_CALL:
            raise FrameError("the number of a call must be higher than all earlier ones")
        if not isinstance(tool, str) or len(tool) > MAX_TOOL_NAME:
            raise FrameError("a call must name its tool")
        self._last_call = number
        self.send_text()
        self._send(HostEvent.call(self.id, number, tool, body))

    def withdraw(self, header: Mapping[str, Any]) -> None:
        """Report that the code no longer waits for the answer to a call, which may already have arrived."""
        number = header.get("call")
        if header.get("id") == self.id and type(number) is int and 0 < number <= self._last_call:
            self._send(HostEvent.withdraw(self.id, number))

    def finish(
        self,
        *,
        duration: float | None = None,
        error: dict[str, str] | None = None,
        crash: dict[str, Any] | None = None,
        state_lost: bool,
        **command: Any,
    ) -> None:
        """Send the end, with the files that are new or changed.

        Args:
            duration: seconds that the code took; if unknown, the time since the beginning.
            error: the code's own error.
            crash: how the worker ended, if it did.
            state_lost: whether a worker ended before this execution and took the session's variables with it.
            command: how a shell command ended, as for `HostEvent.done`.
        """
        if duration is None:
            duration = time.perf_counter() - self._began_at
        self.send_text()
        changed = self._changed_files()
        self._send(
            HostEvent.done(
                self.id,
                duration=duration,
                truncated=self._truncated,
                state_lost=state_lost,
                crash=crash,
                error=error,
                files=changed[:_MAX_CHANGED],
                files_omitted=max(0, len(changed) - _MAX_CHANGED),
                **command,
            )
        )

    def _changed_files(self) -> list[dict[str, Any]]:
        """Return the files that are new or changed, those first that have the fewest with similar names."""
        before = self._files_before
        if before is None or (after := self._tree.snapshot(_SNAPSHOT_LIMIT)) is None:
            changed = self._tree.changed_since(self._began_time)
        else:
            changed = [
                file_entry(path, size=mark[0], modified=mark[1], directory=False)
                for path, mark in after.items()
                if before.get(path) != mark
            ]
        changed = [entry for entry in changed if "/__pycache__/" not in entry["path"]]
        names, suffixes = Counter(map(_name, changed)), Counter(map(_suffix, changed))
        return sorted(
            changed,
            key=lambda entry: (names[_name(entry)], suffixes[_suffix(entry)], entry["path"].count("/"), entry["path"]),
        )


def _name(entry: dict[str, Any]) -> str:
    """Return the path of a file with its numbers replaced, so that the files of a series have the same one."""
    return _NUMBER.sub("0", entry["path"])


def _suffix(entry: dict[str, Any]) -> str:
    return os.path.splitext(entry["path"])[1]


def parse_error(body: bytes) -> dict[str, str] | None:
    """Return the error that a worker reports at the end of its code.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: the body does not describe an error.
    """
    if len(body) > MAX_ENDING:
        raise ValueError(f"an error must have at most {MAX_ENDING} bytes, not {len(body)}")
    error: Any = json.loads(body)
    return None if error is None else {name: str(error[name])[:limit] for name, limit in ERROR_LIMITS.items()}
