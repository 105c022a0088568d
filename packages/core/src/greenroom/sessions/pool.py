"""A pool of sessions, as `greenroom.connect` returns it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from greenroom.backend import Overrides
from greenroom.config.values import parse_size
from greenroom.models import ContainerType, PoolStatus, PoolUsage, SessionInfo
from greenroom.sessions.open_pool import OpenPool
from greenroom.sessions.rules import check_env, check_identifier, check_timeout
from greenroom.sessions.session import Session


class SessionPool:
    """Provides sessions by identifier. Created by `greenroom.connect`.

    One pool serves blocking code, threads and any number of event loops at the same time. As a context manager it
    closes itself at the end, and its sessions end; in Azure, however, sessions whose identifiers the caller chose cool
    down, as other processes might use them.

    A pool belongs to one process. In a fork of it, such as with gunicorn's `--preload`, a pool that was not used before
    opens again on its first use and has separate sessions; one that was used raises `PoolClosed` there.
    """

    def __init__(self, pool: OpenPool) -> None:
        self._pool = pool

    @property
    def container_type(self) -> ContainerType:
        """The kind of program in the pool's sandboxes."""
        return self._pool.container_type

    def session(
        self,
        identifier: str | None = None,
        *,
        timeout: float | None = None,
        memory: int | str | None = None,
        idle_timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Session:
        """Return the session with this identifier; by default a new session with a random identifier.

        Args:
            identifier: 4 to 128 characters, by Azure's rule.
            timeout: the time limit of this session's executions in seconds; by default the pool's `timeout`.
            memory: this session's memory limit in bytes, or as `"512Mi"`; at most the pool's `memory`, which is
                the default. It applies from the next use on, even to a session that has already begun.
            idle_timeout: the seconds without use after which this session ends, at most the pool's `cooldown_period`,
                which is the default. It applies from the next use on.
            env: environment variables of this session, in addition to the pool's `env`, for its code and its shell
                commands. They apply from the next execution on, and replace its previous ones. Greenroom does not show
                their values anywhere.

        Raises:
            InvalidRequest: a value breaks a rule, or the pool does not support limits or variables per session.
        """
        timeout = check_timeout(timeout)
        if identifier is None:
            identifier = uuid.uuid4().hex
            self._pool.backend.mark_owned(identifier)
        else:
            check_identifier(identifier)
        overrides = None
        if any(value is not None for value in (memory, idle_timeout, env)):
            overrides = Overrides(
                memory=None if memory is None else parse_size(memory, "memory"),
                idle_timeout=check_timeout(idle_timeout, most=None, name="idle_timeout"),
                env=None if env is None else check_env(env),
            )
            self._pool.backend.configure(identifier, overrides)
        return Session(self._pool, identifier, timeout, overrides)

    def sessions(self) -> list[SessionInfo]:
        """The sessions that hold a sandbox, by identifier."""
        return self._pool.run(self._pool.backend.sessions())

    async def asessions(self) -> list[SessionInfo]:
        """Like `sessions`."""
        return await self._pool.arun(self._pool.backend.sessions())

    def status(self) -> PoolStatus:
        """The pool's current state, and its statistics so far."""
        return self._pool.run(self._pool.backend.status())

    async def astatus(self) -> PoolStatus:
        """Like `status`."""
        return await self._pool.arun(self._pool.backend.status())

    def usage(self) -> PoolUsage:
        """What all sessions of the pool have used since it was opened.

        Raises:
            InvalidRequest: the pool does not report usage, such as a pool in Azure.
        """
        return self._pool.run(self._pool.backend.pool_usage())

    async def ausage(self) -> PoolUsage:
        """Like `usage`."""
        return await self._pool.arun(self._pool.backend.pool_usage())

    def close(self) -> None:
        """End the pool: its sandboxes, or its own sessions in Azure. Idempotent; bounded in time."""
        self._pool.close()

    async def aclose(self) -> None:
        """Like `close`."""
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
        return f"<SessionPool {self._pool!r}>"
