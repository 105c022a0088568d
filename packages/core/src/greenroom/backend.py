"""The interface between sessions, which callers hold, and the pool that runs them: a local one, or one in Azure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from threading import RLock
from typing import Protocol, TypeAlias
from weakref import ref

from greenroom.config.environment import Environment
from greenroom.engines.base import Connection
from greenroom.models import (
    ContainerType,
    Event,
    Execution,
    NotCarried,
    PoolStatus,
    PoolUsage,
    RemoteFile,
    SessionInfo,
    SessionUsage,
)
from greenroom.tools import Toolbox

OnEvent: TypeAlias = Callable[[Event], None]
"""Called on the pool's event loop as the code runs; it must return immediately and not raise."""

NO_VARIABLES = Environment()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Overrides:
    """The settings of one session that differ from its pool's."""

    memory: int | None = None
    """Bytes."""
    idle_timeout: float | None = None
    """Seconds without use after which it ends."""
    env: Environment | None = None
    """Its environment variables, in addition to the pool's."""


class HeldOverrides:
    """The overrides of sessions, each for as long as somebody holds it; of several, the latest counts. Thread-safe."""

    def __init__(self) -> None:
        self._held: dict[str, list[ref[Overrides]]] = {}
        self._lock = RLock()  # an object can be collected while its own thread holds it

    def __setitem__(self, identifier: str, overrides: Overrides) -> None:
        with self._lock:
            self._held.setdefault(identifier, []).append(ref(overrides, lambda _: self._forget(identifier)))

    def discard(self, identifier: str, overrides: Overrides) -> None:
        """Let these overrides of a session count no more, even if somebody still holds them."""
        with self._lock:
            held = [each for each in self._held.get(identifier, ()) if each() is not overrides]
            self._keep(identifier, held)

    def get(self, identifier: str) -> Overrides | None:
        with self._lock:
            held = [overrides for each in self._held.get(identifier, ()) if (overrides := each()) is not None]
        return held[-1] if held else None

    def _forget(self, identifier: str) -> None:
        with self._lock:
            held = [each for each in self._held.get(identifier, ()) if each() is not None]
            self._keep(identifier, held)

    def _keep(self, identifier: str, held: list[ref[Overrides]]) -> None:
        if held:
            self._held[identifier] = held
        else:
            self._held.pop(identifier, None)


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """What a shell is to run. Its parts have been checked."""

    command: str | tuple[str, ...]
    """A text for bash, or a program and its arguments."""
    stdin: bytes = b""
    env: Environment = NO_VARIABLES


RawHeaders: TypeAlias = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request to a custom container, as it is sent: only what belongs to one connection is left to the backend."""

    method: str
    target: str
    """The path and the query, percent-encoded."""
    headers: RawHeaders = ()
    content: bytes | AsyncIterator[bytes] = b""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The response of a custom container; its content is still to be read."""

    status: int
    reason: bytes
    headers: RawHeaders
    content: AsyncGenerator[bytes, None]
    upgraded: Connection | None = None
    """The connection, where the container has switched to another protocol (status 101)."""


class Backend(Protocol):
    """A pool's asynchronous core. Its coroutines run on one event loop, any number of them at the same time.

    `configure`, `mark_owned` and `__repr__` may be called from any thread. An `identifier` has been checked; its
    session begins with its first use. Each method but `close` raises the errors of `greenroom.errors`. Cancelling a
    method ends its work in the sandbox, too.
    """

    file_limit: int
    """The maximum size of one file that is uploaded or downloaded, in bytes."""

    @property
    def container_type(self) -> ContainerType:
        """The kind of program in its sandboxes."""
        ...

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
        """Run code. `timeout` is in seconds; `None` stands for the pool's own limit, infinity for no limit.

        `env` are variables that hold during this execution, `tools` the application's functions that it can call. With
        an `execution_id`, which must be new in its session, it can be resumed.
        """
        ...

    async def resume(
        self, identifier: str, execution_id: str, *, on_event: OnEvent | None, tools: Toolbox | None = None
    ) -> Execution:
        """Take over an execution from the one who began it, or resumed it last: its events, its end and its calls.

        Cancelling this cancels it. Without `tools`, its calls wait for who resumes it next.

        Raises:
            SandboxLost: the session has no such execution any more.
            InvalidRequest: the pool cannot resume executions.
        """
        ...

    async def shell(
        self, identifier: str, command: ShellCommand, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        """Run a command, as `execute` runs code."""
        ...

    async def fork(
        self, identifier: str, forks: Mapping[str, Overrides | None], *, timeout: float | None
    ) -> tuple[NotCarried, ...]:
        """Begin a session per identifier of `forks` with a copy of a session's variables and files.

        The values are the new sessions' overrides, which hold as those of `configure`, but only if the fork succeeds.
        `timeout` is in seconds; `None` stands for the pool's own limit.

        Returns:
            What the copies do not have.

        Raises:
            InvalidRequest: the pool cannot do that, an identifier has a session, or overrides break a rule.
            ForkFailed: no copy could be made.
        """
        ...

    def request(
        self, identifier: str, request: HttpRequest, *, timeout: float | None
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """Send a request to the session's container; its response ends with the context.

        `timeout` is in seconds until the response begins; `None` stands for the pool's own limit, infinity for no
        limit.
        """
        ...

    async def upload(
        self,
        identifier: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> RemoteFile:
        """Write a file. `on_sent` is called with numbers of bytes as they are sent; it can miss some at the end."""
        ...

    def download(
        self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Read a file. `on_size` is called before the first chunk with the expected bytes, if they are known."""
        ...

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]: ...

    async def file(self, identifier: str, path: str) -> RemoteFile: ...

    async def delete_file(self, identifier: str, path: str) -> None: ...

    async def delete(self, identifier: str) -> None: ...

    async def sessions(self) -> list[SessionInfo]:
        """The sessions that hold a sandbox, by identifier."""
        ...

    async def session(self, identifier: str) -> SessionInfo | None:
        """The session with that identifier, if it holds a sandbox."""
        ...

    async def status(self) -> PoolStatus:
        """The pool's present state and its statistics.

        Raises:
            PoolClosed: the pool was closed.
        """
        ...

    async def usage(self, identifier: str) -> SessionUsage | None:
        """What the session has used so far, or had used when it ended; `None` if that is not known.

        Raises:
            InvalidRequest: the pool does not report it.
        """
        ...

    async def pool_usage(self) -> PoolUsage:
        """What all sessions of the pool have used since it was opened.

        Raises:
            InvalidRequest: the pool does not report it.
        """
        ...

    def configure(self, identifier: str, overrides: Overrides) -> None:
        """Give a session settings of its own, for as long as `overrides` is held.

        Raises:
            InvalidRequest: the pool cannot do that for one session.
        """
        ...

    def mark_owned(self, identifier: str) -> None:
        """Note that the identifier was generated here: no other process knows it, so its session ends with the pool."""
        ...

    async def close(self) -> None: ...

    def __repr__(self) -> str: ...
