"""One line of JSON per request, without code, file content or credentials."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("greenroom.server.access")

_MAX_TEXT = 300
_MAX_WAITING = 1000  # lines; further ones are dropped
_CLOSE_TIMEOUT = 1.0
_GATHER = 0.05
"""Seconds for which further lines are awaited, as switching to the thread takes longer than making a line."""
_MOST_TOGETHER = 2 << 10  # bytes to which one more line is added: a pipe takes up to 4 KiB in one piece


class Entry:
    """The log entry of one request."""

    def __init__(self, method: str, path: str, client: str) -> None:
        self._began = time.perf_counter()
        self._time = datetime.now(UTC)
        self._fields: dict[str, Any] = {"method": method, "path": path, "client": client}

    def note(self, **fields: str | int | None) -> None:
        """Add fields, except those that are `None`."""
        self._fields.update({name: value for name, value in fields.items() if value is not None})

    @property
    def duration(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self._began

    def write(self) -> None:
        if logger.isEnabledFor(logging.INFO):
            line = {
                "time": self._time.isoformat(timespec="milliseconds"),
                **{name: _short(value) for name, value in self._fields.items()},
                "duration_ms": round(1000 * self.duration, 3),
            }
            logger.info("%s", json.dumps(line))


class LineHandler(logging.Handler):
    """Writes lines to a descriptor in a thread, as a blocked pipe must not block the server. If too many lines wait,
    further ones are dropped; the next line that is written says how many.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes] = queue.Queue(_MAX_WAITING)
        self._dropped = 0  # since the start
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="greenroom access log", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(f"{self.format(record)}\n".encode())
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write the waiting lines, but do not wait long for a reader."""
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)
        super().close()

    def _write(self) -> None:
        told = 0
        while True:
            lines = [self._waiting.get()]
            if self._waiting.empty():
                time.sleep(_GATHER)
            with contextlib.suppress(queue.Empty):
                while sum(map(len, lines)) < _MOST_TOGETHER:
                    lines.append(self._waiting.get_nowait())
            taken = len(lines)
            if (dropped := self._dropped) > told:
                lines.insert(0, json.dumps({"dropped": dropped - told}).encode() + b"\n")
                told = dropped
            content = b"".join(lines)
            with contextlib.suppress(OSError):  # the reader has gone
                while content:
                    content = content[os.write(self._descriptor, content) :]
            for _ in range(taken):
                self._waiting.task_done()


def _short(value: str | int) -> str | int:
    return value[:_MAX_TEXT] if isinstance(value, str) else value
