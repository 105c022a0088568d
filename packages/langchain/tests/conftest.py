"""A pool whose executions are scripted, and one of real sandboxes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from greenroom import Event, Execution, FileMissing, RemoteFile, SessionPool, StreamText
from greenroom.testing import BareBackend, engine_pool


@dataclass
class ScriptedBackend(BareBackend):
    """Answers code with what a test has laid down for it, and remembers what was done to which session."""

    answers: dict[str, Execution | Exception] = field(default_factory=dict[str, Execution | Exception])
    """For a piece of code; any other prints itself. `sleep` waits until it is cancelled."""
    executed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    timeouts: list[float | None] = field(default_factory=list[float | None])
    contents: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    deleted: list[str] = field(default_factory=list[str])
    cancelled: list[str] = field(default_factory=list[str])

    async def execute(
        self, identifier: str, code: str, *, timeout: float | None, on_event: Callable[[Event], None] | None
    ) -> Execution:
        self.executed.append((identifier, code))
        self.timeouts.append(timeout)
        try:
            if code == "sleep":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(identifier)
            raise
        answer = self.answers.get(code, Execution("1", "succeeded", stdout=code))
        if isinstance(answer, Exception):
            raise answer
        if on_event:
            for line in answer.stdout.splitlines(keepends=True):
                on_event(StreamText("stdout", line))
        return answer

    async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes]) -> RemoteFile:
        self.contents.setdefault(identifier, {})[path] = b"".join([chunk async for chunk in chunks])
        return await self.file(identifier, path)

    async def download(self, identifier: str, path: str) -> AsyncGenerator[bytes, None]:
        yield self.contents[identifier][path]

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        return [await self.file(identifier, name) for name in self.contents.get(identifier, {})]

    async def file(self, identifier: str, path: str) -> RemoteFile:
        try:
            content = self.contents[identifier][path]
        except KeyError:
            raise FileMissing(f"There is no file {path!r}.") from None
        return RemoteFile(path, len(content), datetime(2026, 1, 1, tzinfo=UTC))

    async def delete_file(self, identifier: str, path: str) -> None:
        del self.contents[identifier][path]

    async def delete(self, identifier: str) -> None:
        self.contents.pop(identifier, None)
        self.deleted.append(identifier)


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def pool(backend: ScriptedBackend) -> Iterator[SessionPool]:
    """A pool whose executions are scripted."""

    async def make() -> ScriptedBackend:
        return backend

    with SessionPool(make, "scripted") as pool:
        yield pool


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[SessionPool]:
    """A pool of real sandboxes."""
    with engine_pool("bubblewrap:") as pool:
        yield pool
