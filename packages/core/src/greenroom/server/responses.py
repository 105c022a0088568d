"""Responses, and the exception that becomes an error response."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from greenroom.azure.codecs.problems import UNAVAILABLE, Problem, encode_problem
from greenroom.azure.codecs.shared import API_VERSIONS, Json
from greenroom.errors import GreenroomError
from greenroom.wire.problems import ERROR_KEY, encode_error

COMMON_HEADERS: Mapping[str, str] = {
    "api-supported-versions": ", ".join(API_VERSIONS),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",  # browsers must not guess the type of content from a sandbox
}

CLOSE: Mapping[str, str] = {"Connection": "close"}
"""For responses to requests whose body was not read completely."""


class RequestRefused(Exception):
    """A request is not carried out, for a reason that is not a `GreenroomError`."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(status, code, message, target, retry_after=retry_after)
        self.headers = dict(headers or {})


def unauthorized(message: str) -> RequestRefused:
    return RequestRefused(401, "Unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


def too_large(message: str) -> RequestRefused:
    return RequestRefused(413, "RequestTooLarge", message, headers=CLOSE)


def no_room(message: str, headers: Mapping[str, str] | None = None) -> RequestRefused:
    """Return the error that the server's memory for requests is full at the moment."""
    return RequestRefused(503, UNAVAILABLE, message, retry_after=1, headers=headers)


def json_response(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return Response(content, status, headers, "application/json; charset=utf-8")


def problem_response(problem: Problem, headers: Mapping[str, str], whole: GreenroomError | None = None) -> Response:
    """Return an error response; `whole` is the exception, for a client that gets all its fields."""
    problem_headers, body = encode_problem(problem)
    if whole is not None:
        body[ERROR_KEY] = encode_error(whole)
    return json_response(body, problem.status, {**headers, **problem_headers})
