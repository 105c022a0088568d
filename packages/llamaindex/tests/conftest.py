"""Pools for the tests, scripted and real, and models that say what a test has written down."""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.llms import MockFunctionCallingLLM

import greenroom
from greenroom import Execution, FileMissing, RemoteFile, SessionPool, StreamText
from greenroom.backend import OnEvent
from greenroom.testing import BareBackend


class ScriptedBackend(BareBackend):
    """Runs no code: says what a test wants said, and keeps a record of what it was asked."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Execution | Exception] = {}
        """What comes of a piece of code. Any other succeeds and prints `ran`."""
        self.endless = "while True: pass"
        """Code that ends only when it is interrupted."""
        self.runs: list[tuple[str, str, float | None]] = []
        """Session, code and timeout of each execution."""
        self.interrupted: list[str] = []
        """The sessions whose executions were cancelled."""
        self.deleted: list[str] = []
        self.stored: dict[str, dict[str, bytes]] = defaultdict(dict)
        """The content of each session's files."""

    @property
    def identifiers(self) -> list[str]:
        """The session of each execution."""
        return [identifier for identifier, _, _ in self.runs]

    async def execute(
        self, identifier: str, code: str, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        self.runs.append((identifier, code, timeout))
        if code == self.endless:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.interrupted.append(identifier)
                raise
        outcome = self.outcomes.get(code, Execution("1", "succeeded", stdout="ran\n"))
        if isinstance(outcome, Exception):
            raise outcome
        for text in outcome.stdout.splitlines(keepends=True):
            if on_event is not None:
                on_event(StreamText("stdout", text))
        return outcome

    async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes]) -> RemoteFile:
        self.stored[identifier][path] = b"".join([chunk async for chunk in chunks])
        return await self.file(identifier, path)

    async def download(self, identifier: str, path: str) -> AsyncGenerator[bytes, None]:
        await self.file(identifier, path)
        yield self.stored[identifier][path]

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        return [await self.file(identifier, found) for found in sorted(self.stored[identifier])]

    async def file(self, identifier: str, path: str) -> RemoteFile:
        if path not in self.stored[identifier]:
            raise FileMissing(f"The session has no file {path!r}.")
        return RemoteFile(path, len(self.stored[identifier][path]), datetime(2026, 11, 1, tzinfo=UTC))

    async def delete_file(self, identifier: str, path: str) -> None:
        del self.stored[identifier][path]

    async def delete(self, identifier: str) -> None:
        self.deleted.append(identifier)
        self.stored.pop(identifier, None)


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def pool(backend: ScriptedBackend) -> Iterator[SessionPool]:
    """A pool in which nothing runs."""

    async def make() -> ScriptedBackend:
        return backend

    with SessionPool(make, "scripted") as pool:
        yield pool


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[SessionPool]:
    """A pool of real sandboxes."""
    try:
        pool = greenroom.connect("bubblewrap:")
    except greenroom.EngineUnavailable as error:
        if "bubblewrap" in os.environ.get("GREENROOM_REQUIRE_ENGINES", ""):
            raise
        pytest.skip(f"needs the bubblewrap engine: {error}")
    with pool:
        yield pool


Turn: TypeAlias = str | list[ToolCallBlock]
"""What a model says, or the tools it calls at once."""


class ScriptedModel(MockFunctionCallingLLM):
    """Takes its turns as written down, whatever it is told; keeps what it was told."""

    def __init__(self, *turns: Turn) -> None:
        super().__init__(response_generator=self._respond)
        self._turns = iter(turns)
        self._told: list[list[ChatMessage]] = []

    @property
    def told(self) -> list[ChatMessage]:
        """All messages of the last turn."""
        return self._told[-1]

    def _respond(self, messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        self._told.append(list(messages))
        turn = next(self._turns)
        return ChatMessage(role="assistant", blocks=[TextBlock(text=turn)] if isinstance(turn, str) else turn)


@pytest.fixture
def scripted() -> Callable[..., ScriptedModel]:
    """Makes a model from its turns."""
    return ScriptedModel
