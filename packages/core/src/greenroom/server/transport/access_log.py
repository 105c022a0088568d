"""One line of JSON per request, without code, file content or credentials."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("greenroom.server.access")

_MAX_TEXT = 300


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


def _short(value: str | int) -> str | int:
    return value[:_MAX_TEXT] if isinstance(value, str) else value
