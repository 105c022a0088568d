"""The Model Context Protocol at `/mcp` of each pool; `greenroom.mcp` has its rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeAlias, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from greenroom.azure.codecs.shared import ExecuteRequest
from greenroom.errors import PoolFull, SandboxLost
from greenroom.mcp import http
from greenroom.mcp.calls import Context
from greenroom.mcp.endpoint import Endpoint, Peer, context_of
from greenroom.mcp.feed import Notify
from greenroom.mcp.protocol import (
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    TOO_BUSY,
    Answer,
    Json,
    Message,
    Notification,
    ProtocolError,
    error_message,
    notification,
    parse,
    read,
    read_batch,
)
from greenroom.mcp.protocol import Request as McpRequest
from greenroom.models import Execution
from greenroom.server.outcomes import Outcome
from greenroom.server.records import Live
from greenroom.server.registry import ServedPool
from greenroom.server.responses import RequestRefused, json_response
from greenroom.server.routes.bodies import read_body
from greenroom.server.routes.executions import gone
from greenroom.server.routes.target import Target
from greenroom.server.transport.access_log import Entry
from greenroom.wire.values import dump

_KEEP_ALIVE = 10.0
"""Seconds without a message after which a comment is sent."""
_LARGE = 256 << 10
"""Bytes from which JSON is parsed and written in a thread."""
_RETRY = 0.05
"""Seconds after which sending is retried if there was no memory for a message."""


async def post(request: Request, target: Target) -> Response:
    """`POST mcp`: a message or a batch of messages."""
    try:
        body = await read_body(request, target.held, target.settings.max_body)
        _check_types(request)
        value = await asyncio.to_thread(parse, body) if len(body) > _LARGE else parse(body)
        return await _respond(request, target, value)
    except RequestRefused as error:
        busy = error.problem.status == 503
        refused = ProtocolError(TOO_BUSY if busy else INVALID_REQUEST, str(error))
        return json_response(error_message(refused), 429 if busy else error.problem.status, error.headers)
    except ProtocolError as error:
        message = error_message(error)
        return json_response(message, max(400, http.status_of(message, "")))


async def refuse_method(request: Request, target: Target) -> Response:
    """`GET mcp`: refused, as this server sends only answers and needs no stream for other messages."""
    del request, target
    message = "The method of an MCP request must be POST: this server sends no messages except answers."
    return json_response(error_message(ProtocolError(INVALID_REQUEST, message)), 405, {"Allow": "POST, DELETE"})


async def forget_peer(request: Request, target: Target) -> Response:
    """`DELETE mcp`: the end of a client with a handshake. Sessions stay, as handles do not belong to clients."""
    target.pool.mcp_peers.remove(_caller(request), request.headers.get(http.SESSION_HEADER))
    return Response(status_code=204)


def _check_types(request: Request) -> None:
    """Check the content type of the body and the accepted types of the response.

    Raises:
        RequestRefused: one of them is not possible.
    """
    given = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if given != "application/json":  # a form on a web page can send other types
        raise RequestRefused(415, "", f"The Content-Type must be application/json, not {given!r:.100}.")
    if not any(http.accepts(request.headers.get("accept"))):
        raise RequestRefused(406, "", f"The header Accept must include application/json or {http.EVENTS}.")


async def _respond(request: Request, target: Target, value: Json) -> Response:
    caller = _caller(request)
    peer = target.pool.mcp_peers.find(caller, request.headers.get(http.SESSION_HEADER))
    if isinstance(value, list):
        return _respond_to_batch(request, target, peer, cast("list[Json]", value))
    message = read(value)
    if isinstance(message, Notification):
        _note(message, peer)
    if not isinstance(message, McpRequest):
        return Response(status_code=202)
    try:
        version = http.version_from(message, request.headers, peer.version)
        context = context_of(message, peer, _context(caller, version, target))
    except ProtocolError as error:
        error.id = message.id
        raise
    _note_operation(request, message)
    headers = dict[str, str]()
    if message.method == "initialize" and "protocolVersion" in message.params:
        peer = Peer()
        headers[http.SESSION_HEADER] = target.pool.mcp_peers.add(caller, peer)
    endpoint = _endpoint(target.pool)

    async def answer(notify: Notify | None) -> _Answer:
        body = await endpoint.exchange(message, peer, context.reporting_to(notify))
        body = _cancelled(message) if body is None else body
        return _Answer(body, http.status_of(body, context.version))

    return _Answering(request, target, answer, headers)


def _respond_to_batch(request: Request, target: Target, peer: Peer, values: list[Json]) -> Response:
    version = http.version_of_header(request.headers.get(http.VERSION_HEADER), peer.version)
    messages: list[Message | ProtocolError] = read_batch(values, version)
    for message in messages:
        if isinstance(message, Notification):
            _note(message, peer)
    if all(isinstance(message, Notification | Answer) for message in messages):
        return Response(status_code=202)
    endpoint, known = _endpoint(target.pool), _context(_caller(request), version, target)

    async def answer_one(message: McpRequest, notify: Notify | None) -> Json:
        try:
            context = context_of(message, peer, known.reporting_to(notify))
        except ProtocolError as error:
            return error_message(error, message.id)
        body = await endpoint.exchange(message, peer, context)
        return _cancelled(message) if body is None else body

    async def answer(notify: Notify | None) -> _Answer:
        errors = [error_message(message) for message in messages if isinstance(message, ProtocolError)]
        requests = [message for message in messages if isinstance(message, McpRequest)]
        answers = await asyncio.gather(*(answer_one(each, notify) for each in requests))
        return _Answer([*errors, *answers], 200)

    return _Answering(request, target, answer, {})


def _caller(request: Request) -> str | None:
    return request.scope["greenroom.caller"]


def _context(caller: str | None, version: str, target: Target) -> Context:
    return Context(caller, version, lists=caller is not None, azures_tools=True, reserve=target.held.add)


def _note(message: Notification, peer: Peer) -> None:
    if message.method == "notifications/cancelled":
        peer.cancel(message.params)


def _note_operation(request: Request, message: McpRequest) -> None:
    entry: Entry = request.scope["greenroom.entry"]
    name = message.params.get("name")
    entry.note(mcp=f"{message.method} {name}" if isinstance(name, str) else message.method)


def _cancelled(message: McpRequest) -> Json:
    return error_message(ProtocolError(CANCELLED, "The request was cancelled."), message.id)


# Executions


def _endpoint(pool: ServedPool) -> Endpoint:
    if pool.mcp is None:
        pool.mcp = Endpoint(pool.backend, _Executing(pool))
    return pool.mcp


class _Executing:
    """Runs executions through the pool's records, so that they are counted and end with the server."""

    def __init__(self, pool: ServedPool) -> None:
        self._pool = pool

    async def __call__(self, identifier: str, work: Callable[[], Awaitable[Execution]]) -> Execution:
        async def run() -> Outcome:
            return Outcome(await work())

        try:
            record = self._pool.records.begin(identifier, ExecuteRequest(""), run, live=Live(), kept=False)
        except RequestRefused as error:
            raise PoolFull(str(error), sessions=0, retry_after=error.problem.retry_after) from None
        try:
            await asyncio.wait([record.task])
        finally:
            record.task.cancel()
            await asyncio.wait([record.task])
        if record.task.cancelled():
            raise SandboxLost("The execution was cancelled: its session was deleted, or the server is shutting down.")
        return record.task.result().execution


# Responses


class _Answer(NamedTuple):
    """The last message of a response, with the status to use if it is the only one."""

    body: Json
    status: int


_Answers: TypeAlias = Callable[[Notify | None], Awaitable[_Answer]]


class _Answering(StreamingResponse):
    """The answer as JSON if it is quick and the only message, otherwise events. If the client disconnects, the request
    is cancelled."""

    def __init__(self, request: Request, target: Target, answers: _Answers, headers: Mapping[str, str]) -> None:
        super().__init__((), headers=headers)
        self._request = request
        self._target = target
        self._answers = answers
        self._messages: asyncio.Queue[Json | _Answer] = asyncio.Queue(1)  # a slow client delays further messages
        _, self._events = http.accepts(request.headers.get("accept"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer())
        sending = asyncio.create_task(self._send(send))
        left = asyncio.create_task(gone(self._request))
        try:
            await asyncio.wait([answering, left], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()  # raises a failure before anything was sent
            await asyncio.wait([sending, left], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientDisconnect
            sending.result()
        finally:
            tasks = (answering, sending, left)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _notify(self, method: str, params: Json) -> None:
        await self._messages.put(notification(method, params))

    async def _answer(self) -> None:
        await self._messages.put(await self._answers(self._notify if self._events else None))

    async def _send(self, send: Send) -> None:
        begun = False
        while True:
            message: Json | _Answer | None = None
            try:
                async with asyncio.timeout(_KEEP_ALIVE):
                    message = await self._messages.get()
            except TimeoutError:
                if not self._events:
                    continue
            if isinstance(message, _Answer) and not begun:
                content = (await self._held(message.body)).rstrip()
                await self._begin(send, message.status, "application/json", len(content))
                await send({"type": "http.response.body", "body": content, "more_body": False})
                return
            if not begun:
                begun = True
                await self._begin(send, 200, http.EVENTS)
            last = isinstance(message, _Answer)
            content = http.KEEP_ALIVE if message is None else await self._event(message)
            await send({"type": "http.response.body", "body": content, "more_body": not last})
            if last:
                return

    async def _begin(self, send: Send, status: int, kind: str, length: int | None = None) -> None:
        headers = [*self.raw_headers, (b"content-type", kind.encode())]
        if length is None:
            headers += [(b"x-accel-buffering", b"no")]
        else:
            headers += [(b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def _event(self, message: Json | _Answer) -> bytes:
        return http.event(await self._held(message.body) if isinstance(message, _Answer) else dump(message))

    async def _held(self, message: Json) -> bytes:
        """Return a message as bytes, once there is memory for it."""
        content = await asyncio.to_thread(dump, message)
        most = self._target.settings.max_in_flight
        if len(content) > most:
            error = ProtocolError(
                INTERNAL_ERROR, f"The result has {len(content)} bytes, but the option max_in_flight is {most}."
            )
            id_ = cast("dict[str, Json]", message).get("id") if isinstance(message, dict) else None
            return dump(error_message(error, id_))
        while not self._target.held.hold(len(content)):  # noqa: ASYNC110  memory is released in many places
            await asyncio.sleep(_RETRY)
        return content
