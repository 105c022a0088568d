"""The server as an ASGI application: checks before the route of each request, errors and logs after it."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import Message, Receive, Scope, Send

from greenroom.azure.codecs.problems import (
    INTERNAL,
    NOT_SUPPORTED,
    UNAVAILABLE,
    VALIDATION_FAILED,
    BadRequest,
    Problem,
    problem_of,
)
from greenroom.errors import GreenroomError
from greenroom.server.access.keys import Guard, ManagementGuard
from greenroom.server.access.origins import host_name, refuse_browsers, refuse_foreign_origin
from greenroom.server.access.pool_keys import KEY_HEADER, pool_of_key
from greenroom.server.budget import Budget, Share
from greenroom.server.control.plane import ControlPlane
from greenroom.server.observing import end_server_span, metrics_response, refusal_of, server_span
from greenroom.server.registry import PoolRegistry
from greenroom.server.responses import (
    COMMON_HEADERS,
    RequestRefused,
    json_response,
    problem_response,
    unauthorized,
)
from greenroom.server.routes import managers, table
from greenroom.server.routes.arm import ArmRoute, is_management
from greenroom.server.routes.endpoint import Endpoint, send_held
from greenroom.server.routes.forwarding import ForwardRoute
from greenroom.server.routes.table import Operation
from greenroom.server.routes.target import ContractName, find_target
from greenroom.server.settings import ServerSettings
from greenroom.server.state.logs import LogStore
from greenroom.server.transport.access_log import Entry
from greenroom.server.transport.slow_clients import TooSlow, in_pieces, within_time
from greenroom.telemetry import Observer, RequestEnded, both, ignore
from greenroom.telemetry import RequestRefused as RequestRefusedEvent
from greenroom.telemetry.aggregate import Aggregate

if TYPE_CHECKING:
    from greenroom.server.ui.application import Ui

logger = logging.getLogger("greenroom.server")

_HEALTH = {"/healthz", "/readyz"}
_METRICS = "/metrics"
_MCP_PATH = re.compile(r"(?:/subscriptions/[^/]+/resourceGroups/[^/]+/sessionPools/[^/]+)?/mcp/?")
_DOCUMENTATION = "https://learn.microsoft.com/azure/container-apps/sessions"  # of the API
_CLIENT_CLOSED_REQUEST = 499  # only in the log: the client disconnected


@dataclass(frozen=True, slots=True)
class Management:
    """The control plane of a server."""

    plane: ControlPlane
    guard: Guard | None
    """Decides who can use it; `None` accepts every program on this machine, but no web pages."""


class Application:
    """Azure's data plane over local pools, and its control plane."""

    def __init__(
        self,
        pools: PoolRegistry,
        settings: ServerSettings,
        guard: Guard | None,
        observer: Observer = ignore,
        *,
        metrics_guard: Guard | None = None,
        management: Management | None = None,
        ui: Ui | None = None,
        log_store: LogStore | None = None,
    ) -> None:
        """
        Args:
            pools: open pools; the caller closes them.
            settings: the server's settings.
            guard: decides who can use sessions; `None` accepts every program on this machine, but no web pages.
            observer: called at the end of each request, health checks excepted.
            metrics_guard: decides who can read the metrics; by default `guard`.
            management: the control plane and its guard; `None` for a server without one.
            ui: the pages at `/ui`; `None` for a server without them.
            log_store: the logs of the pools; the caller closes it.
        """
        self.pools = pools
        self.public_url = settings.public_url
        self._settings = settings
        self._guard = guard
        self._management = management
        nobody = None if guard is None else ManagementGuard(None, guard)
        self._management_guard = nobody if management is None else management.guard
        self._ui = ui
        self._metrics_guard = metrics_guard or guard
        self._metrics = Aggregate()
        self._observer = both(self._metrics.observe, observer)
        self._log_store = log_store
        if log_store is not None:
            log_store.observer = self._observer
        self.budget = Budget(settings.max_in_flight)
        self._running = 0
        self._draining = False
        self._forward = ForwardRoute(pools, has_ui=ui is not None)
        self._router = Router(self._routes(), redirect_slashes=False)

    async def drain(self, timeout: float) -> None:
        """Refuse new work, wait for running executions, and cancel them after `timeout` seconds."""
        self._draining = True
        await self.pools.drain(timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path in _HEALTH and not _is_ambiguous(scope) and not self._is_forwarded(scope):
            response = await self._health(ready=path == "/readyz")
            await response(scope, receive, send)
            return
        await self._serve(scope, within_time(receive, self._settings.client_timeout), in_pieces(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid.uuid4())
        common = {**COMMON_HEADERS, "x-ms-request-id": request_id}
        entry = Entry(scope["method"], scope["path"], str((scope.get("client") or ["unknown"])[0]))
        entry.note(request_id=request_id, user_agent=Headers(scope=scope).get("user-agent"))
        scope["app"], scope["greenroom.entry"] = self, entry
        status: int | None = None
        is_metrics = scope["path"] == _METRICS and scope["method"] == "GET" and not self._is_forwarded(scope)
        ui = (
            self._ui if self._ui is not None and self._ui.has(scope["path"]) and not self._is_forwarded(scope) else None
        )
        span = server_span(scope)

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                entry.note(status=status)
                headers = MutableHeaders(scope=message)
                for name, value in () if scope.get("greenroom.forwarded") else common.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._admit(scope, entry, is_metrics=is_metrics, ui=ui)
            with self._counted(), Share(self.budget) as scope["greenroom.held"], span.active():
                await (self._show_metrics if is_metrics else ui or self._router)(scope, receive, observed_send)
        except ClientDisconnect:
            entry.note(status=_CLIENT_CLOSED_REQUEST)
        except Exception as error:
            problem, headers = _problem(error)
            if (reason := refusal_of(problem)) is not None:
                self._observer(RequestRefusedEvent(reason))
            entry.note(error=problem.code)
            if problem.status == 500:
                logger.error("request %s failed", request_id, exc_info=error)
            if status is not None:
                raise  # ends the connection, so that the client notices that the response is incomplete
            scope["greenroom.forwarded"] = False
            problem = replace(problem, trace_id=request_id)
            if ui is not None:
                await ui.refusal(problem, headers, scope)(scope, receive, observed_send)
                return
            whole = error if isinstance(error, GreenroomError) and scope.get("greenroom.native") else None
            await problem_response(problem, headers, whole)(scope, receive, observed_send)
        finally:
            entry.write()
            operation = scope.get("greenroom.operation")
            end_server_span(span, operation, status)
            self._observer(RequestEnded(operation, status, entry.duration))

    @contextlib.contextmanager
    def _counted(self) -> Generator[None, None, None]:
        """Count a request that was admitted.

        Raises:
            RequestRefused: too many are running.
        """
        if self._running >= self._settings.max_requests:
            raise RequestRefused(429, "TooManyRequests", "Too many requests are running.", retry_after=1)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _admit(self, scope: Scope, entry: Entry, *, is_metrics: bool, ui: Ui | None) -> None:
        """Check a request before its route does.

        Raises:
            RequestRefused: it is not allowed, or not at the moment.
            BadRequest: its host is not valid, or it has two credentials.
        """
        if _is_ambiguous(scope):
            message = (
                "A request must not have both Content-Length and Transfer-Encoding, nor Transfer-Encoding in HTTP/1.0."
            )
            raise RequestRefused(400, VALIDATION_FAILED, message, headers={"Connection": "close"})
        headers = Headers(scope=scope)
        size = sum(len(name) + len(value) for name, value in headers.raw) + len(scope["query_string"])
        if size > self._settings.max_headers:  # uvicorn limits only incomplete heads
            raise RequestRefused(
                431,
                "RequestHeadersTooLarge",
                f"Headers and query must have at most {self._settings.max_headers} bytes, not {size}.",
            )
        if "host" in headers and not host_name(headers["host"]):
            raise BadRequest(f"The header 'Host' must be a host name, not {headers['host']!r:.100}.")
        if len(headers.getlist("authorization")) > 1:  # a proxy may have checked the other one
            raise BadRequest("A request must have at most one header 'Authorization'.")
        scope["path"] = _encoded_path(scope)  # determines both the guard and the route
        caller = self._caller(scope, headers, is_metrics=is_metrics) if ui is None else ui.admit(scope)
        scope["greenroom.caller"] = await caller
        entry.note(caller=scope["greenroom.caller"])
        if self._draining and not (scope["method"] in {"GET", "DELETE"} and "/executions/" in scope["path"]):
            raise RequestRefused(503, UNAVAILABLE, "The server is shutting down.", retry_after=5)
        if not self._settings.strict and scope["path"] != "/":
            scope["path"] = scope["path"].rstrip("/")

    async def _caller(self, scope: Scope, headers: Headers, *, is_metrics: bool) -> str | None:
        """Return the caller's name; `None` without authentication.

        Raises:
            RequestRefused: the caller is not accepted.
        """
        guard = self._metrics_guard if is_metrics else self._guard
        if managers.has(scope["path"]) or (self._management is not None and is_management(scope["path"])):
            guard = self._management_guard
        if guard is None:
            refuse_browsers(headers, self._settings.allowed_hosts)
            return None
        authorization = headers.get("authorization")
        if _MCP_PATH.fullmatch(scope["path"]) is None or self._is_forwarded(scope):
            return await guard.admit(authorization)
        refuse_foreign_origin(headers, self._settings.allowed_hosts)
        key = headers.get(KEY_HEADER)
        if key is None or authorization is not None:
            return await guard.admit(authorization)
        pool = pool_of_key(key, self.pools)
        if pool is None:
            return await guard.admit(f"Bearer {key}")
        scope["greenroom.only_pool"] = pool
        return f"mcp:{pool.name}"

    def _is_forwarded(self, scope: Scope) -> bool:
        """Whether a path that the server also has belongs to a custom container, as the request names a session."""
        if b"identifier=" not in scope["query_string"]:
            return False
        try:
            return self._forward.find(scope) is not None
        except RequestRefused:  # its pool does not serve; the route reports that to accepted callers
            return False

    async def _show_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the metrics of the server and its pools."""
        scope["greenroom.operation"] = f"GET {_METRICS}"
        accept = Headers(scope=scope).get("accept", "")
        await (await metrics_response(self._metrics, self.pools, accept))(scope, receive, send)

    async def _health(self, *, ready: bool) -> Response:
        if not ready:
            return json_response({"status": "alive"})
        if self._draining:
            return json_response({"status": "shutting down"}, 503)
        try:
            for pool in self.pools:
                await pool.backend.status()
        except GreenroomError:
            return json_response({"status": "a pool does not respond"}, 503)
        return json_response({"status": "ready"})

    def _routes(self) -> Sequence[BaseRoute]:
        operations = [self._route(*each) for each in table.operations(strict=self._settings.strict)]
        endpoint = [
            self._route(method, f"{prefix}/mcp", operation, "mcp")
            for prefix in (table.POOL_PATH, "")
            for method, operation in table.MCP.items()
        ]
        return [
            *([] if self._management is None else [ArmRoute(self._management.plane)]),
            *managers.routes(self.pools, self._log_store),
            self._forward,
            *operations,  # before those with a prefix, which most requests do not have
            *endpoint,
            Mount(f"{table.POOL_PATH}/identifier/{{identifier}}", routes=operations),
            Mount(table.POOL_PATH, routes=operations),
            Mount("/identifier/{identifier}", routes=operations),
            *([] if self._settings.strict else [Route("/", _introduce, methods=["GET"])]),
        ]

    def _route(self, method: str, path: str, operation: Operation, contract: ContractName | None) -> Route:
        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            scope["greenroom.operation"] = f"{method} {path.removeprefix(table.POOL_PATH)}".replace(":path", "")
            scope["path_params"] = {name: unquote(value) for name, value in scope["path_params"].items()}
            scope["greenroom.native"] = contract == "greenroom"
            request = Request(scope, receive, send)
            target = find_target(request, self.pools, self._settings, contract)
            if scope.get("greenroom.only_pool", target.pool) is not target.pool:
                raise unauthorized("The key must be this pool's.")
            entry: Entry = scope["greenroom.entry"]
            entry.note(pool=target.pool.name, identifier=target.session, api_version=target.version)
            with target.pool.in_use():
                response = await operation(request, target)
                await send_held(response, scope, receive, send)

        return Route(path, Endpoint(respond), methods=[method])


async def _introduce(_: Request) -> Response:
    """Answer requests for `/`, which Azure does not have but many people try first."""
    return json_response({"name": "greenroom", "version": version("greenroom"), "documentation": _DOCUMENTATION})


def _encoded_path(scope: Scope) -> str:
    """Return the encoded path for the routes: decoded, `a%2Fb` would become two segments."""
    segments = scope["raw_path"].split(b"/")
    return "/".join(quote(unquote_to_bytes(segment).decode("utf-8", "replace"), safe="") for segment in segments)


def _is_ambiguous(scope: Scope) -> bool:
    """Whether a proxy could see the end of the request elsewhere and so pass on a hidden request (smuggling)."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers and ("content-length" in headers or scope.get("http_version") == "1.0")


def _problem(error: Exception) -> tuple[Problem, Mapping[str, str]]:
    match error:
        case RequestRefused():
            return error.problem, error.headers
        case GreenroomError():
            problem = problem_of(error)
            return problem, {"Connection": "close"} if problem.status == 413 else {}
        case TooSlow():
            message = "The request's body must arrive in time."
            return Problem(408, "RequestTimeout", message), {"Connection": "close"}
        case HTTPException():  # from Starlette: no route matches
            message = "The path and the method must be those of an operation."
            return Problem(400, NOT_SUPPORTED, message), {}
        case _:
            return Problem(500, INTERNAL, "The server failed. Its log has the details."), {}
