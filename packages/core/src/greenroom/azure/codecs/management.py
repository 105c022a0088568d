"""Responses of Azure Resource Manager: resources, pages of resources, long-running operations, and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from greenroom.azure.codecs.problems import Problem
from greenroom.azure.codecs.shared import Json, Malformed, fields_of, mapping, sequence, text
from greenroom.errors import AccessDenied, AzureDetails, GreenroomError, InvalidRequest, ServiceFailed

API_VERSION = "2026-07-01"
SCOPE = "https://management.azure.com/.default"
AZURE = "https://management.azure.com"

NOT_FOUND = "ResourceNotFound"

MAX_URL = 8 << 10
"""The maximum length of a URL in a response; Azure's can have 4,096 characters."""

_TERMINAL = frozenset({"succeeded", "failed", "canceled", "cancelled"})
_MAX_WAIT = 60.0


class Follow(StrEnum):
    """How to poll an operation, by the header that contains its URL."""

    STATUS = "azure-asyncoperation"
    """The URL returns an object with a `status`."""
    LOCATION = "location"
    """The URL returns 202 until the operation has ended."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that may not have ended."""

    follow: Follow
    url: str


def operation_of(status: int, headers: Mapping[str, str]) -> Operation | None:
    """Return the operation that a request started, if its response has one."""
    if url := headers.get(Follow.STATUS):
        return Operation(Follow.STATUS, url)
    if status == 202 and (url := headers.get(Follow.LOCATION)):
        return Operation(Follow.LOCATION, url)
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds before the next poll, at most a minute."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(max(seconds, 0.0), _MAX_WAIT) if math.isfinite(seconds) else None


def decode_status(body: Json) -> tuple[str, Problem | None]:
    """Read an operation's status: `InProgress`, `Succeeded`, …, and why it failed.

    Raises:
        Malformed: the body has another form.
    """
    fields = mapping(body)
    status = text(fields.get("status"))
    if not status:
        raise Malformed("an operation must have a status")
    error = fields_of(fields.get("error"))
    problem = Problem(200, text(error.get("code"))[:200], text(error.get("message"))[:4000]) if error else None
    return status[:100], problem


def decode_resource(body: Json) -> dict[str, Json]:
    """Read a pool; an empty body is an empty resource.

    Raises:
        Malformed: the body has another form.
    """
    return {} if body is None else dict(mapping(body))


def decode_page(body: Json) -> tuple[list[dict[str, Json]], str | None]:
    """Read a page of a list, and the link to the next one.

    Raises:
        Malformed: the body has another form.
    """
    fields = mapping(body)
    link = fields.get("nextLink")
    if link is not None and not isinstance(link, str):
        raise Malformed("the nextLink of a list must be a URL")
    return [dict(mapping(resource)) for resource in sequence(fields.get("value"))], link or None


def state_of(resource: Mapping[str, Json]) -> str:
    """Return a resource's `provisioningState`; without one, the resource exists, so `Succeeded`."""
    return text(fields_of(resource.get("properties")).get("provisioningState"))[:100] or "Succeeded"


def has_ended(state: str) -> bool:
    """Whether a `status` or a `provisioningState` is final."""
    return state.lower() in _TERMINAL


def has_succeeded(state: str) -> bool:
    return state.lower() == "succeeded"


def within(server: str, link: str) -> str | None:
    """Return the path and query of a URL in a response, if it leads to the same server, else `None`.

    Args:
        server: the server's URL; its scheme, host and port are compared.
        link: an absolute URL, or a path on the server.
    """
    if len(link) > MAX_URL or not link.isprintable() or not link.isascii() or " " in link:
        return None
    try:
        address, own = urlsplit(link), urlsplit(server)
        if address.username is not None:
            return None
        same = (address.hostname, _port(address.scheme, address.port)) == (own.hostname, _port(own.scheme, own.port))
    except ValueError:
        return None
    if address.scheme or address.netloc:
        if address.scheme != own.scheme or not same:
            return None
    elif not link.startswith("/"):
        return None
    return address._replace(scheme="", netloc="", fragment="").geturl().lstrip("/")


def _port(scheme: str, port: int | None) -> int | None:
    return port or {"http": 80, "https": 443}.get(scheme)


_NOT_ALLOWED = (
    "The identity must be allowed to manage pools. In Azure it needs a role such as Contributor on the resource group; "
    "a server of 'greenroom serve' takes GREENROOM_MANAGEMENT_KEY."
)
_NOT_ACCEPTED = (
    "The credentials were not accepted. In Azure, log in with 'az login', to the tenant of the subscription; a server "
    "of 'greenroom serve' takes GREENROOM_MANAGEMENT_KEY."
)


def management_error(problem: Problem, *, path: str | None = None) -> GreenroomError:
    """Return the exception for an error response of Resource Manager."""
    del path  # Resource Manager has no files
    error = _error(problem)
    error.azure = AzureDetails(problem.status, problem.code, problem.message, problem.trace_id, problem.request_id)
    return error


def failed_operation(status: str, problem: Problem | None) -> GreenroomError:
    """Return the exception for an operation that ended without success."""
    reason = f": {_describe(problem)}" if problem is not None else ". The response has no reason."
    error = ServiceFailed(f"The operation ended as {status}{reason}")
    if problem is not None:
        error.azure = AzureDetails(problem.status, problem.code, problem.message)
    return error


def _error(problem: Problem) -> GreenroomError:
    message = _describe(problem)
    match problem.status:
        case 401:
            return AccessDenied(f"{_NOT_ACCEPTED} {message}")
        case 403:
            return AccessDenied(f"{_NOT_ALLOWED} {message}")
        case 400 | 404 | 405 | 409 | 412 | 413 | 422:
            return InvalidRequest(message)
        case 429:
            wait = f" Try again in {problem.retry_after:g} seconds." if problem.retry_after else " Try again later."
            return ServiceFailed(f"There were too many requests.{wait} {message}")
        case _:
            return ServiceFailed(f"The service failed. {message}")


def _describe(problem: Problem) -> str:
    """Return the error as text, with the ids that Azure's support needs."""
    ids = [
        f"HTTP {problem.status}" if problem.status >= 400 else "",
        problem.code,
        problem.request_id and f"request {problem.request_id}",
    ]
    described = ", ".join(filter(None, ids))
    return f"{problem.message or 'The response has no message.'}{f' ({described})' if described else ''}"
