"""A pool without sandboxes that returns a test's own answers, for tests of the layers above pools."""

from __future__ import annotations

import asyncio
import shlex
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from greenroom.backend import NO_VARIABLES, OnEvent, Overrides, ShellCommand
from greenroom.config.environment import Environment
from greenroom.errors import FileMissing
from greenroom.models import ContainerType, Execution, ExecutionError, RemoteFile, StreamText
from greenroom.sessions import OpenPool, SessionPool
from greenroom.testing.backend import BareBackend
from greenroom.tools import Toolbox

ENDLESS_CODE = "while True: pass"
"""Code that a scripted backend ends only when it is cancelled."""


class RecordedRun(NamedTuple):
    """A request to a scripted backend."""

    identifier: str
    code: str
    timeout: float | None


class ScriptedBackend(BareBackend):
    """Runs no code: it returns the test's answers, stores files, and records the requests of each session.

    ::

        backend = ScriptedBackend()
        backend.answers["plot()"] = Execution("1", "succeeded", outputs=(figure,))
        with scripted_pool(backend) as pool: ...
        assert backend.runs == [("analysis", "plot()", None)]
    """

    def __init__(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        """Take the container type to imitate."""
        self.container_type = container_type
        self.answers: dict[str, Execution | Exception] = {}
        """The answer to each code or command: an execution, whose stdout is streamed line by line, or an exception."""
        self.answer: Execution | Exception = Execution("1", "succeeded", stdout="ran\n")
        """The answer to any other code."""
        self.runs: list[RecordedRun] = []
        """Each execution, added when it begins."""
        self.interrupted: list[str] = []
        """The sessions of executions that were cancelled."""
        self.deleted: list[str] = []
        """The deleted sessions, including those that had never begun."""
        self.contents: dict[str, dict[str, bytes]] = defaultdict(dict)
        """The files, by session and path."""
        self.overrides: dict[str, Overrides] = {}
        """The latest limits and variables of each session that differ from its pool's."""

    @property
    def identifiers(self) -> list[str]:
        """The session of each execution."""
        return [run.identifier for run in self.runs]

    @property
    def codes(self) -> list[str]:
        """The code of each execution."""
        return [run.code for run in self.runs]

    @property
    def timeouts(self) -> list[float | None]:
        """The time limit of each execution, in seconds."""
        return [run.timeout for run in self.runs]

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
        del env, tools, execution_id
        return await self._answer(RecordedRun(identifier, code, timeout), on_event)

    async def shell(
        self, identifier: str, command: ShellCommand, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        text = command.command if isinstance(command.command, str) else shlex.join(command.command)
        return await self._answer(RecordedRun(identifier, text, timeout), on_event)

    async def _answer(self, run: RecordedRun, on_event: OnEvent | None) -> Execution:
        identifier, code, _ = run
        self.runs.append(run)
        answer = self.answers.get(code, self.answer)
        if isinstance(answer, Exception):
            raise answer
        for line in answer.stdout.splitlines(keepends=True):
            if on_event is not None:
                on_event(StreamText("stdout", line))
        try:
            if code == ENDLESS_CODE:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.interrupted.append(identifier)
            if on_event is not None:  # the output so far, as from a local pool
                error = ExecutionError("CancelledError", "The execution was cancelled.")
                on_event(replace(answer, status="cancelled", error=error))
            raise
        return answer

    async def upload(
        self,
        identifier: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> RemoteFile:
        content = bytearray()
        async for chunk in chunks:
            content += chunk
            if on_sent is not None:
                on_sent(len(chunk))
        self.contents[identifier][path] = bytes(content)
        return await self.file(identifier, path)

    async def download(
        self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        file = await self.file(identifier, path)
        if on_size is not None:
            on_size(file.size)
        yield self.contents[identifier][path]

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        del recursive  # there are no directories: a name can contain slashes
        found = [name for name in sorted(self.contents[identifier]) if name.startswith(f"{path}/")]
        return [await self.file(identifier, name) for name in found]

    async def file(self, identifier: str, path: str) -> RemoteFile:
        if path not in self.contents[identifier]:
            raise FileMissing(f"The session has no file {path!r}.")
        return RemoteFile(path, len(self.contents[identifier][path]), datetime(2026, 11, 1, tzinfo=UTC))

    async def delete_file(self, identifier: str, path: str) -> None:
        await self.file(identifier, path)
        del self.contents[identifier][path]

    def configure(self, identifier: str, overrides: Overrides) -> None:
        """Record a request to a session."""
        self.overrides[identifier] = overrides

    async def delete(self, identifier: str) -> None:
        self.deleted.append(identifier)
        self.contents.pop(identifier, None)


def scripted_pool(backend: ScriptedBackend) -> SessionPool:
    """A pool on a scripted backend."""

    async def make() -> ScriptedBackend:
        return backend

    return SessionPool(OpenPool.open(make))


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that becomes true on a pool's own event loop.

    Raises:
        TimeoutError: it has not become true within 10 seconds.
    """
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  an asyncio.Event belongs to one loop
            await asyncio.sleep(0.01)
