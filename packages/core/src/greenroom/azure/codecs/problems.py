"""Errors in both contracts: HTTP status and body, to and from `GreenroomError`."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from greenroom.azure.codecs.shared import Json, fields_of, text
from greenroom.errors import (
    AccessDenied,
    AzureDetails,
    EngineUnavailable,
    FileMissing,
    FileRefused,
    GreenroomError,
    InvalidRequest,
    PoolClosed,
    PoolFull,
    SandboxLost,
    ServiceFailed,
)

# Codes that were observed or are documented.
PROPERTIES_MISSING = "SessionPropertiesMissing"
VALIDATION_FAILED = "SessionRequestValidationFailed"
NOT_SUPPORTED = "SessionRequestNotSupported"
IDENTIFIER_LENGTH = "InvalidLengthOfSessionIdentifier"
PATH_INVALID = "FilePathInvalid"
FILE_NOT_FOUND = "FileNotFound"
SESSION_NOT_FOUND = "NoSessionFoundError"
NO_SESSION = frozenset({SESSION_NOT_FOUND, "SessionWithIdentifierNotFound"})
EXECUTION_EXISTS = "ExecutionAlreadyExists"
EXECUTION_NOT_FOUND = "ExecutionNotFound"
POOL_FULL = "SessionsCountExceedsLimit"
# Greenroom's own codes, where Azure's are unknown.
UNAUTHORIZED = "Unauthorized"
FORBIDDEN = "Forbidden"
FILE_REFUSED = "FileOperationRefused"
FILE_TOO_LARGE = "FileTooLarge"
SESSION_LOST = "SessionLost"
UNAVAILABLE = "ServiceUnavailable"
INTERNAL = "InternalServerError"

_MAX_MESSAGE = 4000
_MAX_WORD = 200
_REQUEST_IDS = ("x-ms-request-id", "mise-correlation-id", "x-ms-client-request-id", "request-id")
_COUNTS = re.compile(r"'(\d+)' active sessions and the maximum active sessions count is '(\d+)'")


class BadRequest(InvalidRequest):
    """A request does not have the contract's form.

    Attributes:
        code: Azure's error code.
        target: the name of the field.
    """

    def __init__(self, message: str, *, code: str = VALIDATION_FAILED, target: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.target = target


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is sent."""

    status: int
    code: str
    message: str
    target: str | None = None
    trace_id: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds after which to retry; nothing was done."""

    @property
    def sessions(self) -> int | None:
        """The number of sessions that a full pool reports."""
        match = _COUNTS.search(self.message)
        return int(match[1]) if match else None


def encode_problem(problem: Problem) -> tuple[dict[str, str], dict[str, Json]]:
    """Return headers and body. A full pool's body is not wrapped in `error`, as observed in Azure."""
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
    """Read any error response: Azure's body, wrapped or not, RFC 9457's, or a body that is not JSON.

    `headers` are looked up in lower case.
    """
    try:
        body: Json = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    inner: Json = fields_of(body).get("error", body)
    fields = {"message": inner} if isinstance(inner, str) else fields_of(inner)

    def field(*names: str) -> str | None:
        found = [text(fields.get(name)) for name in names]
        return next((value[:_MAX_MESSAGE] for value in found if value), None)

    return Problem(
        status=status,
        code=(headers.get("x-ms-error-code") or field("code") or "")[:_MAX_WORD],
        message=field("message", "detail", "title") or "",
        target=field("target"),
        trace_id=(field("traceId") or "")[:_MAX_WORD] or None,
        request_id=next((headers[name][:_MAX_WORD] for name in _REQUEST_IDS if name in headers), None),
        retry_after=_seconds(headers.get("retry-after")),
    )


def _seconds(value: str | None) -> float | None:
    """Read `Retry-After` as a number of seconds; a date becomes 1 second."""
    if value is None:
        return None
    return float(value) if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()) else 1.0


def problem_of(error: GreenroomError) -> Problem:
    """Return the error response for an exception."""
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
            return Problem(429, POOL_FULL, message if error.memory else full, retry_after=error.retry_after)
        case SandboxLost():
            return Problem(410, SESSION_LOST, message)
        case PoolClosed() | EngineUnavailable():
            return Problem(503, UNAVAILABLE, message, retry_after=5)
        case _:
            return Problem(500, INTERNAL, message)


_NOT_ALLOWED = (
    "The identity must have the role Azure ContainerApps Session Executor to run sessions in this pool. "
    "Assign it with: az role assignment create --role 'Azure ContainerApps Session Executor' --assignee <object id> "
    "--scope <resource id of the pool>. It takes effect after some minutes."
)
_NOT_ACCEPTED = (
    "The credentials were not accepted: the token has expired, belongs to another tenant or is not for "
    "https://dynamicsessions.io. Log "
    "in with 'az login', or give connect() a credential; a server of 'greenroom serve' "
    "takes api_key."
)


def error_of(problem: Problem, *, path: str | None = None) -> GreenroomError:
    """Return the exception for an error response; the inverse of `problem_of`.

    Args:
        problem: the response.
        path: the file that the request concerned, if any.
    """
    error = _error_of(problem, path)
    error.azure = AzureDetails(problem.status, problem.code, problem.message, problem.trace_id, problem.request_id)
    return error


def _error_of(problem: Problem, path: str | None) -> GreenroomError:
    message = _describe(problem)
    if problem.code == POOL_FULL or problem.status == 429:
        return PoolFull(
            f"The pool is full{_how_full(problem)}. {message}",
            sessions=problem.sessions or 0,
            retry_after=problem.retry_after,
        )
    match problem.status, problem.code:
        case 401, _:
            return AccessDenied(f"{_NOT_ACCEPTED} {message}")
        case 403, _:
            return AccessDenied(f"{_NOT_ALLOWED} {message}")
        case 404, code if code in {"", FILE_NOT_FOUND, *NO_SESSION} and path is not None:
            return FileMissing(errno.ENOENT, message, path)
        case 410, code if code == SESSION_LOST:
            return SandboxLost(message)
        case 413, _ if path is not None:
            return FileRefused(errno.EFBIG, message, path)
        case 400, code if code == FILE_REFUSED:
            return FileRefused(errno.EPERM, message, path)
        case ((400 | 413 | 422), _):
            return InvalidRequest(message)
        case _:
            return ServiceFailed(f"The service failed. {message}")


def _how_full(problem: Problem) -> str:
    match = _COUNTS.search(problem.message)
    return f": {match[1]} of {match[2]} sessions are in use" if match else ""


def _describe(problem: Problem) -> str:
    """Return the error as text, with the ids that Azure's support needs."""
    ids = [
        f"HTTP {problem.status}",
        problem.code,
        problem.request_id and f"request {problem.request_id}",
        problem.trace_id and f"trace {problem.trace_id}",
    ]
    message = problem.message or "The response has no message."
    return f"{message} ({', '.join(filter(None, ids))})"
