"""A server that answers as Azure Resource Manager does for session pools, in shapes recorded from it, at real sockets.

It keeps what it is given and runs nothing. A test can have a request answered by something else.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qs, unquote, urlsplit

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.App/sessionPools"
TOKEN = "the-secret-token"

_POOL = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)(/resourceGroups/(?P<group>[^/]+))?"
    r"/providers/Microsoft\.App/sessionPools(/(?P<name>[^/]+))?",
    re.IGNORECASE,
)
_OPERATION = re.compile(r"/subscriptions/[^/]+/providers/Microsoft\.App/locations/[^/]+/(?P<kind>\w+)/(?P<number>\d+)")

Object: TypeAlias = dict[str, Any]
Answer: TypeAlias = tuple[int, dict[str, str], Any]
"""Status, headers and body: JSON, bytes, or `None` for none."""


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    """By name in lower case."""
    body: Any

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def token(self) -> str | None:
        value = self.headers.get("authorization")
        return None if value is None else value.removeprefix("Bearer ")


@dataclass
class Arm:
    """The state of the server."""

    url: str = ""
    follow: str = "Azure-AsyncOperation"
    """The header that names an operation; empty for none, so that the state of the pool tells."""
    questions: int = 2
    """How often an operation has not ended yet."""
    retry_after: str | None = "0"
    page: int = 100
    """Pools of one page of a list."""
    failure: Object | None = None
    """The error with which operations end."""
    endpoint: str = "https://eastasia.dynamicsessions.io/subscriptions/s/resourceGroups/rg/sessionPools/{name}"
    token: str | None = None
    """The token that callers need."""
    seen: list[Seen] = field(default_factory=list[Seen])
    answers: list[Callable[[Seen], Answer | None]] = field(default_factory=list[Callable[[Seen], "Answer | None"]])
    """Asked in turn before the server's own answer."""
    pools: dict[tuple[str, str], Object] = field(default_factory=dict[tuple[str, str], Object])
    _left: list[int] = field(default_factory=list[int])
    """By operation: how often it has not ended yet."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def calls(self) -> list[str]:
        return [f"{each.method} {each.path}" for each in self.seen]

    def body_of(self, method: str) -> Any:
        """The body of the only request of a method."""
        (body,) = [each.body for each in self.seen if each.method == method]
        return body

    def add(self, name: str, group: str = "rg", **properties: Any) -> Object:
        """Have a pool that is ready."""
        return self._put(SUBSCRIPTION, group, name, {"location": "eastasia", "properties": properties})

    def answer(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            for answer in self.answers:
                if (given := answer(seen)) is not None:
                    return given
            if self.token is not None and seen.token != self.token:
                return refused(401, "InvalidAuthenticationToken", "The access token is invalid.")
            if (operation := _OPERATION.fullmatch(seen.path)) is not None:
                return self._asked(operation["kind"], int(operation["number"]))
            if "api-version" not in parse_qs(urlsplit(seen.target).query):
                return refused(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
            match = _POOL.fullmatch(seen.path)
            if match is None:
                return refused(404, "InvalidResourceType", "The resource type could not be found.")
            return self._of_pools(seen, **match.groupdict())

    def _of_pools(self, seen: Seen, subscription: str, group: str | None, name: str | None) -> Answer:
        if name is None or group is None:
            return self._list(seen, group)
        key = group.lower(), name.lower()
        pool = self.pools.get(key)
        match seen.method:
            case "PUT":
                is_new = pool is None
                pool = self._put(subscription, group, name, seen.body)
                return self._begun(201 if is_new else 200, pool)
            case "DELETE" if pool is None:
                return 204, {}, None
            case _ if pool is None:
                what = f"The Resource 'Microsoft.App/sessionPools/{name}' under resource group '{group}' was not found."
                return refused(404, "ResourceNotFound", what)
            case "GET":
                if not self.follow and self._left and self._left[-1] > 0:  # the state of the pool tells
                    self._left[-1] -= 1
                    return 200, {}, pool
                pool["properties"]["provisioningState"] = "Failed" if self.failure else "Succeeded"
                return 200, {}, pool
            case "PATCH":
                _merge(pool, seen.body)
                return self._begun(202, pool)
            case "DELETE":
                del self.pools[key]
                return self._begun(202, None)
            case _:
                return refused(405, "MethodNotAllowed", "The method is not allowed.")

    def _put(self, subscription: str, group: str, name: str, body: Object) -> Object:
        path = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.App/sessionPools/{name}"
        pool: Object = {"id": path, "name": name, "type": "Microsoft.App/sessionPools", **json.loads(json.dumps(body))}
        properties = pool["properties"]
        properties |= {
            "provisioningState": "InProgress",
            "poolManagementEndpoint": self.endpoint.format(name=name),
            "nodeCount": 0,
        }
        for secret in properties.get("secrets", []):
            secret.pop("value", None)
        self.pools[group.lower(), name.lower()] = pool
        return pool

    def _begun(self, status: int, body: Any) -> Answer:
        self._left.append(self.questions)
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        if self.follow:
            kind = "results" if self.follow == "Location" else "statuses"
            place = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.App/locations/eastasia/{kind}"
            number = len(self._left) - 1
            headers[self.follow] = f"{self.url}{place}/{number}?api-version=2026-07-01&t=6384%2B1&c=a%20b"
            if self.follow == "Location" and status == 201:
                status = 202
        return status, headers, body

    def _asked(self, kind: str, number: int) -> Answer:
        self._left[number] -= 1
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        running = self._left[number] >= 0
        if kind == "results":
            return (202, {**headers, "Location": "unused"}, None) if running else (200, {}, None)
        status: Object = {"id": f"…/{number}", "name": str(number), "status": "InProgress"}
        if not running:
            status |= {"status": "Failed", "error": self.failure} if self.failure else {"status": "Succeeded"}
        return 200, headers if running else {}, status

    def _list(self, seen: Seen, group: str | None) -> Answer:
        pools = [pool for (of, _), pool in sorted(self.pools.items()) if group is None or of == group.lower()]
        start = int(parse_qs(urlsplit(seen.target).query).get("$skiptoken", ["0"])[0])
        body: Object = {"value": pools[start : start + self.page]}
        if start + self.page < len(pools):
            query = f"api-version=2026-07-01&%24skiptoken={start + self.page}"
            body["nextLink"] = f"{self.url}{urlsplit(seen.target).path}?{query}"
        return 200, {}, body


def refused(status: int, code: str, message: str, **headers: str) -> Answer:
    """An error in ARM's form."""
    return status, {"x-ms-request-id": "request-1", **headers}, {"error": {"code": code, "message": message}}


def to(method: str, answer: Answer, *, times: int = 1, path: str = "") -> Callable[[Seen], Answer | None]:
    """Answer so many requests of a method, whose path has that in it, with the same."""
    left = [times]

    def answered(seen: Seen) -> Answer | None:
        if seen.method != method or path not in seen.path or not left[0]:
            return None
        left[0] -= 1
        return answer

    return answered


@contextmanager
def serving_arm(*, certificate: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Generator[Arm, None, None]:
    """Answer until the end of the block."""
    arm = Arm()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def handle_any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, self.path, headers, json.loads(content) if content else None)
            status, given, body = arm.answer(seen)
            encoded = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json; charset=utf-8", **given}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    for method in ("GET", "PUT", "PATCH", "DELETE", "POST"):
        setattr(Handler, f"do_{method}", Handler.handle_any)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client may go whenever it likes."""

    with Server((host, 0), Handler) as server:
        if certificate is not None:
            server.socket = certificate.wrap_socket(server.socket, server_side=True)
        arm.url = f"{'http' if certificate is None else 'https'}://{host}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield arm
        finally:
            server.shutdown()
            thread.join()


def _merge(into: Object, changed: Object) -> None:
    for name, value in changed.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], cast("Object", value))
        else:
            into[name] = value
