"""A pool in Azure, or on any server that implements its API, as a `Backend`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeVar, get_args

from greenroom.azure.bodies import expected_size, replayable
from greenroom.azure.codecs import current
from greenroom.azure.codecs.contract import contract_of
from greenroom.azure.codecs.problems import EXECUTION_NOT_FOUND
from greenroom.azure.codecs.requests import shell_request
from greenroom.azure.codecs.shared import (
    LATEST,
    MAX_SYNCHRONOUS,
    RESTARTED_HEADER,
    Call,
    ExecuteRequest,
    Json,
    Malformed,
    Pending,
    is_legacy,
    multipart_frame,
)
from greenroom.azure.credentials import tokens_for
from greenroom.azure.forwarding import Forwarding
from greenroom.azure.http import MARGIN, Connection, no_session
from greenroom.azure.httpx_transport import HttpxTransport
from greenroom.azure.plain_transport import PlainTransport
from greenroom.azure.sessions import OwnSessions, Turns
from greenroom.azure.settings import (
    AzureSettings,
    check_proxy,
    parse_endpoint,
    refuse_overrides,
    refuse_usage,
    refuse_variables,
)
from greenroom.azure.transport import Transport
from greenroom.backend import NO_VARIABLES, OnEvent, Overrides, ShellCommand
from greenroom.config.environment import Environment
from greenroom.errors import FileRefused, GreenroomError, InvalidRequest, PoolFull, SandboxLost, ServiceFailed
from greenroom.models import ContainerType, Execution, PoolStatus, RemoteFile, RestartCause, SessionInfo, StreamText
from greenroom.telemetry.tracing import (
    EXECUTE_CODE,
    EXECUTE_COMMAND,
    UPLOAD_FILE,
    remote_call,
    remote_download,
)
from greenroom.tools import Toolbox

T = TypeVar("T")

_TIMEOUT = 60.0
_FIRST_POLL, _LONGEST_POLL = 0.1, 2.0
_SESSIONS_SINCE = "2025-02-02-preview"
_MAX_PAGES = 1000
_MAX_ENTRIES = 20_000
"""The maximum number of entries of a list over all pages, as in a local pool."""
_LIST_TIMEOUT = 300.0
"""Seconds for all pages of a list, not counting retries while the pool is full."""
_MAX_ID = 1000
_MAX_DIRECTORIES = 2000


class AzurePool(Forwarding):
    """Sessions of a pool in Azure.

    Differences from a local pool: the events of a stream come at the end of the execution; an execution has one picture
    or one result, as the service returns no more; changed files are not listed; a cancelled call closes its connection,
    and the service may or may not interrupt the code.
    """

    def __init__(
        self,
        endpoint: str,
        settings: AzureSettings,
        *,
        transport: Transport | None = None,
        connection: Connection | None = None,
    ) -> None:
        """
        Args:
            endpoint: the pool's management endpoint.
            transport: sends the requests; by default httpx, configured by the settings.
            connection: an open connection, used in place of a new one with that transport.

        Raises:
            InvalidRequest: the endpoint, the key or the proxy is not valid.
        """
        self._endpoint = parse_endpoint(endpoint)
        self._settings = settings
        self.container_type = settings.container_type
        self.file_limit = settings.file_limit
        self._is_custom = settings.container_type is ContainerType.CUSTOM_CONTAINER
        self._version = settings.api_version or LATEST
        self._codec = contract_of(self._version)
        self._http = connection or connection_of(self._endpoint, settings, transport)
        self._turns = Turns()
        self._own = OwnSessions()

    def __repr__(self) -> str:
        return f"azure: {self._endpoint}, api-version {self._version}"

    @property
    def endpoint(self) -> str:
        return self._endpoint

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
        del execution_id  # executions end with their requests
        if tools is not None:
            raise InvalidRequest(
                "The pool must be on this machine or on a greenroom serve to have tools: in Azure, code in a session "
                "cannot call functions of the application."
            )
        if self.container_type is ContainerType.SHELL:
            return await self._shell(identifier, ShellCommand(code, env=env), timeout, on_event)
        refuse_variables(env)
        seconds = self._settings.timeout if timeout is None else timeout
        request = self._request(code, seconds)
        # The service's order of concurrent calls is unknown, and an HTTP timeout should not include the wait.
        async with self._turns.of(identifier):
            outcome = await self._post(identifier, request, seconds)
            if isinstance(outcome, Pending):
                outcome = await self._poll(identifier, outcome.id, seconds)
        if on_event is not None:
            _send_events(outcome, on_event)
        return outcome

    async def resume(
        self, identifier: str, execution_id: str, *, on_event: OnEvent | None, tools: Toolbox | None = None
    ) -> Execution:
        raise InvalidRequest(
            f"The execution {execution_id} must be in a pool on this machine or on a greenroom serve: "
            "Azure cannot resume executions."
        )

    async def fork(self, identifier: str, forks: Mapping[str, Overrides | None], *, timeout: float | None) -> NoReturn:
        raise InvalidRequest(
            "A session that is forked must be in a local pool that this process opened: Azure cannot copy sessions. "
            "Run its code again in a new session."
        )

    @remote_call(EXECUTE_COMMAND)
    async def shell(
        self, identifier: str, command: ShellCommand, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        return await self._shell(identifier, command, timeout, on_event)

    async def _shell(
        self, identifier: str, command: ShellCommand, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        refuse_variables(command.env)
        seconds = self._settings.timeout if timeout is None else timeout
        limit = self._settings.output_limit
        request = shell_request(command.command, command.stdin, self._version, timeout=seconds, output_limit=limit)
        async with self._turns.of(identifier):
            execution = await self._call(
                current.encode_execute_request(request, self._version),
                identifier,
                lambda body: current.decode_shell_execution(body, timeout=seconds),
                timeout=MARGIN + seconds,
            )
        if on_event is not None:
            _send_events(execution, on_event)
        return execution

    def _request(self, code: str, seconds: float) -> ExecuteRequest:
        synchronous = seconds <= MAX_SYNCHRONOUS
        if not synchronous and is_legacy(self._version):
            if math.isfinite(seconds):
                raise InvalidRequest(
                    f"The timeout must be at most {MAX_SYNCHRONOUS} seconds in API version {self._version}, not "
                    f"{seconds:g}. Use api_version 2024-10-02-preview or later."
                )
            seconds, synchronous = MAX_SYNCHRONOUS, True
        return ExecuteRequest(
            code,
            timeout=seconds if math.isfinite(seconds) else None,
            execution_type="Synchronous" if synchronous else "Asynchronous",
            output_limit=self._settings.output_limit,
            jupyter_format=True,
        )

    async def _post(self, identifier: str, request: ExecuteRequest, seconds: float) -> Execution | Pending:
        call = self._codec.encode_execute_request(request, self._version)
        wait = 0.0 if request.asynchronous else request.timeout or MAX_SYNCHRONOUS
        return await self._execution(call, identifier, seconds, timeout=MARGIN + wait)

    async def _execution(
        self, call: Call, identifier: str, seconds: float, *, timeout: float | None = None
    ) -> Execution | Pending:
        """Send a request whose response is an execution with a time limit of `seconds`."""

        def decode(body: Json) -> Execution | Pending:
            outcome = self._codec.decode_execution(body, timeout=seconds)
            if isinstance(outcome, Pending) and len(outcome.id) > _MAX_ID:
                raise Malformed(f"the id of an execution must have at most {_MAX_ID} characters")
            return outcome

        headers: dict[str, str] = {}
        outcome = await self._call(call, identifier, decode, timeout=timeout, on_headers=headers.update)
        cause: Any = headers.get(RESTARTED_HEADER)
        if isinstance(outcome, Execution) and cause in get_args(RestartCause):
            return replace(outcome, session_restarted=cause, state_lost=True)
        return outcome

    async def _poll(self, identifier: str, id: str, seconds: float) -> Execution:  # noqa: A002  the model's name
        """Poll an execution until it has ended, at most for its time limit and a margin."""
        delay = _FIRST_POLL
        deadline = time.monotonic() + seconds + MARGIN
        while time.monotonic() < deadline:
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, _LONGEST_POLL)
            try:
                outcome = await self._execution(current.get_execution(id), identifier, seconds)
            except GreenroomError as error:
                if error.azure is not None and error.azure.code == EXECUTION_NOT_FOUND:
                    raise SandboxLost(f"The execution {id} is no longer known: its session has ended.") from error
                if not isinstance(error, ServiceFailed | PoolFull):  # their message could claim that nothing was run
                    raise
                unknown = ServiceFailed(f"The execution {id} was started; its outcome is unknown. {error}")
                unknown.azure = error.azure
                raise unknown from error
            if isinstance(outcome, Execution):
                return outcome
        raise ServiceFailed(
            f"The execution {id} did not end within {MARGIN:g} seconds after its time limit of {seconds:g}."
        )

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
        call, filename = self._codec.upload_file(path)
        boundary = uuid.uuid4().hex
        before, after = multipart_frame(filename, boundary)
        content = await replayable(self._limited(chunks, path), before, after, on_sent=on_sent)
        call = replace(call, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return await self._call(
            call, identifier, lambda body: self._codec.decode_uploaded(body, path), path=path, content=content
        )

    @remote_download
    async def download(
        self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        call = self._addressed(self._codec.download_file(path), identifier)
        async with (
            self._http.stream(call, timeout=_TIMEOUT, path=path) as response,
            contextlib.aclosing(self._http.download(response, timeout=_TIMEOUT, limit=self.file_limit)) as pieces,
            contextlib.aclosing(self._limited(pieces, path)) as chunks,
        ):
            if on_size is not None and (size := expected_size(response)) is not None:
                on_size(size)
            async for chunk in chunks:
                yield chunk

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        whole = recursive and self._version == LATEST
        async with self._list_in_time():
            files = await self._list(identifier, path, _MAX_ENTRIES, recursive=whole)
            if recursive and not whole and not is_legacy(self._version):
                files = await self._below(identifier, files)
        return sorted(files, key=lambda file: file.path)

    async def _list(self, identifier: str, path: str, most: int, *, recursive: bool = False) -> list[RemoteFile]:
        call = self._codec.list_files(path, recursive=recursive)
        return await self._pages(call, identifier, lambda body: self._codec.decode_files(body, path), most, path=path)

    async def _below(self, identifier: str, files: list[RemoteFile]) -> list[RemoteFile]:
        """Add all files below, for versions that list one directory per request."""
        found = list(files)
        directories = 0
        for each in found:  # the list grows
            if each.is_directory:
                directories += 1
                if directories > _MAX_DIRECTORIES:
                    raise ServiceFailed(
                        f"A session must have at most {_MAX_DIRECTORIES} directories to be listed recursively."
                    )
                found += await self._list(identifier, each.path, _MAX_ENTRIES - len(found))
        return found

    async def file(self, identifier: str, path: str) -> RemoteFile:
        return await self._call(
            self._codec.get_file(path), identifier, lambda body: self._codec.decode_file(body, path), path=path
        )

    async def delete_file(self, identifier: str, path: str) -> None:
        await self._call(self._codec.delete_file(path), identifier, _nothing, path=path)

    async def _limited(self, chunks: AsyncIterator[bytes], path: str) -> AsyncGenerator[bytes, None]:
        size, limit = 0, self.file_limit
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise FileRefused.too_large(path, limit, option="file_limit")
            yield chunk

    # Sessions and the pool. Only later API versions have these requests; the service accepts them for any session.

    async def delete(self, identifier: str) -> None:
        call = current.delete_session(of_container=self._is_custom)
        with no_session():
            if self._is_custom:  # the response is plain text
                async with self._http.stream(self._addressed(call, identifier), timeout=_TIMEOUT):
                    pass
            else:
                await self._call(call, identifier, _nothing)
        self._own.note_end(identifier)

    async def sessions(self) -> list[SessionInfo]:
        async with self._list_in_time():
            found = await self._pages(
                current.list_sessions(of_containers=self._is_custom), None, current.decode_sessions, _MAX_ENTRIES
            )
        return sorted(found, key=lambda session: session.identifier)

    async def session(self, identifier: str) -> SessionInfo | None:
        with no_session():
            call = current.get_session(of_container=self._is_custom)
            return await self._call(call, identifier, current.decode_session)
        return None

    async def status(self) -> PoolStatus:
        """Return how many sessions the pool has; the service reports nothing else."""
        return PoolStatus(limit=None, idle=len(await self.sessions()))

    async def usage(self, identifier: str) -> NoReturn:
        refuse_usage()

    async def pool_usage(self) -> NoReturn:
        refuse_usage()

    def configure(self, identifier: str, overrides: Overrides) -> None:
        refuse_overrides(identifier, overrides)

    def mark_owned(self, identifier: str) -> None:
        self._own.add(identifier)

    async def close(self) -> None:
        """Delete the sessions with a generated identifier; the others cool down in Azure."""
        try:
            await self._own.end(self.delete)
        finally:
            await self._http.close()

    # Requests

    def _addressed(self, call: Call, identifier: str | None, version: str | None = None) -> Call:
        query = {"api-version": version or self._version}
        if identifier is not None:
            query["identifier"] = identifier
            self._own.note_use(identifier)
        return replace(call, query={**query, **call.query})

    async def _call(
        self,
        call: Call,
        identifier: str,
        decode: Callable[[Json], T],
        *,
        timeout: float | None = None,
        path: str | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        on_headers: Callable[[Mapping[str, str]], None] | None = None,
    ) -> T:
        return await self._http.json(
            self._addressed(call, identifier, self._version_of(call)),
            decode,
            timeout=timeout or _TIMEOUT,
            path=path,
            content=content,
            on_headers=on_headers,
        )

    async def _pages(
        self,
        call: Call,
        identifier: str | None,
        decode: Callable[[Json], list[T]],
        most: int,
        *,
        path: str | None = None,
    ) -> list[T]:
        """Return the entries of all pages of a list.

        Raises:
            ServiceFailed: there are more entries than `most`, or too many pages.
        """
        call = self._addressed(call, identifier, self._version_of(call))
        found: list[T] = []
        for _ in range(_MAX_PAGES):
            page, link = await self._http.json(
                call, lambda body: (decode(body), current.next_link(body)), timeout=_TIMEOUT, path=path
            )
            if len(found) + len(page) > most:
                raise ServiceFailed(f"The list of {call.path} must have at most {_MAX_ENTRIES} entries.")
            found += page
            if link is None:
                return found
            call = self._http.following(link, call)
        raise ServiceFailed(f"The list of {call.path} must have at most {_MAX_PAGES} pages.")

    @contextlib.asynccontextmanager
    async def _list_in_time(self) -> AsyncGenerator[None, None]:
        seconds = _LIST_TIMEOUT + self._settings.acquire_timeout
        whole = asyncio.timeout(seconds)
        try:
            async with whole:
                yield
        except TimeoutError:
            if whole.expired():
                raise ServiceFailed(f"A list must be complete within {seconds:g} seconds.") from None
            raise

    def _version_of(self, call: Call) -> str:
        of_sessions = call.path in {"session", "listSessions"}
        return LATEST if of_sessions and self._version < _SESSIONS_SINCE else self._version


def connection_of(endpoint: str, settings: AzureSettings, transport: Transport | None = None) -> Connection:
    """Return a connection to an endpoint, by default with httpx.

    Raises:
        InvalidRequest: the key or the proxy is not valid.
    """
    return Connection(
        endpoint,
        tokens_for(endpoint, settings),
        transport or _transport(endpoint, settings),
        retry_for=settings.acquire_timeout,
    )


def _transport(endpoint: str, settings: AzureSettings) -> Transport:
    if settings.proxy is None and endpoint.startswith("http:"):
        return PlainTransport(endpoint)
    proxy = None if settings.proxy is None else check_proxy(settings.proxy.get_secret_value())
    return HttpxTransport(endpoint, proxy=proxy, ssl_context=settings.ssl_context)


def _nothing(body: Json) -> None:
    """Decode a body whose content does not matter."""
    del body


def _send_events(execution: Execution, on_event: OnEvent) -> None:
    if execution.stdout:
        on_event(StreamText("stdout", execution.stdout))
    if execution.stderr:
        on_event(StreamText("stderr", execution.stderr))
    for output in execution.outputs:
        on_event(output)
