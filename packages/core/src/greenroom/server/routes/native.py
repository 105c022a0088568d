"""The operations of `greenroom/1`, for our own client: complete values, and executions as they run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from greenroom import wire
from greenroom.azure.codecs.problems import EXECUTION_NOT_FOUND, PATH_INVALID, BadRequest, problem_of
from greenroom.azure.codecs.shared import ExecuteRequest, Json
from greenroom.backend import Overrides, ShellCommand
from greenroom.config.values import MAX_TIMEOUT
from greenroom.errors import GreenroomError, InvalidRequest, ServiceFailed
from greenroom.models import Event, Execution, Output, StreamText
from greenroom.server.calls import RemoteCalls
from greenroom.server.outcomes import Outcome
from greenroom.server.records import Live, Record
from greenroom.server.responses import RequestRefused, json_response
from greenroom.server.routes.bodies import read_json
from greenroom.server.routes.executions import acknowledge, while_connected
from greenroom.server.routes.files import body_of, hold_download, hold_upload
from greenroom.server.routes.target import Target
from greenroom.server.transport.access_log import Entry
from greenroom.sessions.events import Events
from greenroom.sessions.rules import (
    check_code,
    check_command,
    check_execution_id,
    check_file_path,
    check_path,
    check_timeout,
)
from greenroom.sessions.transfers import at_most
from greenroom.tools.definitions import check_name
from greenroom.wire.content import encode_chunk, encode_content_end
from greenroom.wire.executions import (
    KEEP_ALIVE,
    WAITING,
    Answer,
    Called,
    CallEvent,
    Order,
    error_line,
    event_lines,
    execution_lines,
)
from greenroom.wire.values import WireError, decode, dump, encode

T = TypeVar("T")

_KEEP_ALIVE = 10.0
"""Seconds without a line after which an empty one is sent."""
_LARGE = 256 << 10
"""Bytes from which JSON is written in a thread."""
_TOGETHER = 64 << 10
"""Bytes of lines that are sent in one piece."""
_RETRY = 0.05
"""Seconds after which sending is retried if there was no memory for a line."""
_MAX_ID = 128
_MOST_OF_TOOLS = {
    "calls": 100_000,
    "concurrent": 1_000,
    "argument_bytes": 64 << 20,
    "result_bytes": 1 << 30,
    "timeout": 86_400,
    "total_timeout": 86_400,
}
_REST_OF_ANSWER = 1 << 10
"""Bytes of the answer to a call in addition to its content."""


async def get_versions(request: Request, target: Target) -> Response:
    """`GET greenroom`: the supported version and the pool's type, which a client asks for once."""
    del request
    container_type = target.pool.backend.container_type
    headers = {wire.VERSIONS_HEADER: wire.VERSION, wire.TYPE_HEADER: container_type.value}
    return Response(status_code=204, headers=headers)


# Executions


async def execute(request: Request, target: Target) -> Response:
    """`POST greenroom/1/executions`: run code, and send its events and its outcome as lines."""
    identifier = target.identifier
    order = _decoded(Order, await read_json(request, target.held, target.settings.max_body))
    _check(order)
    overrides = _overrides(request, target)
    live = Live()
    if order.tools:
        order = _with_own_limits(order, target)
        caller = request.scope["greenroom.caller"]
        live.calls = RemoteCalls(order, target.held.another(), most=_most_result(target), caller=caller)
        live.calls.can_park = partial(_can_park, target, live.calls)

    async def run() -> Outcome:
        with _configured(target, overrides):
            return Outcome(await _carry_out(target, order, live))

    code = target.held.handed_over()  # reserved until the execution ends, which can be after the request
    feed = _Feed(live, stream=order.stream)
    try:
        asked = ExecuteRequest("", execution_type="Asynchronous" if order.background else "Synchronous")
        record = target.pool.records.begin(
            identifier, asked, run, order.id, live=live, kept=order.background, outlives=order.background
        )
    except BaseException:
        code.close()
        raise
    record.task.add_done_callback(lambda _: code.close())
    try:
        await acknowledge(record, target)
    except BaseException:
        feed.close()
        raise
    return _Executing(request, target, record, feed)


async def attach(request: Request, target: Target) -> Response:
    """`GET greenroom/1/executions/{id}`: further lines of a background execution.

    Only the latest request gets its events; the lines of the previous one end with an error. The same applies to its
    calls, including waiting ones, unless the query has `calls=false`: then they wait for the next request.
    """
    record = target.pool.records.find(target.identifier, request.path_params["id"])
    if record is None or record.live is None or not record.kept:
        raise RequestRefused(404, EXECUTION_NOT_FOUND, "The session has no such execution, or it ended too long ago.")
    stream, calls = target.query.get("stream") == "true", target.query.get("calls") != "false"
    return _Executing(request, target, record, _Feed(record.live, stream=stream, calls=calls, resumed=True))


async def cancel(request: Request, target: Target) -> Response:
    """`DELETE greenroom/1/executions/{id}`: interrupt an execution; its lines end with its result so far."""
    target.pool.records.cancel_one(target.identifier, request.path_params["id"][:_MAX_ID])
    return Response(status_code=204)


async def answer(request: Request, target: Target) -> Response:
    """`POST greenroom/1/executions/{id}/answers`: the answer to a call of an execution with tools."""
    given = _decoded(Answer, await read_json(request, target.held, target.settings.max_body))
    record = target.pool.records.find(target.identifier, request.path_params["id"])
    if record is None or record.live is None or record.live.calls is None:
        raise RequestRefused(404, EXECUTION_NOT_FOUND, "The session has no such execution with tools.")
    record.live.calls.answer(given)
    return Response(status_code=204)


def _with_own_limits(order: Order, target: Target) -> Order:
    """Return an order in which the parked time of calls is limited by the server's maximum."""
    assert order.tool_limits is not None  # noqa: S101  it has tools
    parked_timeout = min(order.tool_limits.parked_timeout, target.settings.max_parked_time)
    return replace(order, tool_limits=replace(order.tool_limits, parked_timeout=parked_timeout))


def _can_park(target: Target, calls: RemoteCalls) -> bool:
    """Return whether one more execution of a caller can wait for a client."""
    others = (record.live.calls for record in target.pool.records.running if record.live is not None)
    parked = sum(
        other is not None and other is not calls and other.is_parked and other.caller == calls.caller
        for other in others
    )
    return parked < target.settings.max_parked


def _most_result(target: Target) -> int:
    """Return the maximum size of a result, which is sent in base64 with a few other fields."""
    return max((target.settings.max_body - _REST_OF_ANSWER) * 3 // 4, 0)


async def _carry_out(target: Target, order: Order, live: Live) -> Execution:
    pool, identifier, timeout = target.pool.backend, target.identifier, order.timeout
    if order.command:
        return await pool.shell(identifier, _command(order), timeout=timeout, on_event=live.note)
    tools = live.calls.toolbox() if live.calls is not None else None
    return await pool.execute(identifier, order.code, timeout=timeout, on_event=live.note, env=order.env, tools=tools)


def _command(order: Order) -> ShellCommand:
    command = order.command if order.is_program else order.command[0]
    return check_command(command, order.stdin, order.env)


def _check(order: Order) -> None:
    if bool(order.tools) != (order.tool_limits is not None):
        raise BadRequest("The fields tools and tool_limits must be given together.")
    _check_tools(order)
    check_execution_id(order.id)
    if order.command:
        _command(order)
    else:
        check_code(order.code)
    if not (order.background and order.timeout == math.inf):
        check_timeout(order.timeout, most=None if order.background else MAX_TIMEOUT)


def _check_tools(order: Order) -> None:
    for stub in order.tools:
        check_name(stub.name)
        names = {parameter.name for parameter in stub.parameters}
        if len(names) < len(stub.parameters):
            raise BadRequest(f"The parameters of the tool {stub.name!r} must have different names.")
    for name, most in _MOST_OF_TOOLS.items():
        if order.tool_limits is not None and getattr(order.tool_limits, name) > most:
            raise BadRequest(f"The {name} of tools must be at most {most:,} on a server.")


class _Feed:
    """The events of an execution in transit to one client.

    Waiting events take no more memory than the execution itself, which the pool limits: text is joined, rich outputs
    are shared with the execution, and an event waits for at most one client.
    """

    def __init__(self, live: Live, *, stream: bool, calls: bool = True, resumed: bool = False) -> None:
        """
        Args:
            live: the events.
            stream: whether to send the code's output as it is produced.
            calls: whether to send calls.
            resumed: whether the execution was started by an earlier request.
        """
        self._waiting = 0
        self._wake = asyncio.Event()
        self._events = Events[CallEvent](self._arrived)
        self._live = live
        self._stream = stream
        self._is_replaced = False
        live.listen(self._put, self._replaced)
        if live.calls is not None and calls:
            live.calls.attach(self._put_call, resumed=resumed)
        elif live.calls is not None:
            live.calls.release()

    def _put(self, event: Event) -> None:
        if self._stream:
            self._events.put(event)

    def _put_call(self, event: CallEvent) -> None:
        self._events.put(event)

    def _arrived(self) -> None:
        self._waiting += 1
        self._wake.set()

    def _replaced(self) -> None:
        self._is_replaced = True
        self._waiting, self._events = 0, Events[CallEvent](self._arrived)
        self._wake.set()

    async def next(self, record: Record) -> StreamText | Output | CallEvent | None:
        """Return the next event, or `None` if the execution has ended and no event waits.

        Raises:
            ServiceFailed: a later request receives the events.
        """
        record.task.add_done_callback(self._woken)
        try:
            while not self._waiting:
                if self._is_replaced:
                    raise ServiceFailed(
                        "The execution is still running, but a later request now receives it instead of this one."
                    )
                if record.task.done():
                    return None
                self._wake.clear()
                await self._wake.wait()
        finally:
            record.task.remove_done_callback(self._woken)
        self._waiting -= 1
        event = self._events.take()
        assert not isinstance(event, Future)  # noqa: S101  none is put
        return event

    def _woken(self, _: object) -> None:
        self._wake.set()

    def close(self) -> None:
        self._live.leave(self._put)
        if self._live.calls is not None:
            self._live.calls.detach(self._put_call)


class _Executing(StreamingResponse):
    """The lines of an execution, which is cancelled if the client disconnects, unless it is in the background. The head
    is sent with the first line, so that an earlier error has its own status.
    """

    def __init__(self, request: Request, target: Target, record: Record, feed: _Feed) -> None:
        super().__init__((), media_type=wire.STREAM_TYPE)
        self._request = request
        self._target = target
        self._record = record
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with while_connected(self._request):
                await self._send(send)
        finally:
            self._feed.close()
            if not self._record.kept:
                self._record.task.cancel()

    async def _send(self, send: Send) -> None:
        headers = self.raw_headers
        begun = False
        async with contextlib.aclosing(self._lines()) as lines:
            async for content, last in lines:
                if not begun:
                    begun = True
                    if last:  # the usual case: quick code
                        headers = [*headers, (b"content-length", str(len(content)).encode())]
                    await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
                await send({"type": "http.response.body", "body": content, "more_body": not last})

    async def _lines(self) -> AsyncGenerator[tuple[bytes, bool], None]:
        """Yield lines as soon as they are available, and whether they are the last ones.

        Raises:
            GreenroomError: the execution's error, before the first line.
        """
        record, begun = self._record, False
        error: GreenroomError | None = None
        shown: list[Output] = []
        if record.kept:  # from now on, the client can request it again
            begun = True
            yield KEEP_ALIVE, False
        while True:
            try:
                async with asyncio.timeout(_KEEP_ALIVE):
                    event = await self._feed.next(record)
            except TimeoutError:
                begun = True
                yield dump(WAITING) if self._is_queued() else KEEP_ALIVE, False
                continue
            except ServiceFailed as replaced:
                error = replaced
                break
            if event is None:
                break
            begun = True
            if isinstance(event, Output):
                shown.append(event)
            for line in event_lines(event):
                # The call itself reserves memory for its arguments, so its line must not wait for that memory.
                yield await (_dumped(line) if isinstance(event, Called) else self._held(line)), False
        if (error := error or _error_of(record)) is not None:
            if not begun:
                raise error
            entry: Entry = self._request.scope["greenroom.entry"]
            entry.note(error=problem_of(error).code)
            yield dump(error_line(error)), True
        elif (outcome := record.outcome()) is not None:
            small = bytearray()
            for line in execution_lines(outcome.execution, shown):
                content = await self._held(line)
                if len(small) + len(content) > _TOGETHER:
                    yield bytes(small), False
                    small.clear()
                small += content
            yield bytes(small), True

    def _is_queued(self) -> bool:
        """Whether an earlier execution of the session runs."""
        for other in self._target.pool.records.of(self._record.identifier):
            if other is self._record:
                return False
            if not other.task.done():
                return True
        return False

    async def _held(self, line: dict[str, Json]) -> bytes:
        """Return a line as bytes, once there is memory for it."""
        content = await _dumped(line)
        held = self._target.held
        if len(content) > self._target.settings.max_in_flight:
            error = ServiceFailed(
                f"The execution ran, but the server cannot send part of its outcome ({len(content)} bytes): the option "
                f"max_in_flight is {self._target.settings.max_in_flight}."
            )
            return dump(error_line(error))
        while not held.hold(len(content)):  # noqa: ASYNC110  memory is released in many places
            await asyncio.sleep(_RETRY)
        return content


async def _dumped(line: dict[str, Json]) -> bytes:
    large = sum(len(each) for each in _texts(line)) > _LARGE
    return await asyncio.to_thread(dump, line) if large else dump(line)


def _texts(line: dict[str, Json]) -> Generator[str, None, None]:
    for value in (line.get("text"), line.get("arguments"), *line.get("data", {}).values()):
        if isinstance(value, str):
            yield value
        elif value is not None:
            yield json.dumps(value)


def _error_of(record: Record) -> GreenroomError | None:
    """Return the exception of an execution that has ended."""
    if record.task.cancelled():
        return None
    error = record.task.exception()
    if error is None or isinstance(error, GreenroomError):
        return error
    raise error


# Files


async def upload(request: Request, target: Target) -> Response:
    """`PUT greenroom/1/file?path=`: the body is the content."""
    identifier, path, limit = target.identifier, _path(target), target.settings.max_upload
    hold_upload(target)
    body = body_of(request, limit)
    try:
        with _configured(target, _overrides(request, target)):
            file = await target.pool.backend.upload(identifier, path, at_most(limit, body, path))
    except GreenroomError:
        async for _ in body:  # the client reads the error only after it has sent everything
            pass
        raise
    return _value(file)


async def download(request: Request, target: Target) -> Response:
    """`GET greenroom/1/content?path=`."""
    overrides = _overrides(request, target)
    sizes: list[int] = []
    chunks = target.pool.backend.download(target.identifier, _path(target), on_size=sizes.append)
    with _configured(target, overrides):
        try:
            first = await anext(chunks, None)  # an earlier error has its own status
            hold_download(target, len(first or b""))
        except BaseException:
            await chunks.aclose()
            raise
    return _Content(first, chunks, {wire.SIZE_HEADER: str(sizes[0])} if sizes else {})


class _Content(StreamingResponse):
    """A file that is sent as it is read, as long as the client receives it."""

    def __init__(self, first: bytes | None, chunks: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(_framed(first, chunks), headers=headers, media_type=wire.CONTENT_TYPE)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._chunks):
            await super().__call__(scope, receive, send)


async def _framed(first: bytes | None, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if first is not None:
        yield encode_chunk(first)
        first = None
    try:
        async for chunk in chunks:
            yield encode_chunk(chunk)
    except GreenroomError as error:
        yield encode_content_end(error)
    else:
        yield encode_content_end()


async def list_files(request: Request, target: Target) -> Response:
    """`GET greenroom/1/files?path=&recursive=`."""
    path = _checked(check_path, target.query.get("path", ""))
    with _configured(target, _overrides(request, target)):
        recursive = target.query.get("recursive") == "true"
        return _value(await target.pool.backend.files(target.identifier, path, recursive=recursive))


async def get_file(request: Request, target: Target) -> Response:
    """`GET greenroom/1/file?path=`."""
    with _configured(target, _overrides(request, target)):
        return _value(await target.pool.backend.file(target.identifier, _path(target)))


async def delete_file(request: Request, target: Target) -> Response:
    """`DELETE greenroom/1/file?path=`."""
    with _configured(target, _overrides(request, target)):
        await target.pool.backend.delete_file(target.identifier, _path(target))
    return Response(status_code=204)


# Sessions and the pool


async def get_session(request: Request, target: Target) -> Response:
    """`GET greenroom/1/session`: `null` without one."""
    del request
    return _value(await target.pool.backend.session(target.identifier))


async def delete_session(request: Request, target: Target) -> Response:
    """`DELETE greenroom/1/session`: as in a local pool, running code fails with `SandboxLost`."""
    del request
    records = target.pool.records.of(target.identifier)
    await target.pool.backend.delete(target.identifier)
    for record in records:
        target.pool.records.forget(record)
    return Response(status_code=204)


async def list_sessions(request: Request, target: Target) -> Response:
    """`GET greenroom/1/sessions`."""
    del request
    return _value(await target.pool.backend.sessions())


async def get_status(request: Request, target: Target) -> Response:
    """`GET greenroom/1/status`."""
    del request
    return _value(await target.pool.backend.status())


async def get_usage(request: Request, target: Target) -> Response:
    """`GET greenroom/1/usage`: a session's usage, `null` if unknown."""
    del request
    return _value(await target.pool.backend.usage(target.identifier))


async def get_pool_usage(request: Request, target: Target) -> Response:
    """`GET greenroom/1/pool-usage`."""
    del request
    return _value(await target.pool.backend.pool_usage())


# Requests


def _value(value: object) -> Response:
    return json_response(encode(value))


def _path(target: Target) -> str:
    return _checked(check_file_path, target.query.get("path", ""))


def _checked(check: Callable[[str], str], path: str) -> str:
    try:
        return check(path)
    except InvalidRequest as error:
        raise BadRequest(str(error), code=PATH_INVALID, target="path") from None


def _decoded(kind: type[T], value: Json) -> T:
    try:
        return decode(kind, value)
    except WireError as error:
        raise BadRequest(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None


def _overrides(request: Request, target: Target) -> Overrides | None:
    """Return the session's own settings.

    Raises:
        BadRequest: they are not valid.
        InvalidRequest: the pool does not support them for a single session.
    """
    header = request.headers.get(wire.OVERRIDES_HEADER)
    if header is None:
        return None
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError):
        raise BadRequest(f"The header {wire.OVERRIDES_HEADER!r} must be JSON.") from None
    return _decoded(Overrides, fields)


@contextlib.contextmanager
def _configured(target: Target, overrides: Overrides | None) -> Generator[None, None, None]:
    """Give the session its own settings for the time of a block."""
    if overrides is not None:
        target.pool.backend.configure(target.identifier, overrides)
    yield
