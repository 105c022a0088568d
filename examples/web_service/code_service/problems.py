"""Errors as JSON: `{"error": {"code": …, "message": …}}`, without tracebacks or texts of the backend."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import greenroom
from code_service.users import NotSignedIn

log = logging.getLogger("code_service")

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def response(self) -> JSONResponse:
        headers: Mapping[str, str] = {}
        if self.retry_after is not None:
            headers = {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        if self.status == 401:
            headers = {"WWW-Authenticate": "Bearer"}
        return JSONResponse({"error": {"code": self.code, "message": self.message}}, self.status, headers)


def problem_of(error: greenroom.GreenroomError) -> Problem:
    """Return the problem to report to the user; details for the operator are logged."""
    match error:
        case greenroom.InvalidRequest():
            return Problem(400, "invalid_request", str(error))
        case greenroom.FileMissing():
            return Problem(404, "file_missing", "The session has no such file.")
        case greenroom.FileRefused(errno=errno.EFBIG):
            return Problem(413, "too_large", "The file is too large.")
        case greenroom.FileRefused():
            return Problem(
                409,
                "file_refused",
                "The session cannot take or give this file: its disk is full, or it is not a regular file.",
            )
        case greenroom.PoolFull():
            return Problem(503, "busy", "All sessions are taken.", retry_after=error.retry_after or 1)
        case greenroom.SandboxLost():
            message = "The session has ended; its variables and files are lost. Whether the code completed is unknown."
            return Problem(503, "session_lost", message)
        case _:
            log.error("The sandboxes do not respond: %s", error)
            message = (
                "The sandboxes do not respond. Code may have run; the same Idempotency-Key runs it once, however often "
                "the request is sent."
            )
            return Problem(503, "unavailable", message, retry_after=1)


def install(app: FastAPI) -> None:
    """Make an application report all errors this way."""

    def answer(_: Request, error: Exception) -> JSONResponse:
        match error:
            case Problem():
                return error.response()
            case greenroom.GreenroomError():
                return problem_of(error).response()
            case NotSignedIn():
                return Problem(401, "not_signed_in", str(error)).response()
            case RequestValidationError():
                return Problem(400, "invalid_request", _first(error)).response()
            case HTTPException():
                return Problem(
                    error.status_code, _CODES.get(error.status_code, "invalid_request"), str(error.detail)
                ).response()
            case _:  # logged by the server
                return Problem(500, "internal", "The service failed.").response()

    for kind in (Problem, greenroom.GreenroomError, NotSignedIn, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _first(error: RequestValidationError) -> str:
    """Describe what is wrong with a request, without repeating it."""
    found = cast("dict[str, Any]", error.errors()[0])
    if found["type"] == "json_invalid":
        return "The body must be JSON."
    where = ".".join(str(part) for part in found["loc"][1:]) or "body"
    return f"{where}: {found['msg']}"
