"""A session: variables and files under one identifier. Most methods exist in a blocking form and as `a…`."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

from greenroom.backend import HttpRequest, OnEvent, Overrides, ShellCommand
from greenroom.errors import GreenroomError, InvalidRequest
from greenroom.models import (
    DATA_DIR,
    ContainerType,
    Event,
    Execution,
    NotCarried,
    RemoteFile,
    SessionInfo,
    SessionUsage,
)
from greenroom.progress import OnProgress, Report
from greenroom.sessions.events import astreamed, streamed
from greenroom.sessions.files import download, upload
from greenroom.sessions.following import Following
from greenroom.sessions.handle import ExecutionHandle
from greenroom.sessions.open_pool import OpenPool
from greenroom.sessions.requests import (
    Content,
    Params,
    RequestHeaders,
    Response,
    StreamedResponse,
    request_of,
    whole_response,
)
from greenroom.sessions.rules import (
    check_code,
    check_command,
    check_env,
    check_execution_id,
    check_file_path,
    check_limit,
    check_path,
    check_timeout,
    fork_identifiers,
)
from greenroom.sessions.tools import check_not_held_up, toolbox_of
from greenroom.sessions.transfers import Source
from greenroom.tools import CallLog, Toolbox, ToolLimits
from greenroom.tools.definitions import ToolLike
from greenroom.untrusted import brief


class Session:
    """Variables and files that persist under one identifier, until it is deleted or cools down.

    Created by `SessionPool.session`, which costs nothing; the first use allocates a sandbox. Any number of
    `Session` objects can share an identifier: they are the same session. As a context manager it deletes the
    session at the end.

    Every method that needs a sandbox and cannot get one raises `PoolFull`, `SandboxLost`, `PoolClosed` or
    `EngineUnavailable`; arguments that break a rule raise `InvalidRequest`.
    """

    def __init__(
        self, pool: OpenPool, identifier: str, timeout: float | None, overrides: Overrides | None = None
    ) -> None:
        self._pool = pool  # it closes itself when its last holder is dropped
        self._identifier = identifier
        self._timeout = timeout
        self._overrides = overrides  # they apply as long as this object holds them
        self._not_carried: tuple[NotCarried, ...] = ()

    @property
    def identifier(self) -> str:
        """The session's identifier."""
        return self._identifier

    @property
    def container_type(self) -> ContainerType:
        """The kind of program in the session's sandbox, which is that of its pool."""
        return self._pool.container_type

    def __repr__(self) -> str:
        return f"<Session {self._identifier!r} of {self._pool!r}>"

    # Execution

    def execute(
        self,
        code: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        tools: Iterable[ToolLike] | None = None,
        tool_limits: ToolLimits | None = None,
    ) -> Execution:
        """Run code like a notebook cell, and wait for its end; in a pool of type Shell, run it as `shell` would.

        Executions of one session run one after another. Errors in the code are returned in the `Execution`.

        Args:
            code: the code, at most 16 MiB; magics, `!commands` and top-level `await` work.
            timeout: seconds until the code is interrupted; by default the pool's `timeout`.
            env: environment variables during this execution; afterwards they have their previous values again. The code
                can print their values; Greenroom does not show them anywhere.
            tools: functions of this application that the code can call by name while it runs: annotated functions with
                a docstring, synchronous or asynchronous, or `Tool` objects. Only PythonLTS sessions have them. The time
                limit pauses while the code waits for them.
            tool_limits: limits for their calls; by default `ToolLimits()`.
        """
        return self._pool.run(self._execute(code, timeout, env, None, self._toolbox(tools, tool_limits)))

    async def aexecute(
        self,
        code: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        tools: Iterable[ToolLike] | None = None,
        tool_limits: ToolLimits | None = None,
    ) -> Execution:
        """Like `execute`. Cancelling it interrupts the code in the sandbox, and cancels its calls.

        Asynchronous tools run on this event loop.
        """
        toolbox = self._toolbox(tools, tool_limits, on_callers_loop=True)
        return await self._pool.arun(self._execute(code, timeout, env, None, toolbox))

    def stream(
        self,
        code: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        tools: Iterable[ToolLike] | None = None,
        tool_limits: ToolLimits | None = None,
        id: str | None = None,  # noqa: A002  the model's own word
    ) -> Generator[Event, None, None]:
        """Run code and yield its output as it arrives, and finally the whole `Execution`.

        Leaving the loop early interrupts the code. With an `id`, the execution can be resumed if this process ends.
        """
        toolbox = self._toolbox(tools, tool_limits, log=CallLog() if id is not None else None)
        return streamed(
            self._pool, lambda on_event: self._execute(code, timeout, env, on_event, toolbox, execution_id=id)
        )

    def astream(
        self,
        code: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        tools: Iterable[ToolLike] | None = None,
        tool_limits: ToolLimits | None = None,
        id: str | None = None,  # noqa: A002
    ) -> AsyncGenerator[Event, None]:
        """Like `stream`."""
        log = CallLog() if id is not None else None
        toolbox = self._toolbox(tools, tool_limits, on_callers_loop=True, log=log)
        return astreamed(
            self._pool, lambda on_event: self._execute(code, timeout, env, on_event, toolbox, execution_id=id)
        )

    def submit(
        self,
        code: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        tools: Iterable[ToolLike] | None = None,
        tool_limits: ToolLimits | None = None,
        id: str | None = None,  # noqa: A002
    ) -> ExecutionHandle:
        """Run code in the background, after the earlier executions of this session, and return immediately.

        Args:
            code: as for `execute`.
            timeout: seconds until the code is interrupted; by default there is no limit, as in Azure.
            env: as for `execute`.
            tools: as for `execute`. Asynchronous ones run on the caller's event loop, if there is one.
            tool_limits: as for `execute`.
            id: the identifier for `resume`: 1 to 128 letters, digits, hyphens and underscores, unique in the session;
                by default a random one.
        """
        seconds = math.inf if timeout is None else check_timeout(timeout, most=None)
        return self._submit(code, seconds, None, env=env, tools=tools, limits=tool_limits, execution_id=id)

    def resume(self, id: str, *, tools: Iterable[ToolLike] | None = None) -> ExecutionHandle:  # noqa: A002
        """Take over an execution that has an id: from `submit` or `stream`, in this process or in one that has ended.

        From now on its end, its output and its calls are delivered only here. Waiting calls are delivered to these
        tools in the order in which the code made them; `current_call()` tells which were delivered before. An execution
        from a process that has ended exists only in a pool of `greenroom serve`.

        Args:
            id: the identifier of the execution.
            tools: the functions that the execution was given, or others with their names, for its further calls.
                Without them, its calls wait until it is resumed again.

        Raises:
            InvalidRequest: the id or a tool is not valid.

        The handle's methods raise `SandboxLost` if the session does not have such an execution, or no longer has it.
        """
        return self._resume(id, None, tools)

    # Copies

    def fork(
        self, n: int | None = None, identifiers: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> list[Session]:
        """Create `n` sessions from the current state of this one: each has its own copy of the variables and files.

        The copy starts after the earlier executions of this session. Either all `n` sessions are created or none.
        Objects that cannot be copied, such as generators, open files or threads, are left out: `not_carried` of the new
        sessions lists them, and so does their first execution. If this session has lost its variables since its last
        execution, for example after a cool-down, the first execution of each copy reports that, as this session's does.

        Only pools of type PythonLTS on bubblewrap or Docker support this, in the process that opened them.

        Args:
            n: how many sessions; by default as many as `identifiers`, or one; each counts toward the pool's
                `max_concurrent_sessions`.
            identifiers: the `n` unused identifiers of the new sessions; by default random ones.
            timeout: seconds that the copy can take, once the sandboxes are ready; by default the pool's `timeout`.

        Raises:
            InvalidRequest: an argument breaks a rule, or the pool cannot copy sessions.
            ForkFailed: the copy took too long, exceeds a session's memory, or failed in a sandbox.
            PoolFull: not all sandboxes became free in time.
        """
        check_not_held_up(self._itself)
        return self._pool.run(self._fork(n, identifiers, timeout))

    async def afork(
        self, n: int | None = None, identifiers: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> list[Session]:
        """Like `fork`. Cancelling it ends the new sessions."""
        check_not_held_up(self._itself)
        return await self._pool.arun(self._fork(n, identifiers, timeout))

    @property
    def not_carried(self) -> tuple[NotCarried, ...]:
        """What could not be copied from the session that this one was forked from, if this object comes from `fork`."""
        return self._not_carried

    # Shell commands

    def shell(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Execution:
        """Run a command in `/mnt/data`, separately from the session's code, and wait for its end.

        Each command has its own shell: the next one finds its files, but not its variables or its directory. Commands
        and executions of one session run one after another. A failed command is returned as an `Execution`, like
        failed code: its `exit_code` is not 0, and its error is named `ExitCode`.

        Background processes of a command continue until the session ends; their output after the command's end is
        discarded.

        Args:
            command: for bash as a login shell (sh if bash is missing); or a program and its arguments, without a
                shell. At most 16 MiB.
            timeout: seconds until the command's processes get SIGTERM, and SIGKILL after the pool's
                `interrupt_grace`; by default the pool's `timeout`.
            stdin: the command's standard input, at most 16 MiB; by default it is empty.
            env: environment variables, in addition to the session's.
        """
        return self._pool.run(self._shell(self._command(command, stdin, env), timeout, None))

    async def ashell(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Execution:
        """Like `shell`. Cancelling it stops the command."""
        return await self._pool.arun(self._shell(self._command(command, stdin, env), timeout, None))

    def stream_shell(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Generator[Event, None, None]:
        """Run a command like `shell`, and yield its output as it arrives, and finally the whole `Execution`.

        Leaving the loop early stops the command.
        """
        return streamed(self._pool, partial(self._shell, self._command(command, stdin, env), timeout))

    def astream_shell(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Like `stream_shell`."""
        return astreamed(self._pool, partial(self._shell, self._command(command, stdin, env), timeout))

    # Files

    def upload(self, source: Source, path: str | None = None, *, on_progress: OnProgress | None = None) -> RemoteFile:
        """Upload a file or a directory to the session; a file appears only when complete, and replaces an existing one.

        For a directory, only the regular files below it are uploaded, including hidden ones: symbolic links are
        not followed, and directories without files are left out. All names and sizes are checked before the first file
        is sent; if the upload ends early, files already sent stay. The returned value has the total size of all files.

        Args:
            source: the local path of a regular file or of a directory, the content as bytes, or an open binary file.
                Exceptions of its `read` are raised by this call.
            path: the target below `/mnt/data`; by default the source's own name. A directory's files can go directly
                into `/mnt/data`.
            on_progress: called with a `Progress` up to ten times a second, on this thread, and once at the end. If it
                raises, the upload is cancelled, and this call raises its exception.

        Raises:
            InvalidRequest: the local file or directory cannot be read, or the directory has no files or over 20,000.
            FileRefused: it exceeds the pool's `file_limit`, the session's disk is full, or a directory has that name.
        """
        following = Following(on_progress)
        return following.run(self._pool, lambda: self._upload(source, path, following.report))

    async def aupload(
        self, source: Source, path: str | None = None, *, on_progress: OnProgress | None = None
    ) -> RemoteFile:
        """Like `upload`. The function `on_progress` is called in this task."""
        following = Following(on_progress)
        return await following.arun(self._pool, lambda: self._upload(source, path, following.report))

    @overload
    def download(self, path: str, *, limit: int | None = None, on_progress: OnProgress | None = None) -> bytes: ...
    @overload
    def download(
        self,
        path: str,
        to: str | os.PathLike[str],
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Path: ...
    def download(
        self,
        path: str,
        to: str | os.PathLike[str] | None = None,
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> bytes | Path:
        """Return a file's content; with `to`, write a file or directory to a local path, where it appears when done.

        A directory is downloaded with all regular files and directories below it, including hidden ones. Symbolic links
        and other files that are not regular are left out, and so are those deleted in the meantime.

        Args:
            path: the file or directory, below `/mnt/data`; with `to`, also `/mnt/data` itself.
            to: the local file; for a directory, the local directory, which must be new or empty.
            limit: the maximum number of bytes, whatever sizes the session reports; by default unlimited for a
                file, and 1 GiB for a directory.
            on_progress: as for `upload`. The total is `None` if the session's pool does not report it.

        Raises:
            FileMissing: there is no such file.
            FileRefused: it is a directory and `to` is not given, it is not a regular file, or it exceeds the limit. Or
                the local file cannot be written, for example because its directory is missing or the disk is full;
                the exception then has the `errno` of that error.
        """
        following = Following(on_progress)
        return following.run(self._pool, lambda: self._download(path, to, limit, following.report))

    @overload
    async def adownload(
        self, path: str, *, limit: int | None = None, on_progress: OnProgress | None = None
    ) -> bytes: ...
    @overload
    async def adownload(
        self,
        path: str,
        to: str | os.PathLike[str],
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Path: ...
    async def adownload(
        self,
        path: str,
        to: str | os.PathLike[str] | None = None,
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> bytes | Path:
        """Like `download`. The function `on_progress` is called in this task."""
        following = Following(on_progress)
        return await following.arun(self._pool, lambda: self._download(path, to, limit, following.report))

    def files(self, path: str = DATA_DIR, *, recursive: bool = False) -> list[RemoteFile]:
        """Return the files and directories in a directory of the session, sorted by name.

        Raises:
            FileMissing: there is no such directory.
        """
        return self._pool.run(self._files(path, recursive))

    async def afiles(self, path: str = DATA_DIR, *, recursive: bool = False) -> list[RemoteFile]:
        """Like `files`."""
        return await self._pool.arun(self._files(path, recursive))

    def file(self, path: str) -> RemoteFile:
        """Return one file's metadata.

        Raises:
            FileMissing: there is no such file.
        """
        return self._pool.run(self._file(path))

    async def afile(self, path: str) -> RemoteFile:
        """Like `file`."""
        return await self._pool.arun(self._file(path))

    def delete_file(self, path: str) -> None:
        """Delete a file.

        Raises:
            FileMissing: there is no such file.
            FileRefused: it is a directory that is not empty.
        """
        self._pool.run(self._delete_file(path))

    async def adelete_file(self, path: str) -> None:
        """Like `delete_file`."""
        await self._pool.arun(self._delete_file(path))

    # Requests, to custom containers only

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: RequestHeaders | None = None,
        content: Content | None = None,
        data: Params | bytes | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a request to the session's custom container, and return its whole response.

        A status of 400 or more is a response, not an exception. Requests of one session run at the same time.

        Args:
            method: such as `"POST"`.
            path: begins with a slash; it can include a query.
            params: additional query fields.
            headers: sent unchanged.
            content: the body, as bytes, text, or an iterable of bytes that is sent as it arrives.
            data: the fields of a form.
            json: a value that is sent as JSON.
            timeout: seconds until the response is complete; by default the pool's `timeout`.

        Raises:
            InvalidRequest: the pool does not have custom containers, or an argument breaks a rule.
            ServiceFailed: the response did not arrive in time, is not HTTP, or exceeds the pool's `file_limit`.
            SandboxLost: the container has ended.
        """
        request = request_of(method, path, params=params, headers=headers, content=content, data=data, json=json)
        return self._pool.run(self._request(request, timeout))

    async def arequest(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: RequestHeaders | None = None,
        content: Content | None = None,
        data: Params | bytes | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Like `request`."""
        request = request_of(method, path, params=params, headers=headers, content=content, data=data, json=json)
        return await self._pool.arun(self._request(request, timeout))

    def stream_request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: RequestHeaders | None = None,
        content: Content | None = None,
        data: Params | bytes | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> StreamedResponse:
        """Like `request`, for a response that is read as it arrives: `with session.stream_request(…) as response`.

        The time limit applies until the response begins. Leaving the context early closes the connection.
        """
        request = request_of(method, path, params=params, headers=headers, content=content, data=data, json=json)
        return StreamedResponse(self._pool, self._identifier, request, timeout or self._timeout)

    # End

    def info(self) -> SessionInfo | None:
        """Creation, last use and expiry; `None` if the session has not begun or has ended. Does not start a session."""
        return self._pool.run(self._pool.backend.session(self._identifier))

    async def ainfo(self) -> SessionInfo | None:
        """Like `info`."""
        return await self._pool.arun(self._pool.backend.session(self._identifier))

    def usage(self) -> SessionUsage | None:
        """What the session has used so far: processor time, memory over time, bytes, executions.

        If the session has ended, its total; `None` if it has not begun, or ended too long ago.

        Raises:
            InvalidRequest: the pool does not report usage, such as a pool in Azure.
        """
        return self._pool.run(self._pool.backend.usage(self._identifier))

    async def ausage(self) -> SessionUsage | None:
        """Like `usage`."""
        return await self._pool.arun(self._pool.backend.usage(self._identifier))

    def delete(self) -> None:
        """End the session: its sandbox, variables and files. Idempotent; the next use begins a new one."""
        self._pool.run(self._pool.backend.delete(self._identifier))

    async def adelete(self) -> None:
        """Like `delete`."""
        await self._pool.arun(self._pool.backend.delete(self._identifier))

    close = delete
    aclose = adelete

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.delete()
        except GreenroomError:
            if error is None:  # the first error is more useful
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.adelete()
        except GreenroomError:
            if error is None:
                raise

    # The shared implementation of both forms; all of it runs on the pool's loop.

    @property
    def _itself(self) -> object:
        """A key that identifies the session, whichever object it is used through."""
        return id(self._pool), self._identifier

    def _command(
        self, command: str | Sequence[str], stdin: str | bytes | None, env: Mapping[str, str] | None
    ) -> ShellCommand:
        check_not_held_up(self._itself)
        return check_command(command, stdin, env)

    def _toolbox(
        self,
        tools: Iterable[ToolLike] | None,
        limits: ToolLimits | None,
        *,
        on_callers_loop: bool = False,
        log: CallLog | None = None,
        waits: bool = True,
    ) -> Toolbox | None:
        if waits:
            check_not_held_up(self._itself)
        loop = self._pool.tool_loop
        return toolbox_of(tools, limits, loop, on_callers_loop=on_callers_loop, session=self._itself, log=log)

    async def _execute(
        self,
        code: str,
        timeout: float | None,
        env: Mapping[str, str] | None,
        on_event: OnEvent | None,
        tools: Toolbox | None,
        *,
        execution_id: str | None = None,
    ) -> Execution:
        return await self._pool.backend.execute(
            self._identifier,
            check_code(code),
            timeout=check_timeout(timeout) or self._timeout,
            on_event=on_event,
            env=check_env(env),
            tools=tools,
            execution_id=None if execution_id is None else check_execution_id(execution_id),
        )

    def _submit(
        self,
        code: str,
        timeout: float | None,
        on_event: OnEvent | None,
        *,
        env: Mapping[str, str] | None = None,
        tools: Iterable[ToolLike] | None = None,
        limits: ToolLimits | None = None,
        execution_id: str | None = None,
        waits: bool = False,
    ) -> ExecutionHandle:
        execution_id = uuid.uuid4().hex if execution_id is None else check_execution_id(execution_id)
        log = CallLog()
        toolbox = self._toolbox(tools, limits, on_callers_loop=True, log=log, waits=waits)
        code, variables = check_code(code), check_env(env)

        def execute(on_event: OnEvent) -> Coroutine[Any, Any, Execution]:
            options: Any = {"env": variables, "tools": toolbox, "execution_id": execution_id}
            backend = self._pool.backend
            return backend.execute(self._identifier, code, timeout=timeout, on_event=on_event, **options)

        kept = log if toolbox is not None else None
        return ExecutionHandle(self._pool, execution_id, execute, log=kept, on_event=on_event)

    def _resume(self, execution_id: str, on_event: OnEvent | None, tools: Iterable[ToolLike] | None) -> ExecutionHandle:
        execution_id = check_execution_id(execution_id)
        log = CallLog(known=False)
        toolbox = self._toolbox(tools, None, on_callers_loop=True, log=log, waits=False)

        def execute(on_event: OnEvent) -> Coroutine[Any, Any, Execution]:
            return self._pool.backend.resume(self._identifier, execution_id, on_event=on_event, tools=toolbox)

        kept = log if toolbox is not None else None
        return ExecutionHandle(self._pool, execution_id, execute, log=kept, on_event=on_event)

    async def _fork(self, n: int | None, identifiers: Sequence[str] | None, timeout: float | None) -> list[Session]:
        backend, overrides = self._pool.backend, self._overrides
        timeout = check_timeout(timeout) or self._timeout
        names = fork_identifiers(self._identifier, n, identifiers)
        forks = {name: None if overrides is None else replace(overrides) for name in names}  # each ends with its holder
        not_carried = await backend.fork(self._identifier, forks, timeout=timeout)
        children = [Session(self._pool, name, self._timeout, own) for name, own in forks.items()]
        for child in children:
            child._not_carried = not_carried  # noqa: SLF001
            if identifiers is None:
                backend.mark_owned(child.identifier)
        return children

    async def _shell(self, command: ShellCommand, timeout: float | None, on_event: OnEvent | None) -> Execution:
        return await self._pool.backend.shell(
            self._identifier,
            command,
            timeout=check_timeout(timeout) or self._timeout,
            on_event=on_event,
        )

    async def _request(self, request: HttpRequest, timeout: float | None) -> Response:
        return await whole_response(self._pool.backend, self._identifier, request, timeout or self._timeout)

    async def _upload(self, source: Source, path: str | None, report: Report) -> RemoteFile:
        return await upload(self._pool.backend, self._identifier, source, path, report)

    async def _download(
        self, path: str, to: str | os.PathLike[str] | None, limit: int | None, report: Report
    ) -> bytes | Path:
        return await download(self._pool.backend, self._identifier, path, to, check_limit(limit), report=report)

    async def _files(self, path: str, recursive: bool) -> list[RemoteFile]:
        if not isinstance(recursive, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(f"The option recursive must be True or False, not {brief(recursive)}.")
        return await self._pool.backend.files(self._identifier, check_path(path), recursive=recursive)

    async def _file(self, path: str) -> RemoteFile:
        return await self._pool.backend.file(self._identifier, check_file_path(path))

    async def _delete_file(self, path: str) -> None:
        await self._pool.backend.delete_file(self._identifier, check_file_path(path))


def begin(
    session: Session,
    code: str,
    timeout: float | None,
    on_event: OnEvent,
    *,
    tools: Iterable[ToolLike] | None = None,
    limits: ToolLimits | None = None,
    id: str | None = None,  # noqa: A002
    waits: bool = False,
) -> ExecutionHandle:
    """Begin an execution like `Session.submit`; its events are passed to the caller.

    Args:
        session: the session.
        code, tools, limits, id: as for `Session.submit`.
        timeout: as for `Session.execute`; infinity means no limit.
        on_event: called on the pool's event loop.
        waits: whether the caller waits for its end, as `Session.execute` does.
    """
    timeout = timeout if timeout == math.inf else check_timeout(timeout)
    return session._submit(code, timeout, on_event, tools=tools, limits=limits, execution_id=id, waits=waits)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]  a part of this module


def resume(session: Session, id: str, on_event: OnEvent, tools: Iterable[ToolLike]) -> ExecutionHandle:  # noqa: A002
    """Like `Session.resume`; `on_event` is called on the pool's event loop."""
    return session._resume(id, on_event, tools)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]  a part of this module
