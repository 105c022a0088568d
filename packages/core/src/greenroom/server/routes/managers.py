"""Routes for the whole server, in addition to Azure Resource Manager's; they require the right to manage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from greenroom.server.registry import PoolRegistry
from greenroom.server.routes import logs, watching
from greenroom.server.routes.endpoint import Endpoint, send_held
from greenroom.server.state.logs import LogStore
from greenroom.wire.logs import PATH as LOGS_PATH
from greenroom.wire.usage import POOLS_PATH, USAGE_PATH

_PATHS = frozenset({LOGS_PATH, POOLS_PATH, USAGE_PATH})


def has(path: str) -> bool:
    """Whether a path is one of these, before a trailing slash is removed."""
    return path.rstrip("/") in _PATHS


def routes(pools: PoolRegistry, store: LogStore | None) -> Sequence[BaseRoute]:
    """Return the routes for all pools; without a store, there is no log."""
    found = [
        _route(USAGE_PATH, lambda request: watching.get_usage_report(request, pools, store)),
        _route(POOLS_PATH, lambda request: watching.get_pools(request, pools)),
    ]
    if store is not None:
        found.append(_route(LOGS_PATH, lambda request: logs.get_logs(request, store)))
    return found


def _route(path: str, operation: Callable[[Request], Awaitable[Response]]) -> Route:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        scope["greenroom.operation"] = f"GET {path}"
        await send_held(await operation(Request(scope, receive)), scope, receive, send)

    return Route(path, Endpoint(respond), methods=["GET"])
