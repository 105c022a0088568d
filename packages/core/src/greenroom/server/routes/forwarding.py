"""Requests to custom containers, streamed unchanged in both directions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from greenroom.arm.ids import PoolId
from greenroom.azure.codecs.problems import IDENTIFIER_LENGTH, BadRequest
from greenroom.backend import HttpRequest, HttpResponse, RawHeaders
from greenroom.errors import ServiceFailed
from greenroom.local.container_pool import ContainerPool
from greenroom.local.exchange import end_to_end, upgrade_of
from greenroom.server.access.origins import SIGN_IN_COOKIE, refuse_service_worker
from greenroom.server.registry import PoolRegistry, ServedPool
from greenroom.server.responses import RequestRefused
from greenroom.server.transport.access_log import Entry
from greenroom.server.transport.slow_clients import TakeOver
from greenroom.sessions.rules import check_identifier

_POOL = re.compile(r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/sessionPools/([^/]+)(?=/|$)")
_RAW_POOL = re.compile(rb"/subscriptions/[^/]+/resourceGroups/[^/]+/sessionPools/[^/]+(?=/|$)")
_MANAGEMENT = "/.management/"
_MCP = "/mcp"
_MOST_FIELDS = 1000
_CLIENT_TIMEOUT = 60.0
"""Seconds for which a client may receive nothing on a connection that has switched protocols."""
_MOST_WAITING = 2  # messages of a request's body
_SHORTEST, _LONGEST = 4, 128


class ForwardRoute(BaseRoute):
    """Matches every path of a pool of custom containers except its management paths, and no path of other pools."""

    def __init__(self, pools: PoolRegistry, *, has_ui: bool = False) -> None:
        """
        Args:
            pools: the server's pools.
            has_ui: whether the server has pages at `/ui`.
        """
        self._pools = pools
        self._has_ui = has_ui

    def find(self, scope: Scope) -> ServedPool | None:
        """Return the pool whose container the request is for.

        Raises:
            RequestRefused: the pool does not serve at the moment.
        """
        match = _POOL.match(scope["path"])
        pool = self._pools.find(PoolId(*map(unquote, match.groups())) if match else None)
        rest = scope["path"][match.end() if match else 0 :]
        if pool is None or not isinstance(pool.backend, ContainerPool) or rest.startswith(_MANAGEMENT):
            return None
        if rest == _MCP and b"identifier=" not in scope["query_string"]:  # not for a container: the server's own error
            return None
        return pool

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        pool = self.find(scope) if scope["type"] == "http" else None
        return (Match.NONE, {}) if pool is None else (Match.FULL, {"greenroom.pool": pool})

    def url_path_for(self, name: str, /, **path_params: object) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError(name)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        pool: ServedPool = scope["greenroom.pool"]
        scope["greenroom.operation"] = "forward"
        if self._has_ui:
            refuse_service_worker(Headers(scope=scope), scope["raw_path"].decode("latin-1"))
        identifier = _identifier(scope)
        entry: Entry = scope["greenroom.entry"]
        entry.note(pool=pool.name, identifier=identifier)
        assert isinstance(pool.backend, ContainerPool)  # noqa: S101  `find` has checked it
        body = _Body(receive, Headers(scope=scope))
        request = HttpRequest(
            scope["method"],
            _target(scope),
            _without_credentials(scope, kept=pool.backend.forward_authorization),
            body.content,
        )
        with pool.in_use():
            try:
                await body.unless_disconnected(
                    _forward(scope, send, body, pool.backend.request(identifier, request, timeout=None))
                )
            except ServiceFailed as error:
                raise RequestRefused(502, "SessionRequestFailed", str(error)) from error


class _Body:
    """The body of a request and the end of its connection.

    Messages are received as they arrive, so that the end is noticed even if the body is not read; only a few are
    buffered.
    """

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._room = asyncio.Semaphore(_MOST_WAITING)
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._watching: asyncio.Task[None] | None = None
        empty = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        self.content: bytes | AsyncGenerator[bytes, None] = b"" if empty else self._pieces()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while True:
            message = await self._messages.get()
            self._room.release()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return

    async def _watch(self) -> None:
        """Receive until the client has disconnected."""
        ended = False
        while True:
            if not ended:
                await self._room.acquire()
            message = await self._receive()
            ended = ended or not message.get("more_body", False)
            self._messages.put_nowait(message)
            if message["type"] == "http.disconnect":
                return

    def stop_watching(self) -> None:
        """Hand the connection over to another reader."""
        if self._watching is not None:
            self._watching.cancel()

    async def unless_disconnected(self, work: Coroutine[Any, Any, None]) -> None:
        """Await the work, and cancel it if the client disconnects."""
        working = asyncio.create_task(work)
        self._watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait([working, self._watching], return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and not self._watching.cancelled():
                raise ClientDisconnect
            await working
        finally:
            for task in (working, self._watching):
                task.cancel()
            await asyncio.wait([working, self._watching])


async def _forward(scope: Scope, send: Send, body: _Body, sending: AbstractAsyncContextManager[HttpResponse]) -> None:
    async with sending as response:
        if response.upgraded is not None:
            body.stop_watching()
            await _switch(scope, response)
            return
        scope["greenroom.forwarded"] = True
        await _respond(response, send)


async def _respond(response: HttpResponse, send: Send) -> None:
    if not 200 <= response.status <= 599:
        raise ServiceFailed(f"The container sent a status that HTTP does not define: {response.status}.")
    # The server sets the date.
    # The second marks the service's own errors for clients; the third would give a script access to the whole server.
    left_out = {b"date", b"x-ms-error-code", b"service-worker-allowed"}
    if any(name.lower() == b"transfer-encoding" for name, _ in response.headers):
        left_out.add(b"content-length")  # ignored if Transfer-Encoding is present
    headers = [
        (name.lower(), value)
        for name, value in end_to_end(response.headers)
        if name.lower() not in left_out and not (name.lower() == b"set-cookie" and _is_sign_in(value))
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async for piece in response.content:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _switch(scope: Scope, response: HttpResponse) -> None:
    """Take over the client's connection, and pass bytes in both directions until one of them ends."""
    take_over: TakeOver | None = scope.get("greenroom.take_over")
    container, protocol = response.upgraded, upgrade_of(response.headers)
    if take_over is None or container is None or protocol is None:
        raise RequestRefused(502, "SessionRequestFailed", "The connection cannot switch to another protocol.")
    scope["greenroom.entry"].note(status=101)
    fields = [*end_to_end(response.headers), (b"Connection", b"Upgrade"), (b"Upgrade", protocol)]
    head = b"".join(b"%s: %s\r\n" % field for field in fields)
    with take_over() as (reader, writer):
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n" + head + b"\r\n")

        async def into() -> None:
            while data := await reader.read(65536):
                await container.write(data)

        async def back() -> None:
            while data := await container.read():
                writer.write(data)
                async with asyncio.timeout(_CLIENT_TIMEOUT):
                    await writer.drain()

        directions = [asyncio.create_task(into()), asyncio.create_task(back())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            try:
                await asyncio.wait_for(writer.drain(), 5)
            except (OSError, TimeoutError):
                writer.transport.abort()  # closing would wait for a client that receives nothing
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.wait(directions)
            for direction in directions:
                if not direction.cancelled():
                    direction.exception()  # one side has ended, which ends both


def _identifier(scope: Scope) -> str:
    """Return the session that the query names; the container also gets the query."""
    try:
        fields = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise BadRequest(f"The query must have at most {_MOST_FIELDS} valid fields: {error}.") from None
    found = [value for name, value in fields if name == "identifier"]
    if len(found) != 1:
        raise BadRequest(f"The request must have one 'identifier', not {len(found)}.", target="identifier")
    if not _SHORTEST <= len(found[0]) <= _LONGEST:
        raise BadRequest(
            f"The session identifier must have {_SHORTEST} to {_LONGEST} characters, not {len(found[0])}.",
            code=IDENTIFIER_LENGTH,
            target="identifier",
        )
    return check_identifier(found[0])


def _target(scope: Scope) -> str:
    raw: bytes = scope["raw_path"]
    prefix = _RAW_POOL.match(raw)
    path = raw[0 if prefix is None else prefix.end() :].decode("latin-1") or "/"
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _without_credentials(scope: Scope, *, kept: bool) -> RawHeaders:
    """Return the headers for the container, without cookies of `/ui`: a path below `/ui` can be the container's."""
    fields: list[tuple[bytes, bytes]] = []
    for name, value in scope["headers"]:
        if name == b"authorization" and not kept:
            continue
        left = _without_sign_ins(value) if name == b"cookie" else value
        if left or not value:
            fields.append((name, left))
    return tuple(fields)


def _without_sign_ins(cookies: bytes) -> bytes:
    pairs = cookies.split(b";")
    kept = [pair for pair in pairs if not _is_sign_in(pair)]
    return cookies if len(kept) == len(pairs) else b";".join(kept).strip()


def _is_sign_in(cookie: bytes) -> bool:
    """Whether a pair `name=value`, or the header that sets it, is a sign-in cookie of `/ui`, for any port."""
    return cookie.strip().startswith(SIGN_IN_COOKIE.encode())
