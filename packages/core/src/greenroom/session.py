"""What callers hold: a pool of sessions, and a session. Each method has a blocking and an `a…` spelling."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import numbers
import operator
import os
import re
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, Self, TypeAlias, TypeVar, cast, overload

from greenroom.backend import Backend, OnEvent, Overrides
from greenroom.config.values import MAX_TIMEOUT, parse_size
from greenroom.errors import FileRefused, GreenroomError, InvalidRequest
from greenroom.local_files import check_target, local_path, open_to_read, unreadable, writing
from greenroom.models import (
    DATA_DIR,
    Event,
    Execution,
    ExecutionError,
    Output,
    PoolStatus,
    RemoteFile,
    SessionInfo,
    Status,
    StreamText,
)
from greenroom.portal import Portal
from greenroom.untrusted import brief

T = TypeVar("T")

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
"""What can be uploaded: a local path, the content itself, or an open binary file."""

_CHUNK = 256 * 1024
_MAX_CODE = 16 << 20
_MANY = 100  # events that wait for their consumer

# Azure's data-plane specification allows these in an identifier.
_IDENTIFIER = re.compile(r"""[a-zA-Z0-9_|}{\[\]:";'<>?/.,@#$%^&*()\-+=!~`]{4,128}""")


_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def check_identifier(identifier: str) -> str:
    """Return the identifier if it keeps Azure's rule.

    Raises:
        InvalidRequest: it does not.
    """
    if not isinstance(identifier, str) or not _IDENTIFIER.fullmatch(identifier):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(
            f"The session identifier {brief(identifier)} is not valid: it takes 4 to 128 characters, letters, "
            "digits and _|{}[]:\";'<>?/.,@#$%^&*()-+=!~` (no spaces)."
        )
    return identifier


def check_path(path: str) -> str:
    """Return the absolute form of a path in a session: relative paths count from `/mnt/data`.

    Raises:
        InvalidRequest: it leads out of `/mnt/data`, or is no path.
    """
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The path must be str, not {type(path).__name__}.")
    # Half of a surrogate pair, as JSON can have it, is not in any UTF-8.
    if "\0" in path or len(path) > 4096 or len(path.encode("utf-8", "replace")) > 4096 or _HALF_A_PAIR.search(path):
        raise InvalidRequest(f"The path {brief(path)} is not valid: it takes at most 4,096 bytes of UTF-8 and no NUL.")
    absolute = PurePosixPath(DATA_DIR) / path
    if ".." in absolute.parts or not absolute.is_relative_to(DATA_DIR):
        raise InvalidRequest(f"The path {brief(path)} is not valid: a session's files are below {DATA_DIR}.")
    return str(absolute)


def check_code(code: str) -> str:
    """Return the code if it can be run at all.

    Raises:
        InvalidRequest: it is empty, over 16 MiB, or has what UTF-8 cannot hold.
    """
    if not isinstance(code, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The code is not valid: it must be str, not {type(code).__name__}.")
    try:
        size = max(len(code), len(code[: _MAX_CODE + 1].encode()))
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The code is not valid: it cannot be encoded as UTF-8 ({error}).") from None
    if size > _MAX_CODE:
        raise InvalidRequest("The code must be at most 16 MiB of UTF-8. Upload what is longer, as a file.")
    if not code.strip():
        raise InvalidRequest(f"The code {code!r:.50} is not valid: it is empty.")
    return code


def check_timeout(timeout: float | None, *, most: float | None = MAX_TIMEOUT, name: str = "timeout") -> float | None:
    """Return the seconds that code may run; `None` stands for somebody else's limit.

    Raises:
        InvalidRequest: they are not positive, or more than `most`.
    """
    if timeout is None:
        return None
    if not 0 < _seconds(timeout) < float("inf"):
        raise InvalidRequest(f"The {name} {brief(timeout)} is not valid: it takes a positive number of seconds.")
    if most is not None and timeout > most:
        raise InvalidRequest(
            f"The {name} {brief(timeout)} is not valid: it is at most {most} seconds. "
            "Session.submit() has no such limit."
        )
    return timeout


def check_limit(limit: int | None) -> int | None:
    """Return the most bytes to take; `None` stands for any number.

    Raises:
        InvalidRequest: it is not a whole number, or is negative.
    """
    try:
        if limit is None or (not isinstance(limit, bool) and operator.index(limit) >= 0):
            return limit
    except TypeError:
        pass
    raise InvalidRequest(f"The limit must be a whole number of bytes, not {brief(limit)}.")


def _seconds(value: float) -> float:
    """A number as the event loop takes it; what is not one is NaN, which is not more or less than any other."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


class Session:
    """Variables and files that persist under one identifier, until it is deleted or cools down.

    Made by `SessionPool.session`; making it costs nothing, its first use allocates a sandbox. Any number of
    `Session` objects may share an identifier: they are the same session. As a context manager it deletes the
    session at the end.

    Every method raises `PoolFull`, `SandboxLost`, `PoolClosed` or `EngineUnavailable` where it needs a sandbox
    and none can be had, and `InvalidRequest` for arguments that break a rule.
    """

    def __init__(
        self, pool: SessionPool, identifier: str, timeout: float | None, overrides: Overrides | None = None
    ) -> None:
        self._pool = pool  # a pool that nobody holds any more closes itself
        self._identifier = identifier
        self._timeout = timeout
        self._overrides = overrides  # the pool knows them for as long as they are held
        self._backend = pool._backend  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  two halves of one face
        self._portal = pool._portal  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    @property
    def identifier(self) -> str:
        """The identifier it was made with."""
        return self._identifier

    def __repr__(self) -> str:
        return f"<Session {self._identifier!r} of {self._backend!r}>"

    # Execution

    def execute(self, code: str, *, timeout: float | None = None) -> Execution:
        """Run Python code, as a notebook cell, and wait for its end.

        Executions of one session run one after the other. The code's own errors come back in the `Execution`.

        Args:
            code: what to run, at most 16 MiB; magics, `!commands` and top-level `await` work.
            timeout: seconds until the code is interrupted; by default the pool's `timeout`.
        """
        return self._portal.run(self._execute(code, timeout, None))

    async def aexecute(self, code: str, *, timeout: float | None = None) -> Execution:
        """As `execute`. Cancelling it interrupts the code in the sandbox."""
        return await self._portal.arun(self._execute(code, timeout, None))

    def stream(self, code: str, *, timeout: float | None = None) -> Generator[Event, None, None]:
        """Run code and yield what it writes and shows as it happens; the whole `Execution` comes last.

        Leaving the loop early interrupts the code.
        """
        arrived = threading.Semaphore(0)
        events = _Events(arrived.release)
        future = self._portal.submit(self._execute(code, timeout, events.put))
        future.add_done_callback(events.put)
        try:
            while arrived.acquire() and not isinstance(event := events.take(), Future):
                yield event
            yield future.result()
        finally:
            future.cancel()

    async def astream(self, code: str, *, timeout: float | None = None) -> AsyncGenerator[Event, None]:
        """As `stream`."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Semaphore(0)

        def release() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(arrived.release)

        events = _Events(release)
        future = self._portal.submit(self._execute(code, timeout, events.put))
        future.add_done_callback(events.put)
        try:
            while await arrived.acquire() and not isinstance(event := events.take(), Future):
                yield event
            yield future.result()
        finally:
            future.cancel()

    def submit(self, code: str, *, timeout: float | None = None) -> ExecutionHandle:
        """Run code in the background, after what this session runs already, and return at once.

        Args:
            code: as for `execute`.
            timeout: seconds until the code is interrupted; by default there is no limit, as in Azure.
        """
        return ExecutionHandle(
            self._portal,
            self._backend,
            self._identifier,
            check_code(code),
            check_timeout(timeout, most=None),
        )

    # Files

    def upload(self, source: Source, path: str | None = None) -> RemoteFile:
        """Put a file into the session; it appears whole or not at all, and replaces one of the same name.

        Args:
            source: the local path of a regular file, the content as bytes, or an open binary file. What its
                `read` raises leaves this call.
            path: where to put it, below `/mnt/data`; by default the source's own file name.

        Raises:
            InvalidRequest: the local file cannot be read.
            FileRefused: it is over the size limit, the session's disk is full, or a directory is in the way.
        """
        return self._portal.run(self._upload(source, path))

    async def aupload(self, source: Source, path: str | None = None) -> RemoteFile:
        """As `upload`."""
        return await self._portal.arun(self._upload(source, path))

    @overload
    def download(self, path: str, *, limit: int | None = None) -> bytes: ...
    @overload
    def download(self, path: str, to: str | os.PathLike[str], *, limit: int | None = None) -> Path: ...
    def download(
        self, path: str, to: str | os.PathLike[str] | None = None, *, limit: int | None = None
    ) -> bytes | Path:
        """A file's content, or with `to` a local file that is written in pieces and appears when complete.

        Args:
            path: the file, below `/mnt/data`.
            to: the local file.
            limit: the most bytes to take, whatever the file's size was said to be; by default there is no limit.

        Raises:
            FileMissing: there is no such file.
            FileRefused: it is a directory, not a regular file, or over the limit; or the local file cannot be
                written, as its directory is missing or the disk is full: it has that error's `errno`.
        """
        return self._portal.run(self._download(path, to, limit))

    @overload
    async def adownload(self, path: str, *, limit: int | None = None) -> bytes: ...
    @overload
    async def adownload(self, path: str, to: str | os.PathLike[str], *, limit: int | None = None) -> Path: ...
    async def adownload(
        self, path: str, to: str | os.PathLike[str] | None = None, *, limit: int | None = None
    ) -> bytes | Path:
        """As `download`."""
        return await self._portal.arun(self._download(path, to, limit))

    def files(self, path: str = DATA_DIR, *, recursive: bool = False) -> list[RemoteFile]:
        """The files and directories in a directory of the session, by name.

        Raises:
            FileMissing: there is no such directory.
        """
        return self._portal.run(self._files(path, recursive))

    async def afiles(self, path: str = DATA_DIR, *, recursive: bool = False) -> list[RemoteFile]:
        """As `files`."""
        return await self._portal.arun(self._files(path, recursive))

    def file(self, path: str) -> RemoteFile:
        """One file's metadata.

        Raises:
            FileMissing: there is no such file.
        """
        return self._portal.run(self._file(path))

    async def afile(self, path: str) -> RemoteFile:
        """As `file`."""
        return await self._portal.arun(self._file(path))

    def delete_file(self, path: str) -> None:
        """Delete a file.

        Raises:
            FileMissing: there is no such file.
            FileRefused: it is a directory that is not empty.
        """
        self._portal.run(self._delete_file(path))

    async def adelete_file(self, path: str) -> None:
        """As `delete_file`."""
        await self._portal.arun(self._delete_file(path))

    # End

    def info(self) -> SessionInfo | None:
        """When it began, was last used and will end; `None` if it has not begun, or has ended. It begins nothing."""
        return self._portal.run(self._backend.session(self._identifier))

    async def ainfo(self) -> SessionInfo | None:
        """As `info`."""
        return await self._portal.arun(self._backend.session(self._identifier))

    def delete(self) -> None:
        """End the session: its sandbox, variables and files. Idempotent; the next use begins a new one."""
        self._portal.run(self._backend.delete(self._identifier))

    async def adelete(self) -> None:
        """As `delete`."""
        await self._portal.arun(self._backend.delete(self._identifier))

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
            if error is None:  # what went wrong first tells more
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

    # The one implementation of both spellings; all of it runs on the pool's loop.

    async def _execute(self, code: str, timeout: float | None, on_event: OnEvent | None) -> Execution:
        return await self._backend.execute(
            self._identifier,
            check_code(code),
            timeout=check_timeout(timeout) or self._timeout,
            on_event=on_event,
        )

    async def _upload(self, source: Source, path: str | None) -> RemoteFile:
        if isinstance(source, bytes | bytearray | memoryview):
            if path is None:
                raise InvalidRequest("An upload of bytes needs a path, such as session.upload(b'…', 'data.csv').")
            return await self._backend.upload(self._identifier, _check_file_path(path), _bytes_chunks(bytes(source)))
        if isinstance(source, str | os.PathLike):
            local = local_path(source)
            remote = _check_file_path(local.name if path is None else path)
            with open_to_read(local) as file:

                def read(size: int) -> bytes:
                    try:
                        return file.read(size)
                    except OSError as error:
                        raise unreadable(local, error) from error

                return await self._backend.upload(self._identifier, remote, _chunks_of(read))
        if not callable(getattr(source, "read", None)):
            raise InvalidRequest(
                f"The source must be a local path, bytes or an open binary file, not {type(source).__name__}."
            )
        if path is None:
            name = getattr(source, "name", "")  # of a temporary file it is a number
            path = PurePosixPath(name).name if isinstance(name, str) else ""
        return await self._backend.upload(self._identifier, _check_file_path(path), _chunks_of(source.read))

    async def _download(self, path: str, to: str | os.PathLike[str] | None, limit: int | None) -> bytes | Path:
        path, limit = _check_file_path(path), check_limit(limit)
        async with aclosing(self._backend.download(self._identifier, path)) as chunks:
            return await _keep(chunks if limit is None else _at_most(limit, chunks, path), to)

    async def _files(self, path: str, recursive: bool) -> list[RemoteFile]:
        if not isinstance(recursive, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(f"The option recursive must be True or False, not {brief(recursive)}.")
        return await self._backend.files(self._identifier, check_path(path), recursive=recursive)

    async def _file(self, path: str) -> RemoteFile:
        return await self._backend.file(self._identifier, _check_file_path(path))

    async def _delete_file(self, path: str) -> None:
        await self._backend.delete_file(self._identifier, _check_file_path(path))


async def _at_most(limit: int, chunks: AsyncIterator[bytes], path: str) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > limit:
            raise FileRefused(f"The file {path!r} is over the limit of {limit} bytes.")
        yield chunk


async def _keep(chunks: AsyncIterator[bytes], to: str | os.PathLike[str] | None) -> bytes | Path:
    if to is None:
        return b"".join([chunk async for chunk in chunks])
    target = local_path(to)
    check_target(target)
    partial = target.with_name(f".greenroom-{uuid.uuid4().hex}")
    with writing(target):
        try:
            with partial.open("xb") as file:  # writes of one chunk at a time
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
            return partial.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


class _Text(NamedTuple):
    """Text that waits, in pieces."""

    stream: Literal["stdout", "stderr"]
    content: io.StringIO


class _Events:
    """The events of an execution that wait for their consumer.

    If they are many, a piece of text joins the last one of its stream, so that millions of pieces take the memory of
    their text. `on_arrival` is called for each event that `take` will return.
    """

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        self._on_arrival = on_arrival
        self._lock = threading.Lock()
        self._waiting: deque[Output | _Text | Future[Execution]] = deque()

    def put(self, event: Event | Future[Execution]) -> None:
        if isinstance(event, Execution):  # it is what the future holds
            return
        with self._lock:
            if not isinstance(event, StreamText):
                self._waiting.append(event)
            elif (last := self._last_text(event.stream)) is not None:
                last.content.write(event.text)
                return
            else:
                text = _Text(event.stream, io.StringIO(newline=""))
                text.content.write(event.text)
                self._waiting.append(text)
        self._on_arrival()

    def _last_text(self, stream: Literal["stdout", "stderr"]) -> _Text | None:
        """The text that a further piece of this stream joins, if there is one."""
        if len(self._waiting) < _MANY:
            return None
        recent = (self._waiting[-1], self._waiting[-2])  # two, as code may write to both streams by turns
        return next((event for event in recent if isinstance(event, _Text) and event.stream == stream), None)

    def take(self) -> StreamText | Output | Future[Execution]:
        with self._lock:
            event = self._waiting.popleft()
        return StreamText(event.stream, event.content.getvalue()) if isinstance(event, _Text) else event


class ExecutionHandle:
    """An execution in the background. Made by `Session.submit`; it goes on when the handle is dropped."""

    def __init__(self, portal: Portal, backend: Backend, identifier: str, code: str, timeout: float | None) -> None:
        self.id = uuid.uuid4().hex
        """Names the execution."""
        self._portal = portal
        self._last: Execution | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._future = portal.submit(self._run(backend, identifier, code, timeout))

    @property
    def status(self) -> Literal["running"] | Status:
        """`running`, also while it waits for its turn, or how it ended.

        Raises:
            GreenroomError: it could not run, as `result` does.
        """
        return self._future.result().status if self._future.done() else "running"

    def result(self, timeout: float | None = None) -> Execution:
        """Wait for its end.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds; it goes on.
            GreenroomError: it could not run.
        """
        if timeout is None:
            return self._future.result()
        seconds = _seconds(timeout)
        if math.isnan(seconds):
            raise InvalidRequest(f"The timeout must be a number of seconds, not {brief(timeout)}.")
        return self._future.result(min(max(seconds, 0), threading.TIMEOUT_MAX))

    async def aresult(self) -> Execution:
        """As `result`. Cancelling the wait does not cancel the execution."""
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def cancel(self) -> None:
        """Interrupt it, or take it out of the queue; its result then has the status `cancelled`. Idempotent."""
        self._portal.run(self._cancel())

    async def acancel(self) -> None:
        """As `cancel`."""
        await self._portal.arun(self._cancel())

    async def _run(self, backend: Backend, identifier: str, code: str, timeout: float | None) -> Execution:
        self._task = asyncio.current_task()
        began = time.monotonic()
        limit = float("inf") if timeout is None else timeout
        try:
            return await backend.execute(identifier, code, timeout=limit, on_event=self._note)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            # Not every backend tells what a cancelled execution has shown.
            return self._last or Execution(
                id=self.id,
                status="cancelled",
                error=ExecutionError("CancelledError", "The execution was cancelled."),
                duration=time.monotonic() - began,
            )

    def _note(self, event: Event) -> None:
        """Keep the execution, which comes last; what it showed before is in it."""
        if isinstance(event, Execution):
            self._last = event

    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._cancelled = True
            self._task.cancel()
            await asyncio.wait([self._task])


def _check_file_path(path: str) -> str:
    absolute = check_path(path)
    if absolute == DATA_DIR:
        raise InvalidRequest(f"The path {brief(path)} is not valid: it names no file below {DATA_DIR}.")
    return absolute


async def _bytes_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


async def _chunks_of(read: Callable[[int], object]) -> AsyncIterator[bytes]:
    while True:
        chunk = await asyncio.to_thread(_read_chunk, read)
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise InvalidRequest(f"The source's read() must return bytes, not {type(chunk).__name__}.")
        if not chunk:
            return
        yield bytes(cast("bytes", chunk))


def _read_chunk(read: Callable[[int], object]) -> object:
    try:
        return read(_CHUNK)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        # A future cannot hold StopIteration, and the others, such as SystemExit, would end the pool's event loop.
        raise InvalidRequest(f"The source's read() must not raise {type(error).__name__}.") from error


class SessionPool:
    """Hands out sessions by identifier. Made by `greenroom.connect`.

    One pool serves blocking code, threads and any number of event loops at once. As a context manager it closes
    itself at the end, and its sessions end; in Azure those with an identifier of the caller's choice cool down
    instead, as other processes may use them.
    """

    def __init__(self, make_backend: Callable[[], Coroutine[Any, Any, Backend]], description: str) -> None:
        """`make_backend` runs on the pool's own event loop, which every later call uses too."""
        self._portal = Portal(f"greenroom {description}")
        try:
            self._backend = self._portal.run(make_backend())
        except BaseException:
            self._portal.close()
            raise
        # Also at the exit of the interpreter, and when the last reference goes.
        self._finalizer = weakref.finalize(self, _shut, self._backend, self._portal)

    def session(
        self, identifier: str | None = None, *, timeout: float | None = None, memory: int | str | None = None
    ) -> Session:
        """The session of that name, or with none a new one with a random name.

        Args:
            identifier: 4 to 128 characters, by Azure's rule.
            timeout: seconds that an execution of this session may take; by default the pool's `timeout`.
            memory: bytes that this session may use, or `"512Mi"`; by default the pool's `memory`. It holds from
                the next use on, also for a session that has begun.

        Raises:
            InvalidRequest: a value breaks a rule, or the pool cannot give one session its own memory.
        """
        timeout = check_timeout(timeout)
        if identifier is None:
            identifier = uuid.uuid4().hex
            self._backend.adopt(identifier)
        else:
            check_identifier(identifier)
        overrides = None
        if memory is not None:
            overrides = Overrides(memory=parse_size(memory, "memory"))
            self._backend.configure(identifier, overrides)
        return Session(self, identifier, timeout, overrides)

    def sessions(self) -> list[SessionInfo]:
        """The sessions that hold a sandbox, by identifier."""
        return self._portal.run(self._backend.sessions())

    async def asessions(self) -> list[SessionInfo]:
        """As `sessions`."""
        return await self._portal.arun(self._backend.sessions())

    def status(self) -> PoolStatus:
        """How the pool is doing: what it holds, and what it has done so far."""
        return self._portal.run(self._backend.status())

    async def astatus(self) -> PoolStatus:
        """As `status`."""
        return await self._portal.arun(self._backend.status())

    def close(self) -> None:
        """End the pool: its sandboxes, or what it holds in Azure. Idempotent; bounded in time."""
        self._finalizer()

    async def aclose(self) -> None:
        """As `close`."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<SessionPool {self._backend!r}>"


def _shut(backend: Backend, portal: Portal) -> None:
    portal.close(backend.close)
