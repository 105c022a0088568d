"""Observability of the server: metrics, spans of requests, and reasons for refusals."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from greenroom.azure.codecs.problems import POOL_FULL, Problem
from greenroom.errors import GreenroomError
from greenroom.server.registry import ServedPool
from greenroom.telemetry import RequestRefusal, tracing
from greenroom.telemetry.aggregate import Aggregate
from greenroom.telemetry.prometheus import PoolReading, exposition

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

_REFUSALS = {
    400: RequestRefusal.INVALID,
    401: RequestRefusal.UNAUTHENTICATED,
    403: RequestRefusal.FORBIDDEN,
    404: RequestRefusal.NOT_FOUND,
    408: RequestRefusal.TOO_SLOW,
    409: RequestRefusal.CONFLICT,
    413: RequestRefusal.TOO_LARGE,
    429: RequestRefusal.TOO_MANY,
    431: RequestRefusal.TOO_LARGE,
    503: RequestRefusal.UNAVAILABLE,
}


def refusal_of(problem: Problem) -> RequestRefusal | None:
    """Return why a request was refused; `None` if it failed for another reason."""
    if problem.code == POOL_FULL:
        return RequestRefusal.POOL_FULL
    return _REFUSALS.get(problem.status)


async def metrics_response(server: Aggregate, pools: Iterable[ServedPool], accept: str) -> Response:
    """Return the metrics, in the format of Prometheus that `accept` prefers."""
    content_type, text = exposition(server, [await _reading(pool) for pool in pools], accept)
    return Response(text, headers={"content-type": content_type})


async def _reading(pool: ServedPool) -> PoolReading:
    try:
        return PoolReading(pool.signal_name, pool.metrics, await pool.backend.status(), await pool.backend.pool_usage())
    except GreenroomError:  # it does not respond, or reports no usage
        return PoolReading(pool.signal_name, pool.metrics)


def server_span(scope: Scope) -> tracing.Span:
    """Start the span of a request, below that of its `traceparent`.

    Unlike in OpenTelemetry's HTTP conventions, it has no path and no query: both can contain file names.
    """
    headers = Headers(scope=scope)
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    server, client = scope.get("server") or (None, None), scope.get("client") or (None, None)
    attributes: dict[str, tracing.Value | None] = {
        "http.request.method": method,
        "url.scheme": scope.get("scheme"),
        "server.address": server[0],
        "server.port": server[1],
        "client.address": client[0],
        "user_agent.original": headers.get("user-agent"),
    }
    return tracing.start(method, attributes, kind="server", headers=headers)


def end_server_span(span: tracing.Span, operation: str | None, status: int | None) -> None:
    """End the span of a request, with its route."""
    if not span:
        span.end()
        return
    if operation is not None:
        span.rename(operation)
        span.set({"http.route": operation.partition(" ")[2]})
    span.set({"http.response.status_code": status})
    if status is None:
        span.fail("ClientDisconnect")
    elif status >= 500:  # client errors are not errors of the server
        span.fail(str(status))
    span.end()
