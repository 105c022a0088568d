"""Agents write code; Greenroom runs it: isolated, stateful sessions on your own machine."""

from greenroom.connect import connect
from greenroom.errors import (
    EngineUnavailable,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionTimedOut,
    FileMissing,
    FileRefused,
    GreenroomError,
    ImageMissing,
    InvalidRequest,
    PoolClosed,
    PoolFull,
    SandboxLost,
)
from greenroom.models import (
    Event,
    Execution,
    ExecutionError,
    Image,
    Output,
    PoolStatus,
    RemoteFile,
    SessionInfo,
    StreamText,
)
from greenroom.session import ExecutionHandle, Session, SessionPool

__version__ = "0.1.0"

__all__ = [
    "EngineUnavailable",
    "Event",
    "Execution",
    "ExecutionCancelled",
    "ExecutionError",
    "ExecutionFailed",
    "ExecutionHandle",
    "ExecutionTimedOut",
    "FileMissing",
    "FileRefused",
    "GreenroomError",
    "Image",
    "ImageMissing",
    "InvalidRequest",
    "Output",
    "PoolClosed",
    "PoolFull",
    "PoolStatus",
    "RemoteFile",
    "SandboxLost",
    "Session",
    "SessionInfo",
    "SessionPool",
    "StreamText",
    "connect",
]
