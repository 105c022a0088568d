"""Agents write code; Greenroom runs it: isolated, stateful sessions on a laptop or on Azure."""

from greenroom.connecting import aconnect, connect, session
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
from greenroom.local import AzureRangeWarning, PoolSettings
from greenroom.models import (
    ContainerType,
    Event,
    Execution,
    ExecutionError,
    Image,
    Output,
    Place,
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
    "AzureRangeWarning",
    "ContainerType",
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
    "Place",
    "PoolClosed",
    "PoolFull",
    "PoolSettings",
    "PoolStatus",
    "RemoteFile",
    "SandboxLost",
    "ServiceFailed",
    "Session",
    "SessionInfo",
    "SessionPool",
    "StreamText",
    "aconnect",
    "connect",
    "session",
]
