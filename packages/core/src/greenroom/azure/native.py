"""A pool on a `greenroom serve` as a `Backend`, with the API `greenroom/1`: the same features as a local pool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, TypeVar

from greenroom import wire
from greenroom.azure.answering import AnsweredCalls
from greenroom.azure.bodies import TooSlow, lines, number_in, replayable
from greenroom.azure.codecs.problems import EXECUTION_EXISTS, EXECUTION_NOT_FOUND
from greenroom.azure.codecs.shared import MAX_SYNCHRONOUS, Call, Json, Malformed
from greenroom.azure.forwarding import Forwarding
from greenroom.azure.http import MARGIN, Connection
from greenroom.azure.sessions import OwnSessions, Turns
from greenroom.azure.settings import AzureSettings
from greenroom.azure.transport import Response, TransportError
from greenroom.backend import NO_VARIABLES, HeldOverrides, OnEvent, Overrides, ShellCommand
from greenroom.config.environment import Environment
from greenroom.config.values import MAX_TIMEOUT
from greenroom.errors import FileRefused, GreenroomError, InvalidRequest, PoolFull, SandboxLost, ServiceFailed
from greenroom.models import Execution, PoolStatus, PoolUsage, RemoteFile, SessionInfo, SessionUsage
from greenroom.telemetry.tracing import (
    EXECUTE_CODE,
    EXECUTE_COMMAND,
    RESUME_EXECUTION,
    UPLOAD_FILE,
    remote_call,
    remote_download,
)
from greenroom.tools import Toolbox, ToolLimits
from greenroom.wire.content import ContentDecoder
from greenroom.wire.executions import MAX_LINE, MAX_LINES, Answer, Assembler, CallEvent, Order
from greenroom.wire.values import WireError, decode, decode_list, encode

T = TypeVar("T")

_TIMEOUT = 60.0
"""Seconds in which a server must respond, and during an execution send a line, which can be empty."""
_MAX_WAIT = 3600.0
"""Seconds that an execution can wait for executions that other processes started in its session."""
_CANCEL_TIMEOUT = 10.0
_MOST_OVERRIDES = 24 << 10
"""The maximum size of a session's own settings in a header: three quarters of a server's limit for all headers."""
_END_TIMEOUT = 1.0
"""Seconds to wait for the end of a response after its last line, so that the connection can be reused."""
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
_LARGE = 256 << 10
"""The size in bytes from which a line is parsed in a thread."""


class NativePool(Forwarding):
    """Sessions of a pool on a `greenroom serve`."""

    def __init__(self, connection: Connection, settings: AzureSettings) -> None:
        self._http = connection
        self._settings = settings
        self.container_type = settings.container_type
        self.file_limit = settings.file_limit
        self._timeout = settings.timeout if "timeout" in settings.model_fields_set else None
        self._turns = Turns()
        self._own = OwnSessions()
        self._overrides = HeldOverrides()

    def __repr__(self) -> str:
        return f"{wire.VERSION}: {self._http.endpoint}"

    @property
    def endpoint(self) -> str:
        return self._http.endpoint

    @property
    def trace_content(self) -> bool:
        return self._settings.trace_content

    # Executions

    @remote_call(EXECUTE_CODE)
    async def execute(
        self,
        identifier: str,
        code: str,
        *,
        timeout: float | None,
        on_event: OnEvent | None,
        env: Environment = NO_VARIABLES,
        tools: Toolbox | None = None,
        execution_id: str | None = None,
    ) -> Execution:
        order = Order(execution_id or uuid.uuid4().hex, code, env=env, background=execution_id is not None)
        if tools is not None:
            order = replace(order, tools=tools.stubs, tool_limits=tools.limits)
        return await self._carry_out(identifier, order, timeout, on_event, tools)

    @remote_call(RESUME_EXECUTION)
    async def resume(
        self, identifier: str, execution_id: str, *, on_event: OnEvent | None, tools: Toolbox | None = None
    ) -> Execution:
        order = Order(execution_id, timeout=math.inf, stream=on_event is not None, background=True)
        running = _Running(order, on_event or _ignore)
        if tools is not None:
            running.calls = AnsweredCalls(_unlimited(tools), partial(self._answer, identifier, execution_id))
        try:
            return await self._receive_all(identifier, running, self._attach(identifier, running))
        except GreenroomError as error:
            if error.azure is not None and error.azure.code == EXECUTION_NOT_FOUND:
                raise SandboxLost(
                    f"The session {identifier!r} has no execution {execution_id!r}. It may have ended too long ago, "
                    "or with its session."
                ) from error
            raise

    @remote_call(EXECUTE_COMMAND)
    async def shell(
        self, identifier: str, command: ShellCommand, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        order = Order(uuid.uuid4().hex, stdin=command.stdin, env=command.env)
        if isinstance(command.command, str):
            order = replace(order, command=(command.command,))
        else:
            order = replace(order, command=command.command, is_program=True)
        return await self._carry_out(identifier, order, timeout, on_event)

    async def fork(self, identifier: str, forks: Mapping[str, Overrides | None], *, timeout: float | None) -> NoReturn:
        raise InvalidRequest(
            "A session that is forked must be in a local pool that this process opened, not in a server's pool. Run "
            "its code again in a new session."
        )

    async def _carry_out(
        self,
        identifier: str,
        order: Order,
        timeout: float | None,
        on_event: OnEvent | None,
        tools: Toolbox | None = None,
    ) -> Execution:
        timeout = self._timeout if timeout is None else timeout
        longest = max(timeout or 0, tools.limits.timeout if tools is not None else 0)
        background = order.background or longest > MAX_SYNCHRONOUS
        order = replace(order, timeout=timeout, stream=on_event is not None, background=background)
        # Requests can overtake each other, and a time limit here should not include the wait.
        async with self._turns.of(identifier):
            running = _Running(order, on_event or _ignore)
            if tools is not None:
                running.calls = AnsweredCalls(tools, partial(self._answer, identifier, order.id))
            call = self._call("POST", "executions", identifier, body=encode(order))
            try:
                return await self._receive_all(identifier, running, call)
            except GreenroomError as error:
                if error.azure is not None and error.azure.code == EXECUTION_EXISTS:
                    raise InvalidRequest(
                        f"The id of an execution must be new in its session, not {order.id!r}. That execution can be "
                        "resumed."
                    ) from error
                raise

    async def _receive_all(self, identifier: str, running: _Running, call: Call) -> Execution:
        """Send a request for an execution, and receive it until its end. Cancelling this cancels it."""
        task = asyncio.create_task(self._run(identifier, running, call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                await self._cancel(identifier, running.order, task)
            raise
        finally:
            task.cancel()
            if running.calls is not None:
                running.calls.end()

    async def _answer(self, identifier: str, id: str, answer: Answer) -> None:  # noqa: A002  the model's name
        call = self._call("POST", f"executions/{id}/answers", identifier, body=encode(answer))
        await self._http.json(call, _nothing, timeout=_TIMEOUT)

    def _attach(self, identifier: str, running: _Running) -> Call:
        query = {"stream": "true"} if running.order.stream else {}
        if running.calls is None:
            query["calls"] = "false"
        return self._call("GET", f"executions/{running.order.id}", identifier, **query)

    async def _run(self, identifier: str, running: _Running, call: Call) -> Execution:
        order = running.order
        delay = _FIRST_DELAY
        while True:
            reached = running.reached
            try:
                execution = await self._receive(call, running)
            except GreenroomError as error:
                if error is running.error or not running.reached or not order.background:
                    raise
                raise _unknown(order, error) from error
            if execution is not None:
                return execution
            # The connection broke, and the execution continues.
            running.check_time()
            delay = _FIRST_DELAY if running.reached > reached else min(2 * delay, _LONGEST_DELAY)
            await asyncio.sleep(delay)
            call = self._attach(identifier, running)

    async def _receive(self, call: Call, running: _Running) -> Execution | None:
        """Receive lines until the execution has ended; return `None` if the connection broke and it continues."""
        async with self._http.stream(call, timeout=_TIMEOUT) as response:
            try:
                return await running.read(response)
            except (TransportError, TooSlow):
                if running.order.background:
                    return None
                raise
            except GreenroomError as error:
                running.error = error
                raise

    async def _cancel(self, identifier: str, order: Order, task: asyncio.Task[Execution]) -> None:
        """Interrupt an execution, and wait for its result so far."""
        with contextlib.suppress(GreenroomError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                call = self._call("DELETE", f"executions/{order.id}", identifier)
                await self._http.json(call, _nothing, timeout=_CANCEL_TIMEOUT)
                await asyncio.wait([task])

    # Files

    @remote_call(UPLOAD_FILE)
    async def upload(
        self,
        identifier: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> RemoteFile:
        call = self._call("PUT", "file", identifier, path=path)
        content = await replayable(self._limited(chunks, path), on_sent=on_sent)
        return await self._http.json(call, _decoder(RemoteFile), timeout=_TIMEOUT, path=path, content=content)

    @remote_download
    async def download(
        self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        call = self._call("GET", "content", identifier, path=path)
        async with (
            self._http.stream(call, timeout=_TIMEOUT, path=path) as response,
            contextlib.aclosing(self._content(response)) as content,
            contextlib.aclosing(self._limited(content, path)) as chunks,
        ):
            if on_size is not None and (size := number_in(response, wire.SIZE_HEADER)) is not None:
                on_size(size)
            async for chunk in chunks:
                yield chunk

    async def _content(self, response: Response) -> AsyncGenerator[bytes, None]:
        decoder = ContentDecoder()
        # Each chunk follows its size.
        limit = self.file_limit + (self.file_limit >> 3) + (1 << 20)
        async with contextlib.aclosing(self._http.download(response, timeout=_TIMEOUT, limit=limit)) as pieces:
            async for piece in pieces:
                for chunk in decoder.feed(piece):
                    yield chunk
        if not decoder.ended:
            raise WireError("a file must be complete")

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        query = {"path": path, **({"recursive": "true"} if recursive else {})}
        call = self._call("GET", "files", identifier, **query)
        return await self._http.json(call, _list_decoder(RemoteFile), timeout=_TIMEOUT, path=path)

    async def file(self, identifier: str, path: str) -> RemoteFile:
        call = self._call("GET", "file", identifier, path=path)
        return await self._http.json(call, _decoder(RemoteFile), timeout=_TIMEOUT, path=path)

    async def delete_file(self, identifier: str, path: str) -> None:
        call = self._call("DELETE", "file", identifier, path=path)
        await self._http.json(call, _nothing, timeout=_TIMEOUT, path=path)

    async def _limited(self, chunks: AsyncIterator[bytes], path: str) -> AsyncGenerator[bytes, None]:
        size, limit = 0, self.file_limit
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise FileRefused.too_large(path, limit, option="file_limit")
            yield chunk

    # Sessions and the pool

    async def delete(self, identifier: str) -> None:
        await self._http.json(self._call("DELETE", "session", identifier), _nothing, timeout=_TIMEOUT)
        self._own.note_end(identifier)

    async def sessions(self) -> list[SessionInfo]:
        return await self._http.json(self._call("GET", "sessions"), _list_decoder(SessionInfo), timeout=_TIMEOUT)

    async def session(self, identifier: str) -> SessionInfo | None:
        def decode_session(body: Json) -> SessionInfo | None:
            return None if body is None else decode(SessionInfo, body)

        return await self._http.json(self._call("GET", "session", identifier), decode_session, timeout=_TIMEOUT)

    async def status(self) -> PoolStatus:
        return await self._http.json(self._call("GET", "status"), _decoder(PoolStatus), timeout=_TIMEOUT)

    async def usage(self, identifier: str) -> SessionUsage | None:
        def decode_usage(body: Json) -> SessionUsage | None:
            return None if body is None else decode(SessionUsage, body)

        return await self._http.json(self._call("GET", "usage", identifier), decode_usage, timeout=_TIMEOUT)

    async def pool_usage(self) -> PoolUsage:
        return await self._http.json(self._call("GET", "pool-usage"), _decoder(PoolUsage), timeout=_TIMEOUT)

    def configure(self, identifier: str, overrides: Overrides) -> None:
        """Set a session's own settings. The server refuses unsupported ones when the session is used."""
        if len(json.dumps(encode(overrides))) > _MOST_OVERRIDES:
            raise InvalidRequest(
                f"The env of a session must have at most {_MOST_OVERRIDES >> 10} KiB as JSON over HTTP, as each "
                "request carries it. The env of a single execution can be larger."
            )
        self._overrides[identifier] = overrides

    def overrides_of(self, identifier: str | None) -> Overrides | None:
        return None if identifier is None else self._overrides.get(identifier)

    def mark_owned(self, identifier: str) -> None:
        self._own.add(identifier)

    async def close(self) -> None:
        """Delete the sessions with a generated identifier; other processes may use the others."""
        try:
            await self._own.end(self.delete)
        finally:
            await self._http.close()

    # Requests

    def _call(
        self, method: str, path: str, identifier: str | None = None, /, *, body: Json = None, **query: str
    ) -> Call:
        headers: dict[str, str] = {}
        if identifier is not None:
            query = {"identifier": identifier, **query}
            self._own.note_use(identifier)
            if (overrides := self.overrides_of(identifier)) is not None:
                headers[wire.OVERRIDES_HEADER] = json.dumps(encode(overrides))
        return Call(method, f"{wire.VERSION}/{path}", query, body, headers)


@dataclass(slots=True)
class _Running:
    """An execution whose lines are being received."""

    order: Order
    on_event: OnEvent
    reached: int = 0
    """How many responses have started."""
    calls: AnsweredCalls | None = None
    """The calls of its tools."""
    error: GreenroomError | None = None
    """How it ended, if not with an execution."""
    until: float = math.inf
    """The event loop time by which it must have ended, over all connections."""
    last: float = math.inf
    """As `until`, including the longest wait for other executions of its session."""

    async def read(self, response: Response) -> Execution:
        """Return the execution when it has ended.

        Raises:
            ServiceFailed: the execution did not end in time.
            GreenroomError: the server's pool raised it.
        """
        self.reached += 1
        assembler = Assembler()
        loop = asyncio.get_running_loop()
        whole = asyncio.timeout(None)
        execution: Execution | None = None
        if self.reached == 1:
            self.last = loop.time() + self.seconds + _MAX_WAIT
            self.extend()

        try:
            async with (
                whole,
                contextlib.aclosing(lines(response, _TIMEOUT, longest=MAX_LINE, limit=MAX_LINES)) as received,
            ):
                whole.reschedule(None if math.isinf(self.until) else self.until)
                async for line in received:
                    if execution is not None:  # nothing follows it
                        break
                    large = len(line) > _LARGE
                    event = await asyncio.to_thread(assembler.add, line) if large else assembler.add(line)
                    if assembler.waits:
                        self.extend()
                        whole.reschedule(None if math.isinf(self.until) else self.until)
                    if event is None:
                        continue
                    if isinstance(event, CallEvent):
                        if self.calls is not None:
                            self.calls.take(event)
                        continue
                    self.on_event(event)
                    if isinstance(event, Execution):
                        execution = event
                        whole.reschedule(loop.time() + _END_TIMEOUT)
        except (TimeoutError, TransportError, TooSlow, Malformed) as error:
            if execution is not None:  # the rest does not matter
                return execution
            if isinstance(error, TimeoutError) and whole.expired():
                raise self._too_late() from None
            raise
        if execution is None:
            raise WireError("the lines of an execution must end with the execution itself")
        return execution

    @property
    def seconds(self) -> float:
        """The longest duration. Without a time limit of its own, the pool's applies, which has a maximum."""
        limits = self.order.tool_limits
        waiting = 0.0 if limits is None else limits.total_timeout + limits.parked_timeout
        return (MAX_TIMEOUT if self.order.timeout is None else self.order.timeout) + waiting + MARGIN

    def extend(self) -> None:
        """Record that the execution has not started: it waits for others of its session."""
        self.until = min(asyncio.get_running_loop().time() + self.seconds, self.last)

    def check_time(self) -> None:
        """Check that the execution can still be running, whatever happened to its connection.

        Raises:
            ServiceFailed: it must have ended.
        """
        if asyncio.get_running_loop().time() >= self.until:
            raise self._too_late()

    def _too_late(self) -> ServiceFailed:
        return ServiceFailed(
            f"The execution {self.order.id} did not end within {MARGIN:g} seconds after its time limit."
        )


def _unlimited(tools: Toolbox) -> Toolbox:
    """Return tools whose limits the server enforces, for an execution that was started before."""
    return replace(tools, limits=_SERVERS_LIMITS)


_SERVERS_LIMITS = ToolLimits(
    calls=1_000_000, concurrent=1_000, argument_bytes=1 << 30, result_bytes=1 << 30, timeout=math.inf
)


def _unknown(order: Order, error: GreenroomError) -> GreenroomError:
    """Return the error of a started execution whose further lines could not be received."""
    if error.azure is not None and error.azure.code == EXECUTION_NOT_FOUND:
        return SandboxLost(f"The execution {order.id} is no longer known: its session has ended.")
    if not isinstance(error, ServiceFailed | PoolFull):  # their message could claim that nothing was run
        return error
    unknown = ServiceFailed(f"The execution {order.id} was started; its outcome is unknown. {error}")
    unknown.azure = error.azure
    return unknown


def _decoder(kind: type[T]) -> Callable[[Json], T]:
    return lambda body: decode(kind, body)


def _list_decoder(kind: type[T]) -> Callable[[Json], list[T]]:
    return lambda body: decode_list(kind, body)


def _ignore(_: object) -> None:
    pass


def _nothing(body: Json) -> None:
    """Decode a body whose content does not matter."""
    del body
