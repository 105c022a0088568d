"""The implementation of each tool: in a session of the caller, with a result for the model and one for programs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, TypeAlias

from greenroom.adapters.code import strip_fence
from greenroom.adapters.figures import figures_for_models
from greenroom.adapters.files import READ_LIMIT, as_text, listed, within
from greenroom.backend import Backend, OnEvent
from greenroom.errors import GreenroomError, InvalidRequest, SandboxLost
from greenroom.mcp.feed import Notify, OutputFeed
from greenroom.mcp.handles import Handle, Handles, UnknownHandle
from greenroom.mcp.protocol import Json
from greenroom.mcp.resources import resource_of, uri_of
from greenroom.mcp.tools import Tool
from greenroom.models import DATA_DIR, Execution, RemoteFile
from greenroom.sessions.rules import check_code, check_command, check_file_path, check_path, check_timeout
from greenroom.sessions.transfers import at_most, bytes_chunks
from greenroom.text import shorten
from greenroom.untrusted import brief, visible

BUDGET = 8_000
"""Characters of a result that the model reads, as in the adapters."""
_PROGRAMS_BUDGET = 100_000
"""Characters of each text in the results of Azure's tools, which programs read."""
_SHARE = BUDGET // 2
"""Characters of each text in a structured result, which some clients show to the model instead of the text."""
_MOST_FILES = 20
"""The most files of one execution that are linked."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is known about a request besides its parameters."""

    caller: str | None
    """The caller's identity; `None` without authentication."""
    version: str
    """The protocol version."""
    lists: bool = False
    """Whether the caller can list its sessions and their files."""
    azures_tools: bool = False
    notify: Notify | None = None
    """Sends notifications before the response; `None` if the client cannot receive any."""
    progress_token: str | int | None = None
    level: str | None = None
    """The lowest level of the log messages to send; `None` for none."""
    reserve: Callable[[int], bool] | None = None
    """Reserves this many more bytes of memory, if memory is shared with others; returns whether they are available."""

    def reporting_to(self, notify: Notify | None) -> Context:
        """Return this context with a function that sends notifications to the client."""
        return replace(self, notify=notify)


class Execute(Protocol):
    """Carries out an execution in a session: `work` begins it. Cancelling this cancels it."""

    async def __call__(self, identifier: str, work: Callable[[], Awaitable[Execution]]) -> Execution: ...


async def execute_directly(identifier: str, work: Callable[[], Awaitable[Execution]]) -> Execution:
    """Carry out an execution that is not recorded anywhere."""
    del identifier
    return await work()


@dataclass(frozen=True, slots=True)
class Sessions:
    """A pool, and the handles of its sessions."""

    backend: Backend
    handles: Handles
    execute: Execute


def error_result(message: str) -> Json:
    """Return the result of a failed call, which the model can retry in another way."""
    return {"content": [{"type": "text", "text": shorten(visible(message), BUDGET)}], "isError": True}


async def call(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    """Call a tool, and return the result of `tools/call`. Errors of this layer are also returned as results."""
    try:
        return await CALLS[tool.does](sessions, context, tool, tool.checked(arguments))
    except UnknownHandle:
        value = brief(arguments.get(tool.session))
        advice = "Call launchShell for a new one." if tool.is_azures else "Run code without it for a new one."
        return error_result(
            f"The {tool.session} must be one that this server returned to you and that has not ended, not {value}. "
            f"{advice}"
        )
    except SandboxLost as error:
        return error_result(f"{error} The session has ended; its variables and files are lost.")
    except GreenroomError as error:
        return error_result(str(error))


async def _run_code(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    code = strip_fence(check_code(arguments[tool.source]), sessions.backend.container_type)
    timeout = check_timeout(arguments.get("timeout"))

    def begin(identifier: str, on_event: OnEvent) -> Awaitable[Execution]:
        return sessions.backend.execute(identifier, code, timeout=timeout, on_event=on_event)

    return await _run(sessions, context, tool, arguments, begin)


async def _run_command(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    command = check_command(arguments[tool.source], None)
    timeout = check_timeout(arguments.get("timeout"))

    def begin(identifier: str, on_event: OnEvent) -> Awaitable[Execution]:
        return sessions.backend.shell(identifier, command, timeout=timeout, on_event=on_event)

    return await _run(sessions, context, tool, arguments, begin)


async def _run(
    sessions: Sessions,
    context: Context,
    tool: Tool,
    arguments: Mapping[str, Json],
    begin: Callable[[str, OnEvent], Awaitable[Execution]],
) -> Json:
    handle, is_new = await _session(sessions, context, tool, arguments)
    async with (
        sessions.handles.using(handle, is_new=is_new) as identifier,
        OutputFeed(context.notify, context.progress_token, context.level) as feed,
    ):
        execution = await sessions.execute(identifier, lambda: begin(identifier, feed.put))
    if tool.is_azures:
        return _azures_result(handle, execution)
    return _own_result(handle, execution, is_new=is_new, links=context.version != "2025-03-26")


async def _session(
    sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]
) -> tuple[Handle, bool]:
    """Return the session that a call names, or a new one, and whether it is new.

    Raises:
        UnknownHandle: the caller has no such session.
    """
    value = arguments.get(tool.session)
    if value is None:
        return await sessions.handles.mint(context.caller), True
    return await sessions.handles.find(value, context.caller), False


def _own_result(handle: Handle, execution: Execution, *, is_new: bool, links: bool) -> Json:
    beginning = f"New session_id: {handle.value}\n\n" if is_new else ""
    figures = figures_for_models(execution)
    content: list[Json] = [
        {"type": "text", "text": beginning + execution.text_for_model(BUDGET - len(beginning))},
        *(
            {"type": "image", "data": base64.b64encode(figure.data).decode(), "mimeType": figure.mime}
            for figure in figures
        ),
    ]
    files = [file for file in execution.files if not file.is_directory]
    if links:
        content += [{"type": "resource_link", **resource_of(handle.value, file)} for file in files[:_MOST_FILES]]
    error = execution.error
    structured: Json = {
        "session_id": handle.value,
        "status": execution.status,
        "stdout": _cut(execution.stdout, _SHARE),
        "stderr": _cut(execution.stderr, _SHARE),
        "result": None if execution.result is None else _cut(execution.result, _SHARE),
        "error": error
        and {
            "name": _cut(error.name, _SHARE),
            "value": _cut(error.value, _SHARE),
            "traceback": _cut(error.summary or error.traceback, _SHARE),
        },
        "exit_code": execution.exit_code,
        "figures": len(figures),
        "files": [_file(handle, file) for file in files[:_MOST_FILES]],
        "files_omitted": execution.files_omitted + len(files[_MOST_FILES:]),
        "duration": round(execution.duration, 6),
        "state_lost": execution.state_lost,
        "session_restarted": execution.session_restarted,
        "truncated": execution.truncated,
    }
    return {"content": content, "structuredContent": structured, "isError": not execution.succeeded}


def _azures_result(handle: Handle, execution: Execution) -> Json:
    stderr = execution.stderr
    if execution.error is not None and execution.exit_code is None:  # as on the data plane, a traceback is in stderr
        stderr += execution.error.traceback or f"{execution.error.name}: {execution.error.value}"
    structured: Json = {
        "environmentId": handle.value,
        "stdout": shorten(execution.stdout, _PROGRAMS_BUDGET),
        "stderr": shorten(stderr, _PROGRAMS_BUDGET),
        "result": None if execution.result is None else shorten(execution.result, _PROGRAMS_BUDGET),
        "exitCode": execution.exit_code,
        "executionTimeInMilliseconds": round(execution.duration * 1000),
    }
    content: list[Json] = [{"type": "text", "text": execution.text_for_model(BUDGET)}]
    content += [
        {"type": "image", "data": base64.b64encode(figure.data).decode(), "mimeType": figure.mime}
        for figure in figures_for_models(execution)
    ]
    return {"content": content, "structuredContent": structured, "isError": not execution.succeeded}


async def _launch(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    del tool, arguments
    handle = await sessions.handles.mint(context.caller)
    return _result(f"environmentId: {handle.value}", {"environmentId": handle.value})


async def _list_files(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    handle, _ = await _session(sessions, context, tool, arguments)
    directory = check_path(arguments.get("directory", DATA_DIR))
    async with sessions.handles.using(handle) as identifier:
        found = await sessions.backend.files(identifier, directory, recursive=True)
    answer = listed(found, BUDGET)
    return _result(
        answer.text, {"session_id": handle.value, "files": [_file(handle, file) for file in answer.artifact]}
    )


async def _read_file(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    handle, _ = await _session(sessions, context, tool, arguments)
    path, container_type = check_file_path(arguments["path"]), sessions.backend.container_type
    async with sessions.handles.using(handle) as identifier:
        file = within(READ_LIMIT, await sessions.backend.file(identifier, path), container_type)
        content = await download(sessions.backend, identifier, path, READ_LIMIT)
    text = as_text(file, content, BUDGET, container_type).text
    return _result(text, {"session_id": handle.value, "file": _file(handle, file), "text": text})


async def _write_file(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    path = check_file_path(arguments["path"])
    content = _content(arguments["content"], arguments.get("encoding", "text"))
    handle, is_new = await _session(sessions, context, tool, arguments)
    chunks = at_most(sessions.backend.file_limit, bytes_chunks(content), path)
    async with sessions.handles.using(handle, is_new=is_new) as identifier:
        file = await sessions.backend.upload(identifier, path, chunks)
    beginning = f"New session_id: {handle.value}\n\n" if is_new else ""
    text = f"{beginning}The file is at {file.path} ({file.size} bytes)."
    return _result(text, {"session_id": handle.value, "file": _file(handle, file)})


def _content(content: str, encoding: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True) if encoding == "base64" else content.encode()
    except (binascii.Error, ValueError) as error:  # including that of a lone surrogate
        raise InvalidRequest(f"The content must be {encoding}: {error}.") from None


async def _delete_file(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    handle, _ = await _session(sessions, context, tool, arguments)
    path = check_file_path(arguments["path"])
    async with sessions.handles.using(handle) as identifier:
        await sessions.backend.delete_file(identifier, path)
    return _result(f"Deleted {path}.", {"session_id": handle.value})


async def _reset_session(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    handle, _ = await _session(sessions, context, tool, arguments)
    await sessions.handles.reset(handle)
    return _result("The session is empty.", {"session_id": handle.value})


async def _end_session(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    handle, _ = await _session(sessions, context, tool, arguments)
    await sessions.handles.end(handle)
    return _result("The session has ended.", {"session_id": handle.value})


async def _list_sessions(sessions: Sessions, context: Context, tool: Tool, arguments: Mapping[str, Json]) -> Json:
    del tool, arguments
    handles = {handle.identifier: handle for handle in await sessions.handles.of(context.caller)}
    found = [
        {
            "session_id": handles[info.identifier].value,
            "created": info.created.isoformat(),
            "last_used": info.last_used.isoformat(),
            "expires": info.expires and info.expires.isoformat(),
        }
        for info in await sessions.backend.sessions()
        if info.identifier in handles
    ]
    text = "\n".join(f"{each['session_id']}, last used {each['last_used']}" for each in found)
    return _result(shorten(text, BUDGET) or "You have no sessions.", {"sessions": found})


async def download(backend: Backend, identifier: str, path: str, limit: int) -> bytes:
    """Return a file's content.

    Raises:
        FileRefused: it has more than `limit` bytes.
    """
    content = bytearray()
    async with aclosing(backend.download(identifier, path)) as chunks:
        limited: AsyncIterator[bytes] = at_most(limit, chunks, path)
        async for chunk in limited:
            content += chunk
    return bytes(content)


def _result(text: str, structured: Json) -> Json:
    return {"content": [{"type": "text", "text": text}], "structuredContent": structured, "isError": False}


def _file(handle: Handle, file: RemoteFile) -> Json:
    return {
        "path": visible(file.path),
        "size": file.size,
        "modified": file.modified.isoformat(),
        "uri": uri_of(handle.value, file),
    }


def _cut(text: str, budget: int) -> str:
    return visible(shorten(text, budget))


_Call: TypeAlias = Callable[[Sessions, Context, Tool, Mapping[str, Json]], Awaitable[Json]]

CALLS: Mapping[str, _Call] = MappingProxyType(
    {
        "run_code": _run_code,
        "run_command": _run_command,
        "launch": _launch,
        "list_files": _list_files,
        "read_file": _read_file,
        "write_file": _write_file,
        "delete_file": _delete_file,
        "reset_session": _reset_session,
        "end_session": _end_session,
        "list_sessions": _list_sessions,
    }
)
