"""Errors on the wire."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from greenroom.azure.wire import Json
from greenroom.errors import (
    EngineUnavailable,
    FileMissing,
    FileRefused,
    GreenroomError,
    InvalidRequest,
    PoolClosed,
    PoolFull,
    SandboxLost,
)

# Codes that were seen or are documented.
PROPERTIES_MISSING = "SessionPropertiesMissing"
VALIDATION_FAILED = "SessionRequestValidationFailed"
NOT_SUPPORTED = "SessionRequestNotSupported"
IDENTIFIER_LENGTH = "InvalidLengthOfSessionIdentifier"
PATH_INVALID = "FilePathInvalid"
FILE_NOT_FOUND = "FileNotFound"
SESSION_NOT_FOUND = "NoSessionFoundError"
EXECUTION_NOT_FOUND = "ExecutionNotFound"
POOL_FULL = "SessionsCountExceedsLimit"
# Greenroom's own, where nothing is known of Azure's.
UNAUTHORIZED = "Unauthorized"
FORBIDDEN = "Forbidden"
FILE_REFUSED = "FileOperationRefused"
FILE_TOO_LARGE = "FileTooLarge"
SESSION_LOST = "SessionLost"
UNAVAILABLE = "ServiceUnavailable"
INTERNAL = "InternalServerError"

_MAX_MESSAGE = 4000
_REQUEST_IDS = ("x-ms-request-id", "mise-correlation-id", "x-ms-client-request-id", "request-id")
_ACTIVE = re.compile(r"'(\d+)' active sessions")


class BadRequest(InvalidRequest):
    """A request is not of the contract's form.

    Attributes:
        code: Azure's word for it.
        target: the field it is about.
    """

    def __init__(self, message: str, *, code: str = VALIDATION_FAILED, target: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.target = target


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it goes over the wire."""

    status: int
    code: str
    message: str
    target: str | None = None
    trace_id: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds until it is worth another try: nothing was done."""

    @property
    def sessions(self) -> int | None:
        """Of a full pool: how many sessions it says it has."""
        match = _ACTIVE.search(self.message)
        return int(match[1]) if match else None


def encode_problem(problem: Problem) -> tuple[dict[str, str], dict[str, Json]]:
    """Headers and body. A full pool's body is not wrapped in `error`, as was seen in Azure."""
    headers = {"x-ms-error-code": problem.code}
    if problem.retry_after is not None:
        headers["Retry-After"] = f"{max(problem.retry_after, 0):.0f}"
    if problem.request_id is not None:
        headers["x-ms-request-id"] = problem.request_id
    body: dict[str, Json] = {"code": problem.code, "message": problem.message}
    if problem.code == POOL_FULL:
        return headers, body
    if problem.target is not None:
        body["target"] = problem.target
    if problem.trace_id is not None:
        body["traceId"] = problem.trace_id
    return headers, {"error": body}


def decode_problem(status: int, headers: Mapping[str, str], content: bytes) -> Problem:
    """A problem from whatever came: Azure's body, wrapped or not, RFC 9457's, or no JSON at all.

    `headers` are looked up in lower case.
    """
    try:
        body: Json = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    fields: Json = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(fields, str):
        fields = {"message": fields}
    if not isinstance(fields, dict):
        fields = {}

    def field(*names: str) -> str | None:
        found = [fields[name] for name in names if isinstance(fields.get(name), str) and fields[name]]
        return found[0][:_MAX_MESSAGE] if found else None

    return Problem(
        status=status,
        code=headers.get("x-ms-error-code") or field("code") or "",
        message=field("message", "detail", "title") or "",
        target=field("target"),
        trace_id=field("traceId"),
        request_id=next((headers[name] for name in _REQUEST_IDS if name in headers), None),
        retry_after=_seconds(headers.get("retry-after")),
    )


def _seconds(value: str | None) -> float | None:
    """`Retry-After` in its usual form; a date counts as an unknown while, for which 1 second stands."""
    if value is None:
        return None
    return float(value) if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()) else 1.0


def problem_of(error: GreenroomError) -> Problem:
    """What a server answers where this was raised."""
    message = str(error.args[1]) if isinstance(error, OSError) and len(error.args) > 1 else str(error)
    match error:
        case BadRequest():
            return Problem(400, error.code, message, error.target)
        case InvalidRequest():
            return Problem(400, VALIDATION_FAILED, message)
        case FileMissing():
            return Problem(404, FILE_NOT_FOUND, message)
        case FileRefused() if error.errno == errno.EFBIG:
            return Problem(413, FILE_TOO_LARGE, message)
        case FileRefused():
            return Problem(400, FILE_REFUSED, message)
        case PoolFull():
            count = error.sessions
            full = (
                f"The request sessions count is '1'. There are already '{count}' active sessions and the maximum "
                f"active sessions count is '{count}'."
            )
            return Problem(429, POOL_FULL, full, retry_after=error.retry_after)
        case SandboxLost():
            return Problem(410, SESSION_LOST, message)
        case PoolClosed() | EngineUnavailable():
            return Problem(503, UNAVAILABLE, message, retry_after=5)
        case _:
            return Problem(500, INTERNAL, message)
