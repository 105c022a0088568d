"""Agents write code; Greenroom runs it: isolated, stateful sessions on a laptop or on Azure."""

from greenroom.connecting import connect
from greenroom.errors import (
    AccessDenied,
    AzureDetails,
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
    ServiceFailed,
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
from greenroom.sessions import ExecutionHandle, Session, SessionPool

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AzureDetails",
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
    "ServiceFailed",
    "Session",
    "SessionInfo",
    "SessionPool",
    "StreamText",
    "connect",
]
