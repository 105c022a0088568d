"""Records through Python's `logging`, for pools without a server: the logger `greenroom.log`."""

from __future__ import annotations

import logging

from greenroom.telemetry.columns import columns_of
from greenroom.telemetry.events import (
    EngineRecovered,
    ExecutionBegan,
    ExecutionEnded,
    Observer,
    SandboxStarted,
    SandboxStarting,
    SessionAllocated,
    TelemetryEvent,
    TransferEnded,
)
from greenroom.telemetry.records import Item, LogLevel, LogRecord, recorder
from greenroom.untrusted import one_line

logger = logging.getLogger("greenroom.log")
"""Its records have the columns in the attribute `greenroom`."""
logger.addHandler(logging.NullHandler())  # otherwise Python prints warnings if the program has not configured logging

_LEVELS = {
    LogLevel.INFORMATION: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
_USUAL = (ExecutionBegan, SandboxStarting, SandboxStarted, SessionAllocated, TransferEnded, EngineRecovered)
"""Events whose records, if any, are not warnings."""


def observer_of(pool: str) -> Observer:
    """Return the consumer of a pool's events."""
    record = recorder(_log, pool)

    def observe(event: TelemetryEvent) -> None:
        usual = isinstance(event, _USUAL) or (isinstance(event, ExecutionEnded) and event.error is None)
        if not usual or logger.isEnabledFor(logging.INFO):
            record(event)

    return observe


def _log(item: Item) -> None:
    level = _LEVELS[item.level] if isinstance(item, LogRecord) else logging.INFO
    if logger.isEnabledFor(level):
        columns = columns_of(item)
        names = [columns["SessionPoolName"], columns.get("Identifier", ""), columns.get("Log", "")]
        pool, session, text = map(one_line, names)
        message = " ".join(filter(None, [columns["OperationName"], pool, session]))
        logger.log(level, "%s: %s", message, text or columns["Reason"], extra={"greenroom": columns})
