"""The host's end of the conversation with a sandbox's runner.

Whatever arrives may come from hostile code: every field is checked for its type, every amount is counted before it is
kept, every wait has a bound, and what breaks the rules costs the sandbox its life and nobody else anything. An honest
runner keeps the same limits by itself, and says how much it has left out.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import itertools
import json
import os
import re
import signal
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar, cast

from greenroom.backend import OnEvent
from greenroom.engines.base import Sandbox
from greenroom.errors import FileMissing, FileRefused, GreenroomError, SandboxLost
from greenroom.models import DATA_DIR, Execution, ExecutionError, Output, RemoteFile, Status, StreamText
from greenroom.runner.json_weight import TooDeep, weigh_json
from greenroom.runner.protocol import (
    ERROR_LIMITS,
    MAX_ENDING,
    MAX_LIST,
    MAX_NAME,
    MAX_OUTPUTS,
    VERSION,
    Decoder,
    FrameError,
    encode,
    output_cost,
)
from greenroom.untrusted import without_controls

T = TypeVar("T")

_CHUNK = 256 * 1024
_MAX_FILES = 20_000  # more than that the runner does not list
_MAX_WEIGHT = 64 << 20  # of such a list, or of an execution's ending, in memory
_PIECE = 16 * 1024  # of what has arrived, taken at one go
_TURN = 0.002  # seconds after which other sessions have theirs
_LARGE = 256 * 1024  # bytes of JSON that are worth another thread
_SEND_TIMEOUT = 20.0  # until a runner takes what it is sent, which an honest one does whatever its code does
_REPLY_TIMEOUT = 60.0  # of one file operation, which the runner does immediately
_PRELOAD_TIMEOUT = 120.0
_STOP_MARGIN = 10.0  # beyond the grace period, until a runner counts as dead
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

_REASONS = {
    errno.ENOSPC: "the session's disk is full",
    errno.EDQUOT: "the session's disk is full",
    errno.EISDIR: "it is a directory",
    errno.ENOTEMPTY: "the directory is not empty",
    errno.ELOOP: "a symbolic link is in its way",
    errno.EINVAL: "it is not a regular file",
    errno.ENXIO: "it is not a regular file",
    errno.ENOTDIR: "a file or a symbolic link is in its way",
    errno.ENAMETOOLONG: "the name is too long",
    errno.E2BIG: "there are more files than a list can hold",
}


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """What one execution may take: seconds, and bytes of text and of rich outputs."""

    timeout: float
    grace: float
    text: int
    display: int


class _Text:
    """One stream as it comes in: pieces of UTF-8 that may break anywhere.

    It is kept as bytes, since a `str` for each small piece would take fifty times their memory.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> str:
        """The characters that are complete with these bytes."""
        self._data += data
        return self._decoder.decode(data)

    def clear(self) -> None:
        held, _ = self._decoder.getstate()  # the beginning of a character belongs to what follows
        self._data[:] = held

    def __str__(self) -> str:
        return self._data.decode("utf-8", "replace")


@dataclass(slots=True)
class _Shown:
    """A place for a rich output, whose content an update may replace."""

    output: Output


class _Frame(NamedTuple):
    header: dict[str, Any]
    body: bytes


@dataclass(slots=True)
class _Request:
    """What is asked of the runner, and the most bytes that its reply may have."""

    reply: asyncio.Future[_Frame]
    most: int


class _Running:
    """An execution under way."""

    def __init__(self, limits: ExecutionLimits, on_event: OnEvent | None) -> None:
        self.id = uuid.uuid4().hex
        self.limits = limits
        self.on_event = on_event
        self.began = time.monotonic()
        self.done: asyncio.Future[_Frame] = asyncio.get_running_loop().create_future()
        self.texts = {"stdout": _Text(), "stderr": _Text()}
        self.outputs: list[_Shown] = []
        self.displays: dict[str, _Shown] = {}
        self.text_left = limits.text
        self.display_left = limits.display
        self.clear_pending = False

    def add_text(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        self._clear_if_pending()
        if not 0 < len(data) <= self.text_left:
            raise FrameError("more text than was allowed, or none")
        self.text_left -= len(data)
        if (text := self.texts[stream].add(data)) and self.on_event:
            self.on_event(StreamText(stream, text))

    async def add_output(self, header: dict[str, Any], body: bytes) -> None:
        display_id, update = header.get("display_id"), header.get("update") is True
        if isinstance(display_id, str) and len(display_id) > MAX_NAME:
            raise FrameError("the name of a display is too long")
        if not update:  # which shows nothing new
            self._clear_if_pending()
        cost = await _aside(body, lambda: _cost(body, self.display_left))
        if cost > self.display_left or (not update and len(self.outputs) >= MAX_OUTPUTS):
            raise FrameError("more output than was allowed")
        self.display_left -= cost
        output = await _aside(body, lambda: _output(header, body))
        shown = self.displays.get(display_id) if isinstance(display_id, str) else None
        if shown is not None:  # every display of that name shows it now
            shown.output = output
        elif update:
            return  # a display of an earlier execution, which is told already
        else:
            shown = _Shown(output)
            if isinstance(display_id, str):
                self.displays[display_id] = shown
        if not update:
            self.outputs.append(shown)
        if self.on_event:
            self.on_event(output)

    def clear(self, *, wait: bool) -> None:
        """Forget what was shown, now or with the next output, as `clear_output` asks for."""
        self.clear_pending = True
        if not wait:
            self._clear_if_pending()

    def _clear_if_pending(self) -> None:
        if self.clear_pending:
            self.clear_pending = False
            self.outputs.clear()
            self.displays.clear()
            for text in self.texts.values():
                text.clear()

    async def finish(self, *, timed_out: bool) -> Execution:
        """The execution, which the runner says has ended.

        Raises:
            FrameError: it says so in a way that breaks the rules.
        """
        header, body = self.done.result()
        fields = await _aside(body, lambda: _mapping(_parse(body, MAX_ENDING)))
        error = _ending(header, fields, self.limits.timeout) if timed_out else _error(header, fields)
        return self._told(
            status="timed_out" if timed_out else "succeeded" if error is None else "failed",
            error=error,
            duration=_number(header, "duration"),
            files=tuple(_files(fields.get("files"))),
            state_lost="crash" in header or header.get("state_lost") is True,
            truncated=int(_number(header, "truncated")),
        )

    def cancelled(self) -> Execution:
        """The execution as far as it came until its caller cancelled it."""
        error = ExecutionError("CancelledError", "The execution was cancelled.")
        return self._told(status="cancelled", error=error, duration=time.monotonic() - self.began)

    def _told(self, *, status: Status, **ending: Any) -> Execution:
        outputs = tuple(shown.output for shown in self.outputs)
        execution = Execution(
            id=self.id,
            status=status,
            stdout=str(self.texts["stdout"]),
            stderr=str(self.texts["stderr"]),
            result=next((output.text for output in reversed(outputs) if output.is_result), None),
            outputs=outputs,
            **ending,
        )
        if self.on_event:
            self.on_event(execution)
        return execution


class Channel:
    """One sandbox's runner, spoken to.

    `on_lost` is called once, when the sandbox has ended or broken the rules; from then on every call raises
    `SandboxLost`.
    """

    def __init__(self, sandbox: Sandbox, on_lost: Callable[[], None]) -> None:
        self._sandbox = sandbox
        self._on_lost = on_lost
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._preloaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests: dict[int, _Request] = {}
        self._given_up: set[int] = set()
        """Requests that nobody waits for any more, and whose replies may yet come."""
        self._numbers = itertools.count(1)
        self._running: tuple[int, _Running] | None = None
        self._turn = asyncio.Lock()
        self._lost: SandboxLost | None = None
        self._stops: set[asyncio.Task[Any]] = set()
        self._reader = asyncio.create_task(self._read())

    @property
    def lost(self) -> bool:
        return self._lost is not None

    async def ready(self) -> None:
        """Wait until the runner takes code.

        Raises:
            SandboxLost: it ended first; the message has what it said.
        """
        await asyncio.shield(self._ready)
        if self._lost is not None:  # since then
            raise self._lost

    async def preload(self, modules: tuple[str, ...]) -> None:
        """Have modules imported, those that are there; code may be given meanwhile."""
        await self._send({"op": "preload"}, json.dumps(modules).encode())
        async with asyncio.timeout(_PRELOAD_TIMEOUT):
            await asyncio.shield(self._preloaded)

    async def limit_memory(self, memory: int) -> None:
        await self._sandbox.limit_memory(memory)

    async def take_full_share(self) -> None:
        await self._sandbox.take_full_share()

    async def close(self, reason: str) -> None:
        """End the sandbox; who still waits for it is told the reason."""
        self._fail(reason)
        for task in (self._reader, *self._stops):
            task.cancel()
        await self._sandbox.kill()
        await asyncio.gather(self._reader, *self._stops, return_exceptions=True)

    # Execution

    async def execute(self, code: str, limits: ExecutionLimits, on_event: OnEvent | None) -> Execution:
        """Run code when those before it are done.

        Cancelling interrupts it; the next one waits until it has ended.
        """
        await self._turn.acquire()
        running = _Running(limits, on_event)
        number = next(self._numbers)
        try:
            self._running = (number, running)
            order = {"op": "execute", "id": number, "text_limit": limits.text, "output_limit": limits.display}
            await self._send(order, code.encode())
            timed_out = not await _within(running.done, limits.timeout)
            if timed_out:
                await asyncio.wait([self._in_background(self._stop(number, running))])
            try:
                execution = await running.finish(timed_out=timed_out)
            except FrameError as error:
                raise self._fail(str(error)) from error
        except asyncio.CancelledError:
            if self._lost is None:
                self._in_background(self._stop(number, running)).add_done_callback(lambda _: self._turn.release())
                running.cancelled()
                raise
            self._turn.release()
            raise
        except BaseException:
            self._turn.release()
            raise
        self._running = None
        self._turn.release()
        return execution

    async def _stop(self, number: int, running: _Running) -> None:
        """Interrupt an execution and see it end, one way or the other."""
        with contextlib.suppress(SandboxLost):
            if not running.done.done():
                await self._send({"op": "interrupt", "id": number, "grace": running.limits.grace})
                if not await _within(running.done, running.limits.grace + _STOP_MARGIN):
                    self._fail("it did not stop its code when it was told to")
        if running.done.done() and running.done.exception() is not None:
            return
        self._running = None

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)
        return task

    # Files

    async def upload(self, path: str, chunks: AsyncIterator[bytes], limit: int) -> RemoteFile:
        header, _ = await self._request(path, {"op": "open", "path": path, "mode": "w"})
        file = self._handle(header)
        size = 0
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise FileRefused(errno.EFBIG, f"The file is over the limit of {limit} bytes", path)
                for start in range(0, len(chunk), _CHUNK):
                    await self._request(path, {"op": "write", "file": file}, chunk[start : start + _CHUNK])
            header, _ = await self._request(path, {"op": "finish", "file": file})
        finally:
            self._in_background(self._forget(file))
        return self._entry(header)

    async def download(self, path: str, limit: int) -> AsyncGenerator[bytes, None]:
        header, _ = await self._request(path, {"op": "open", "path": path, "mode": "r"})
        file = self._handle(header)
        size = 0
        try:
            if self._entry(header).size > limit:
                raise FileRefused(errno.EFBIG, f"The file is over the limit of {limit} bytes", path)
            while True:
                _, data = await self._request(path, {"op": "read", "file": file, "size": _CHUNK}, most=_CHUNK)
                if not data:
                    break
                size += len(data)
                if size > limit:  # it grows as it is read
                    raise FileRefused(errno.EFBIG, f"The file is over the limit of {limit} bytes", path)
                yield data
        finally:
            self._in_background(self._forget(file))

    async def files(self, path: str, *, recursive: bool) -> list[RemoteFile]:
        _, body = await self._request(path, {"op": "list", "path": path, "recursive": recursive}, most=MAX_LIST)
        try:
            return await _aside(body, lambda: _files(_parse(body, MAX_LIST)))
        except FrameError as error:
            raise self._fail("it sent a broken list of files") from error

    async def file(self, path: str) -> RemoteFile:
        header, _ = await self._request(path, {"op": "stat", "path": path})
        return self._entry(header)

    async def delete_file(self, path: str) -> None:
        await self._request(path, {"op": "delete", "path": path})

    def _entry(self, header: dict[str, Any]) -> RemoteFile:
        try:
            return _file(header.get("entry"))
        except FrameError as error:
            raise self._fail(str(error)) from error

    def _handle(self, header: dict[str, Any]) -> int:
        file = header.get("file")
        if not isinstance(file, int):
            raise self._fail("it opened a file and gave no number for it")
        return file

    async def _forget(self, file: int) -> None:
        with contextlib.suppress(GreenroomError):
            await self._request("", {"op": "close", "file": file})

    # Frames

    async def _request(self, path: str, header: dict[str, Any], body: bytes = b"", *, most: int = 0) -> _Frame:
        """The runner's reply, with a body of `most` bytes at most."""
        number = next(self._numbers)
        request = self._requests[number] = _Request(asyncio.get_running_loop().create_future(), most)
        try:
            await self._send({**header, "id": number}, body)
            async with asyncio.timeout(_REPLY_TIMEOUT):
                reply, content = await request.reply
        except TimeoutError:
            raise self._fail("it did not answer") from None
        except asyncio.CancelledError:
            if request.reply.cancelled():
                self._given_up.add(number)
            raise
        finally:
            del self._requests[number]
        code = reply.get("errno")
        if code is not None:
            raise _file_error(code, path)
        return _Frame(reply, content)

    async def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        if self._lost is not None:
            raise self._lost
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                await self._sandbox.send(encode(header, body))
        except TimeoutError:
            raise self._fail("it does not take what it is sent") from None
        except OSError:
            raise self._fail("it has ended") from None

    async def _read(self) -> None:
        decoder = Decoder()
        clock = time.monotonic
        turn_ends = clock() + _TURN
        try:
            while data := await self._sandbox.receive():
                for start in range(0, len(data), _PIECE):
                    decoder.max_body = self._most()
                    for header, body in decoder.feed(data[start : start + _PIECE]):
                        await self._hear(header, body)
                    if clock() >= turn_ends:  # a flood of frames must not keep other sessions waiting
                        await asyncio.sleep(0)
                        turn_ends = clock() + _TURN
            diagnosis = await self._sandbox.diagnosis()
            self._fail(diagnosis or "it has ended")
        except FrameError as error:
            self._fail(f"it broke the rules of the conversation: {error}")
        except OSError as error:
            self._fail(f"the engine lost it: {error}")

    def _most(self) -> int:
        """Bytes that the body of a frame may have, by what the runner has been asked for."""
        most = max((request.most for request in self._requests.values()), default=0)
        if self._given_up:
            most = max(most, MAX_LIST)
        if self._running is not None:
            _, running = self._running
            most = max(most, running.text_left, running.display_left, MAX_ENDING)
        return most

    async def _hear(self, header: dict[str, Any], body: bytes) -> None:
        event, number = header.get("ev"), header.get("id")
        if self._running is not None and self._running[0] == number and event != "reply":
            await self._hear_execution(self._running[1], header, body)
        elif event == "reply" and isinstance(number, int) and number in self._requests:
            request = self._requests[number]
            if request.reply.done() or len(body) > request.most:
                raise FrameError("a second reply, or one that is too long")
            request.reply.set_result(_Frame(header, body))
        elif event == "reply" and isinstance(number, int) and number in self._given_up:
            self._given_up.discard(number)
        elif event == "ready" and not self._ready.done():
            if header.get("version") != VERSION:
                raise FrameError(f"the runner speaks version {header.get('version')!r:.20}, not {VERSION}")
            self._ready.set_result(None)
        elif event == "preloaded" and not self._preloaded.done():
            self._preloaded.set_result(None)
        else:
            raise FrameError("a frame that was not asked for")

    async def _hear_execution(self, running: _Running, header: dict[str, Any], body: bytes) -> None:
        if running.done.done():
            raise FrameError("a frame after the end of its execution")
        match header.get("ev"):
            case "text":
                stream = header.get("stream")
                if stream not in ("stdout", "stderr"):  # no set: it may be of a type that no set takes
                    raise FrameError("text of no stream")
                running.add_text(stream, body)
            case "output":
                await running.add_output(header, body)
            case "clear":
                running.clear(wait=header.get("wait") is True)
            case "done":
                running.done.set_result(_Frame(header, body))
            case _:
                raise FrameError("a frame of no known kind")

    def _fail(self, reason: str) -> SandboxLost:
        """From here on, the sandbox is lost; returns the error that says so."""
        if self._lost is None:
            reason = without_controls(reason)  # which may be what the sandbox wrote
            self._lost = SandboxLost(
                f"The sandbox {self._sandbox.id} is lost: {reason}. Its session's variables and files are gone; "
                "the next use of the identifier begins a new session."
            )
            waiting: list[asyncio.Future[Any]] = [self._ready, self._preloaded]
            waiting += [request.reply for request in self._requests.values()]
            if self._running is not None:
                waiting.append(self._running[1].done)
            for future in waiting:
                if not future.done():
                    future.set_exception(self._lost)
                    future.exception()  # not every one is awaited
            self._on_lost()
        return self._lost


async def _within(future: asyncio.Future[Any], seconds: float) -> bool:
    """Whether the future was done in time; raises what it holds."""
    done, _ = await asyncio.wait([future], timeout=seconds)
    if done:
        future.result()
    return bool(done)


def _text(value: object, limit: int) -> str:
    return value[:limit].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


async def _aside(body: bytes, work: Callable[[], T]) -> T:
    """What work on a body comes to; in another thread where it takes long enough for others to wait."""
    return work() if len(body) < _LARGE else await asyncio.to_thread(work)


def _cost(body: bytes, left: int) -> int:
    try:
        return output_cost(body, left)
    except TooDeep as error:
        raise FrameError(str(error)) from error


def _parse(body: bytes, most: int) -> object:
    """JSON, without halves of surrogate pairs, which no text can be encoded with.

    Raises:
        FrameError: it is none, or has more than `most` bytes, or takes too much memory.
    """
    try:
        if len(body) > most or weigh_json(body, _MAX_WEIGHT) > _MAX_WEIGHT:
            raise FrameError("a frame's body is too large")
    except TooDeep as error:
        raise FrameError(str(error)) from error
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():
            content = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame's body is not JSON") from error
    return content


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FrameError("not an object where one belongs")
    return cast("dict[str, Any]", value)  # JSON has no other keys


def _number(mapping: dict[str, Any], key: str) -> float:
    value = mapping.get(key)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e20 else 0.0


def _output(header: dict[str, Any], body: bytes) -> Output:
    fields = _mapping(_parse(body, len(body)))
    data, metadata = _mapping(fields.get("data")), _mapping(fields.get("metadata"))
    return Output(data, metadata, is_result=header.get("result") is True)


def _error(header: dict[str, Any], fields: dict[str, Any]) -> ExecutionError | None:
    """The error of code that ended by itself."""
    if "crash" in header:
        crash = _mapping(header["crash"])
        code = crash.get("code")
        code = code if isinstance(code, int) else 0
        if crash.get("oom") is True:
            return ExecutionError("MemoryError", "The code used more memory than the session may, and was killed.")
        how = f"was killed by signal {-code} ({_signal_name(-code)})" if code < 0 else f"exited with code {code}"
        return ExecutionError("WorkerCrashed", f"The Python process that ran the code {how}.")
    if fields.get("error") is None:
        return None
    error = _mapping(fields["error"])
    parts = {name: _ANSI.sub("", _text(error.get(name), limit)) for name, limit in ERROR_LIMITS.items()}
    return ExecutionError(**{**parts, "name": parts["name"] or "Exception"})


def _ending(header: dict[str, Any], fields: dict[str, Any], timeout: float) -> ExecutionError:
    """The error of code that was stopped at its deadline."""
    how = "killed, as it did not react" if "crash" in header else "interrupted"
    error = None if "crash" in header else _error(header, fields)
    return ExecutionError(
        "TimeoutError",
        f"The code ran for longer than {timeout:g} seconds and was {how}.",
        traceback=error.traceback if error else "",
        summary=error.summary if error else "",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _file(entry: object) -> RemoteFile:
    fields = _mapping(entry)
    path = _text(fields.get("path"), 8192)
    if not path.startswith(f"{DATA_DIR}/") or ".." in path.split("/"):
        raise FrameError("a file's entry has no path of a session")
    seconds = min(_number(fields, "modified") / 1e9, 253402300799)
    return RemoteFile(
        path=path,
        size=int(_number(fields, "size")),
        modified=datetime.fromtimestamp(seconds, UTC),
        is_directory=fields.get("directory") is True,
    )


def _files(entries: object) -> list[RemoteFile]:
    if not isinstance(entries, list):
        raise FrameError("a list of files is not a list")
    if len(cast("list[object]", entries)) > _MAX_FILES:
        raise FrameError("a list of files is longer than it may be")
    return [_file(entry) for entry in cast("list[object]", entries)]


def _file_error(code: object, path: str) -> GreenroomError:
    number = code if isinstance(code, int) and 0 < code < 4096 else errno.EIO
    if number == errno.ENOENT:
        return FileMissing(number, "The session has no such file", path)
    reason = _REASONS.get(number) or os.strerror(number).lower()
    return FileRefused(number, f"The session's file system refuses: {reason}", path)
