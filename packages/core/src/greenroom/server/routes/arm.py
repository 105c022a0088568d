"""Azure Resource Manager's operations on session pools, as its released clients expect them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from greenroom.arm.errors import ArmError
from greenroom.arm.ids import PoolId, check_group, check_subscription
from greenroom.arm.resources import Facts, encode_resource
from greenroom.arm.versions import API_VERSIONS, check_version
from greenroom.azure.codecs.problems import BadRequest
from greenroom.azure.codecs.shared import Json
from greenroom.config.nodes import InvalidProperty
from greenroom.errors import InvalidRequest
from greenroom.server.control.operations import Operation
from greenroom.server.control.plane import Accepted, ControlPlane, ManagedPool, not_found
from greenroom.server.responses import RequestRefused, json_response
from greenroom.server.routes.bodies import read_json
from greenroom.server.routes.target import parse_query, url_of
from greenroom.server.state.file import StateNotWritten
from greenroom.server.transport.access_log import Entry

LOCATION = "local"
"""The location in the URLs of operations."""

_PAGE = 100
_MOST_BODY = 1 << 20
_ANY = re.compile(r"/subscriptions/[^/]+(?:/resourceGroups/[^/]+)?/providers(?=/|$)", re.IGNORECASE)
_POOLS = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)(?:/resourceGroups/(?P<group>[^/]+))?"
    r"/providers/Microsoft\.App/sessionPools/?",
    re.IGNORECASE,
)
_POOL = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.App/sessionPools/(?P<name>[^/]+)/?",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(rf"{_POOL.pattern.removesuffix('/?')}/fetchMCPServerCredentials/?", re.IGNORECASE)
_OPERATION = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/providers/Microsoft\.App/locations/[^/]+/operationStatuses/(?P<id>[^/]+)/?",
    re.IGNORECASE,
)
_POLL: Mapping[str, str] = {"Retry-After": "1", "x-ms-retry-after-ms": "250"}
"""When to poll an operation again. Azure's clients prefer the second header, which is in milliseconds."""
_MOST_WARNINGS = 10
_MOST_WARNING = 500  # characters


def is_management(path: str) -> bool:
    """Whether a path is one of Azure Resource Manager's, which requires the right to manage."""
    return _ANY.match(path) is not None


class ArmRoute(BaseRoute):
    """Matches every path of Azure Resource Manager, of which only session pools are supported."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = scope["type"] == "http" and is_management(scope["path"])
        return (Match.FULL, {}) if found else (Match.NONE, {})

    def url_path_for(self, name: str, /, **path_params: object) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError(name)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self._respond(request)
        except ArmError as error:
            raise RequestRefused(400, error.code, str(error), target=error.target) from error
        except InvalidProperty as error:
            raise RequestRefused(400, "InvalidRequestContent", str(error), target=error.target) from error
        except BadRequest as error:
            raise RequestRefused(400, "InvalidRequestContent", str(error), target=error.target) from error
        except InvalidRequest as error:
            raise RequestRefused(400, "InvalidRequestContent", str(error)) from error
        except StateNotWritten as error:
            raise RequestRefused(507, "StateNotWritten", f"{error} Nothing was changed.") from error
        response.headers["api-supported-versions"] = ", ".join(API_VERSIONS)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = request.scope["path"]
        query = parse_query(request)
        if match := _POOL.fullmatch(path):
            version = check_version(query.get("api-version"))
            return await self._pool(request, PoolId(*map(unquote, match.groups())).checked(), version)
        if match := _CREDENTIALS.fullmatch(path):
            check_version(query.get("api-version"))
            return self._credentials(request, PoolId(*map(unquote, match.groups())).checked())
        if match := _POOLS.fullmatch(path):
            _allow(request, "GET")
            _note(request, "sessionPools")
            subscription, group = (None if part is None else unquote(part) for part in match.groups())
            return self._list(request, subscription or "", group, check_version(query.get("api-version")), query)
        if match := _OPERATION.fullmatch(path):
            _allow(request, "GET")
            _note(request, "operationStatuses/{id}")
            check_version(query.get("api-version"))
            return self._operation(unquote(match["subscription"]), unquote(match["id"]))
        raise RequestRefused(
            404,
            "InvalidResourceType",
            "The resource type must be Microsoft.App/sessionPools, and the operation a supported one.",
        )

    async def _pool(self, request: Request, pool: PoolId, version: str) -> Response:
        _allow(request, "GET", "PUT", "PATCH", "DELETE")
        _note(request, "sessionPools/{name}", pool.name)
        caller: str | None = request.scope.get("greenroom.caller")
        match request.method:
            case "GET":
                found = self._plane.get(pool)
                if found is None:
                    raise not_found(pool)
                return json_response(_encode(request, found, version))
            case "PUT":
                accepted = await self._plane.put(pool, await _read(request), caller)
                return _accepted(request, accepted, version, 201 if accepted.created else 200)
            case "PATCH":
                accepted = await self._plane.patch(pool, await _read(request), caller)
                return _accepted(request, accepted, version, 202)
            case _:
                accepted = await self._plane.delete(pool)
                if accepted is None:
                    return Response(status_code=204)
                return Response(status_code=202, headers=_headers(request, accepted, version))

    def _credentials(self, request: Request, pool: PoolId) -> Response:
        _allow(request, "POST")
        _note(request, "sessionPools/{name}/fetchMCPServerCredentials", pool.name)
        found = self._plane.get(pool)
        if found is None:
            raise not_found(pool)
        if found.served is None:
            raise RequestRefused(
                503, "SessionPoolNotReady", f"The session pool {pool.name!r} is not serving at the moment."
            )
        if not found.shown.has_mcp_key:
            raise RequestRefused(
                409,
                "McpServerApiKeyDisabled",
                f"The session pool {pool.name!r} has mcpServerApiKeyDisabled: use a key or a token of the server.",
            )
        return json_response({"apiKey": found.served.mcp_key}, headers={"Cache-Control": "no-store"})

    def _list(
        self, request: Request, subscription: str, group: str | None, version: str, query: Mapping[str, str]
    ) -> Response:
        check_subscription(subscription)
        if group is not None:
            check_group(group)
        after = tuple(query.get("$skiptoken", "/").casefold().split("/", 1))
        pools = [pool for pool in self._plane.pools(subscription, group) if pool.id.key[1:] > after]
        page = pools[:_PAGE]
        body: dict[str, Json] = {"value": [_encode(request, pool, version) for pool in page]}
        if len(pools) > len(page):
            token = quote("/".join(page[-1].id.key[1:]), safe="")
            body["nextLink"] = f"{_base(request)}{_path(request)}?api-version={version}&$skiptoken={token}"
        return json_response(body)

    def _operation(self, subscription: str, id: str) -> Response:  # noqa: A002  ARM's own word
        operation = self._plane.operations.find(subscription, id)
        if operation is None:
            message = f"The operation {id!r:.100} must be a recent operation of this server in this subscription."
            raise RequestRefused(404, "OperationNotFound", message)
        return json_response(operation.to_json(), headers=_POLL if operation.ended is None else {})


async def _read(request: Request) -> Json:
    return await read_json(request, request.scope["greenroom.held"], _MOST_BODY)


def _accepted(request: Request, accepted: Accepted, version: str, status: int) -> Response:
    body = _encode(request, accepted.pool, version)
    return json_response(body, status, _headers(request, accepted, version))


def _headers(request: Request, accepted: Accepted, version: str) -> dict[str, str]:
    url = _operation_url(request, accepted.operation, version)
    warnings = [f"299 greenroom {quoted(text)}" for text in accepted.warnings[:_MOST_WARNINGS]]
    return {
        "Azure-AsyncOperation": url,
        **_POLL,
        **({"Warning": ", ".join(warnings)} if warnings else {}),
    }


def quoted(text: str) -> str:
    """Return a text in ASCII and quotes, as RFC 9111 requires for a warning, shortened with three dots."""
    return json.dumps(text if len(text) <= _MOST_WARNING else f"{text[:_MOST_WARNING]}...")


def _operation_url(request: Request, operation: Operation, version: str) -> str:
    place = f"/subscriptions/{operation.pool.subscription}/providers/Microsoft.App/locations/{LOCATION}"
    return f"{_base(request)}{place}/operationStatuses/{operation.id}?api-version={version}"


def _encode(request: Request, pool: ManagedPool, version: str) -> dict[str, Json]:
    endpoint = f"{_base(request)}{pool.id.sessions_path}"
    return encode_resource(pool.id, pool.shown, Facts(pool.state, endpoint, pool.error, pool.system_data), version)


def _base(request: Request) -> str:
    """Return the URL by which the caller reached the server."""
    url = url_of(request)
    return f"{url.scheme}://{url.netloc}"


def _path(request: Request) -> str:
    return request.scope["raw_path"].decode("latin-1")


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise RequestRefused(
            405,
            "MethodNotAllowed",
            f"The method must be {' or '.join(methods)} here, not {request.method!r:.50}.",
            headers={"Allow": ", ".join(methods)},
        )


def _note(request: Request, operation: str, pool: str | None = None) -> None:
    entry: Entry = request.scope["greenroom.entry"]
    entry.note(pool=pool, api_version=request.query_params.get("api-version"))
    request.scope["greenroom.operation"] = f"{request.method} {operation}"
