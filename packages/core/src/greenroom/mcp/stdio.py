"""The transport over standard streams: a line per message, for a client that started this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Coroutine
from functools import partial
from typing import cast

from greenroom.mcp.calls import Context
from greenroom.mcp.endpoint import Endpoint, Peer, context_of
from greenroom.mcp.feed import ClientGone
from greenroom.mcp.protocol import (
    INVALID_REQUEST,
    OLDEST,
    TOO_BUSY,
    Json,
    Message,
    Notification,
    ProtocolError,
    Request,
    error_message,
    notification,
    parse,
    read,
    read_batch,
)
from greenroom.wire.values import dump

MOST_BYTES = 32 << 20
"""Bytes of one message: the largest code, written with escapes."""
_MOST_RUNNING = 100
_MOST_WAITING = 200
"""The most unsent responses, including those of running requests, before reading pauses."""
_PIECE = 64 * 1024
_LARGE = 256 * 1024
_LAST_ANSWERS = 0.5
"""Seconds for requests to complete after the client has closed its end; then they are cancelled."""
_LAST_WRITES = 2.0
"""Seconds for the remaining responses to reach the client after it has closed its end."""


class Stdio:
    """Serves one client. Its sessions end with it: the caller closes the backend."""

    def __init__(self, endpoint: Endpoint, reads_from: int, writes_to: int) -> None:
        """Take the descriptors of the two streams, which only this object may use."""
        self._endpoint = endpoint
        self._reader = _Reader(reads_from)
        self._writer = _Writer(writes_to)
        self._peer = Peer()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until the client closes its end, or accepts nothing more."""
        self._reader.start()
        self._writer.start()
        broken = asyncio.create_task(self._writer.broken.wait())
        try:
            while True:
                while len(self._tasks) >= _MOST_WAITING and not broken.done():
                    await asyncio.wait({*self._tasks, broken}, return_when=asyncio.FIRST_COMPLETED)
                reading = asyncio.create_task(self._reader.lines.get())
                await asyncio.wait([reading, broken], return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    reading.cancel()
                    return
                line = reading.result()
                if line is None:
                    if self._tasks:
                        await asyncio.wait(self._tasks, timeout=_LAST_ANSWERS)
                    return
                await self._take(line)
        finally:
            broken.cancel()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_LAST_WRITES)
            await self._writer.close()

    async def _take(self, line: bytes | ProtocolError) -> None:
        """Start to handle a line. Only `initialize` completes before the next line is read."""
        try:
            if isinstance(line, ProtocolError):
                raise line
            value = await asyncio.to_thread(parse, line) if len(line) > _LARGE else parse(line)
            version = self._peer.version or OLDEST
            if isinstance(value, list):
                self._start(self._answer_batch(read_batch(cast("list[Json]", value), version), version))
                return
            message = read(value)
        except ProtocolError as error:
            self._start(self._writer.send(error_message(error)))
            return
        match message:
            case Request(method="initialize"):
                self._start(self._writer.send(await self._answer(message, version)))
            case Request():
                self._start(self._answer_one(message, version))
            case Notification():
                self._note(message)
            case _:
                pass

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ClientGone):
            asyncio.get_running_loop().call_exception_handler({"message": "a response failed", "exception": error})

    def _note(self, message: Notification) -> None:
        if message.method == "notifications/cancelled":
            self._peer.cancel(message.params)

    async def _answer_one(self, request: Request, version: str) -> None:
        answer = await self._answer(request, version)
        if answer is not None:
            await self._writer.send(answer)

    async def _answer_batch(self, messages: list[Message | ProtocolError], version: str) -> None:
        answers: list[Json] = [error_message(message) for message in messages if isinstance(message, ProtocolError)]
        for message in messages:
            if isinstance(message, Notification):
                self._note(message)
        requests = [message for message in messages if isinstance(message, Request)]
        answered = await asyncio.gather(*(self._answer(request, version) for request in requests))
        answers += [answer for answer in answered if answer is not None]
        if answers:
            await self._writer.send(answers)

    async def _answer(self, request: Request, version: str) -> Json | None:
        try:
            if len(self._peer.running) >= _MOST_RUNNING:
                raise ProtocolError(TOO_BUSY, f"At most {_MOST_RUNNING} requests can run at the same time.")
            known = Context(caller=None, version=version, lists=True, notify=self._notify)
            context = context_of(request, self._peer, known)
        except ProtocolError as error:
            return error_message(error, request.id)
        return await self._endpoint.exchange(request, self._peer, context)

    async def _notify(self, method: str, params: Json) -> None:
        await self._writer.send(notification(method, params))


class _Reader:
    """Reads lines in a separate thread: a stream can be a pipe, a file or a terminal.

    The thread is a daemon, as a read of another process's pipe cannot be cancelled.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.lines: asyncio.Queue[bytes | ProtocolError | None] = asyncio.Queue(1)
        """Lines without line endings, or the error for an invalid line; `None` at the end of the stream."""

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(loop,), name="greenroom stdin", daemon=True).start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        def put(line: bytes | ProtocolError | None) -> None:
            asyncio.run_coroutine_threadsafe(self.lines.put(line), loop).result()

        # The loop ends when the client no longer matters.
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):
            line, too_long = bytearray(), False
            while piece := self._read():
                *ends, rest = piece.split(b"\n")
                for end in ends:
                    if too_long or len(line) + len(end) > MOST_BYTES:
                        put(ProtocolError(INVALID_REQUEST, f"A message must have at most {MOST_BYTES} bytes."))
                    elif (whole := bytes(line + end)).strip():
                        put(whole)
                    line, too_long = bytearray(), False
                line += rest
                if len(line) > MOST_BYTES:
                    line, too_long = bytearray(), True
            put(None)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _PIECE)
        except OSError:  # from a terminal that was closed
            return b""


class _Writer:
    """Writes messages in a separate thread, in order, so that a client that does not read only delays itself."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self.broken = asyncio.Event()
        """Set when the client cannot be reached any more."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="greenroom stdout", daemon=True).start()

    async def send(self, message: Json) -> None:
        """Write a message; return when the client, or a pipe to it, has received it.

        Raises:
            ClientGone: the client cannot be reached.
        """
        written = self._loop.create_future()
        self._waiting.put((dump(message), written))
        await written

    async def close(self) -> None:
        """Wait briefly for a pending write."""
        written = self._loop.create_future()
        self._waiting.put((b"", written))
        self._waiting.put(None)
        await asyncio.wait([written], timeout=_LAST_WRITES)
        if written.done() and not written.cancelled():
            written.exception()

    def _run(self) -> None:
        error: OSError | None = None
        while (next_one := self._waiting.get()) is not None:
            content, written = next_one
            if error is None:
                try:
                    self._write(content)
                except OSError as failed:
                    error = failed
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(partial(self._note, written, error))

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _note(self, written: asyncio.Future[None], error: OSError | None) -> None:
        if error is not None:
            self.broken.set()
        if written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(ClientGone(str(error)))
