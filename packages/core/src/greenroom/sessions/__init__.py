"""The objects that callers hold: a pool of sessions, a session, an execution in the background."""

from greenroom.sessions.handle import ExecutionHandle
from greenroom.sessions.open_pool import OpenPool
from greenroom.sessions.pool import SessionPool
from greenroom.sessions.requests import Headers, Response, StreamedResponse
from greenroom.sessions.session import Session
from greenroom.sessions.transfers import Source

__all__ = [
    "ExecutionHandle",
    "Headers",
    "OpenPool",
    "Response",
    "Session",
    "SessionPool",
    "Source",
    "StreamedResponse",
]
