"""An empty sandbox, whose runner sends the frames of a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from greenroom.engines.base import StreamSandbox
from greenroom.errors import EngineUnavailable
from greenroom.runner.protocol import VERSION, Decoder, encode

Answer = Callable[[dict[str, Any], bytes], Iterable[bytes]]
"""The runner's answer to one frame from the host; each item arrives separately."""

READY = encode({"ev": "ready", "version": VERSION})


def done(number: int, *, error: object = None, files: object = (), **fields: Any) -> bytes:
    """The frame that ends an execution."""
    ending = json.dumps({"error": error, "files": files}).encode()
    return encode({"ev": "done", "id": number, "duration": 0.5, "truncated": 0, **fields}, ending)


def text(number: int, content: bytes, stream: str = "stdout") -> bytes:
    return encode({"ev": "text", "id": number, "stream": stream}, content)


def output(number: int, data: dict[str, Any], **fields: Any) -> bytes:
    """The frame of a rich output."""
    content = json.dumps({"data": data, "metadata": {}}).encode()
    return encode({"ev": "output", "id": number, "result": False, **fields}, content)


def shown_error(number: int, traceback: str, **fields: Any) -> bytes:
    """The frame of an error that the code shows."""
    error = {"name": "ValueError", "value": "bad", "traceback": traceback, "summary": ""}
    return encode({"ev": "error", "id": number, **fields}, json.dumps(error).encode())


def reply(number: int, body: bytes = b"", **fields: Any) -> bytes:
    return encode({"ev": "reply", "id": number, **fields}, body)


def obey(header: dict[str, Any], _body: bytes) -> Iterable[bytes]:
    """Do as an honest runner with an empty `/mnt/data` would, and end any code immediately."""
    match header["op"]:
        case "execute":
            yield done(header["id"])
        case "preload":
            yield encode({"ev": "preloaded"})
        case "environment":
            pass
        case "list":
            yield reply(header["id"], b"[]")
        case _:
            yield reply(header["id"])


class ScriptedSandbox(StreamSandbox):
    """A `StreamSandbox` by script.

    Attributes:
        answer: what its runner says to each frame.
        heard: the frames that it was sent.
        kills: how often it was killed.
        kill_takes: seconds that this takes.
        blocked: whether it takes nothing of what it is sent.
        freezes: what becomes of the next attempts to freeze it; then all succeed.
        freeze_takes: seconds that this takes, and thawing too.
        thaw_fails: whether the engine does not respond when it is to be thawed.
        frozen: whether it is.
        freezings: how often it was frozen.
    """

    def __init__(self, answer: Answer = obey, *, name: str = "scripted-1") -> None:
        self.id = name
        self.has_full_share = False
        self.answer = answer
        self.heard: list[tuple[dict[str, Any], bytes]] = []
        self.kills = 0
        self.kill_takes = 0.0
        self.blocked = False
        self.freezes: list[bool] = []
        self.freeze_takes = 0.0
        self.thaw_fails = False
        self.frozen = False
        self.freezings = 0
        self._decoder = Decoder()
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = False
        self._diagnosis = ""

    def say(self, data: bytes) -> None:
        """Have the runner send data without a request."""
        if data:
            self._said.put_nowait(data)

    def end(self, diagnosis: str = "") -> None:
        """Have it end by itself, once its data has been read."""
        self._ended = True
        self._diagnosis = diagnosis
        self._said.put_nowait(None)

    async def send(self, data: bytes) -> None:
        if self.blocked:
            await asyncio.Event().wait()
        if self._ended:
            raise BrokenPipeError
        assert not self.frozen, "it would not hear that"
        for header, body in self._decoder.feed(data):
            self.heard.append((header, body))
            for said in self.answer(header, body):
                self.say(said)

    async def receive(self) -> bytes:
        data = await self._said.get()
        if data is None:
            self._said.put_nowait(None)
            return b""
        return data

    async def kill(self) -> None:
        self.kills += 1
        self.end()
        await asyncio.sleep(self.kill_takes)

    async def freeze(self) -> bool:
        await asyncio.sleep(self.freeze_takes)
        self.frozen = self.freezes.pop(0) if self.freezes else True
        self.freezings += self.frozen
        return self.frozen

    async def thaw(self) -> None:
        await asyncio.sleep(self.freeze_takes)
        if self.thaw_fails:
            raise EngineUnavailable("The engine does not respond.")
        self.frozen = False

    async def take_full_share(self) -> None:
        self.has_full_share = True

    async def diagnosis(self) -> str:
        return self._diagnosis
