"""Records as JSON, with Azure's column names where Azure has such a column."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias

from greenroom.telemetry.records import EndedSession, Item, LogRecord

Columns: TypeAlias = dict[str, Any]

USAGE_TYPE = "GreenroomSessionUsage"
"""The `Type` of the usage of an ended session."""

_LOCATION = "local"


def columns_of(item: Item) -> Columns:
    """Return the columns of an item, without empty ones."""
    columns = _of_record(item) if isinstance(item, LogRecord) else _of_session(item)
    return {name: value for name, value in columns.items() if value is not None}


def _of_record(record: LogRecord) -> Columns:
    return {
        "TimeGenerated": timestamp(record.time),
        "Type": record.table.value,
        "SessionPoolName": record.pool,
        "OperationName": record.operation.value,
        "Level": record.level.value,
        "Location": _LOCATION,
        "Log": record.log,
        "Identifier": record.identifier,
        "Status": record.status,
        "Reason": record.reason,
        "DurationSeconds": record.duration,
        "OutputCharacters": record.output,
        "SizeBytes": record.size,
    }


def _of_session(ended: EndedSession) -> Columns:
    usage = ended.usage
    return {
        "TimeGenerated": timestamp(ended.ended),
        "Type": USAGE_TYPE,
        "SessionPoolName": ended.pool,
        "OperationName": "SessionUsage" if ended.identifier is not None else "SpareSandboxUsage",
        "Level": "Information",
        "Location": _LOCATION,
        "Identifier": ended.identifier,
        "Reason": ended.cause.label,
        "TimeBegan": timestamp(ended.began),
        "WallSeconds": usage.wall,
        "Executions": usage.executions,
        "UploadedBytes": usage.uploaded,
        "DownloadedBytes": usage.downloaded,
        "UsageSource": usage.source.value,
        "CpuSeconds": usage.cpu,
        "MemoryByteSeconds": usage.memory_time,
        "PeakMemoryBytes": usage.peak_memory,
    }


def timestamp(seconds: float) -> str:
    """Return a time as Azure writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
