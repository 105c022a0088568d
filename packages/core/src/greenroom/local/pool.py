"""A pool of code sessions on this machine: the allocator leases their sandboxes, channels connect to the runners."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn, Self

from greenroom.backend import NO_VARIABLES, HeldOverrides, HttpRequest, OnEvent, Overrides, ShellCommand
from greenroom.config.environment import Environment
from greenroom.engines.base import Engine, StreamSandbox
from greenroom.errors import EngineUnavailable, FileMissing, FileRefused, InvalidRequest, in_units
from greenroom.local.allocator import Allocator
from greenroom.local.changing import ChangeablePool
from greenroom.local.channel import Channel
from greenroom.local.collecting import ExecutionLimits
from greenroom.local.copying import CopyLimits, copy
from greenroom.local.memory import reader
from greenroom.local.order import CallOrder, Place
from greenroom.local.recording import Recorder
from greenroom.local.resumable import ResumableExecutions
from greenroom.local.settings import PoolSettings
from greenroom.models import (
    ContainerType,
    Execution,
    NotCarried,
    PoolStatus,
    PoolUsage,
    RemoteFile,
    RestartCause,
    SessionInfo,
)
from greenroom.telemetry import Direction, EndCause, Observer, Work, guarded, ignore
from greenroom.text import restarted
from greenroom.tools import Toolbox


class LocalPool(ChangeablePool[Channel]):
    """A `Backend` on one engine. Created and used on one event loop."""

    def __init__(self, engine: Engine, settings: PoolSettings, observer: Observer = ignore, name: str = "") -> None:
        super().__init__(engine, settings)
        self._overrides = HeldOverrides()
        self._resumable = ResumableExecutions()
        self._order = CallOrder()
        observer = guarded(observer)
        memory = reader(engine.memory_from)
        self._allocator = Allocator(self._start, self._rules(), engine.name, observer, memory=memory)
        metering, content = self._allocator.metering, settings.trace_content
        self._recorder = Recorder(observer, metering, name or engine.name, content=content)

    @classmethod
    async def open(cls, engine: Engine, settings: PoolSettings, observer: Observer = ignore, name: str = "") -> Self:
        """Check the engine, remove what dead owners left, and start the first sandboxes.

        Args:
            engine: starts the sandboxes.
            settings: the pool's settings.
            observer: called with the pool's events.
            name: the pool's name in traces; by default the engine's.

        Raises:
            EngineUnavailable: no sandbox can be started, or none of this container type.
        """
        await cls._check(engine, settings)
        await engine.sweep()
        return cls(engine, settings, observer, name)

    @staticmethod
    async def _check(engine: Engine, settings: PoolSettings) -> None:
        if settings.container_type not in engine.container_types:
            known = ", ".join(sorted(engine.container_types))
            raise EngineUnavailable(
                f"The container type of a pool on {engine.name} must be {known}, not {settings.container_type}."
            )
        await engine.check(settings.container_type)

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
        if tools is not None and self.container_type is not ContainerType.PYTHON_LTS:
            raise InvalidRequest(
                f"A session with tools must be of type {ContainerType.PYTHON_LTS}, not {self.container_type}: only "
                "Python code can call functions of the application."
            )
        if self._settings.container_type is ContainerType.SHELL:
            return await self.shell(identifier, ShellCommand(code, env=env), timeout=timeout, on_event=on_event)
        limits = self._limits(timeout)

        async def work(place: Place, tools: Toolbox | None, on_event: OnEvent | None) -> Execution:
            tools = tools and replace(tools, note=partial(self._recorder.called, identifier))
            with self._recorder.executing(identifier, Work.CODE, code) as recorded, recorded.span.active():
                async with self._channel(identifier) as channel:
                    recorded.began()
                    why = partial(self._restarted, identifier)
                    await place.reach()
                    return recorded.ended(await channel.execute(code, limits, on_event, why, env, tools=tools))

        if execution_id is None:
            with self._order.take(identifier) as place:
                return await work(place, tools, on_event)

        def begin(tools: Toolbox | None, on_event: OnEvent | None) -> asyncio.Task[Execution]:
            place = self._order.take(identifier)
            task = asyncio.create_task(work(place, tools, on_event))
            task.add_done_callback(lambda _: place.leave())
            return task

        return await self._resumable.begin(identifier, execution_id, begin, on_event, tools)

    async def resume(
        self, identifier: str, execution_id: str, *, on_event: OnEvent | None, tools: Toolbox | None = None
    ) -> Execution:
        return await self._resumable.resume(identifier, execution_id, on_event, tools)

    async def shell(
        self, identifier: str, command: ShellCommand, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        limits = self._limits(timeout)
        content = command.command if isinstance(command.command, str) else " ".join(command.command)
        with (
            self._order.take(identifier) as place,
            self._recorder.executing(identifier, Work.COMMAND, content) as recorded,
            recorded.span.active(),
        ):
            async with self._channel(identifier) as channel:
                recorded.began()
                why = partial(self._restarted, identifier)
                await place.reach()
                return recorded.ended(await channel.shell(command, limits, on_event, why))

    async def fork(
        self, identifier: str, forks: Mapping[str, Overrides | None], *, timeout: float | None
    ) -> tuple[NotCarried, ...]:
        identifiers = list(forks)
        self._check_fork(identifier, identifiers)
        own = {each: overrides for each, overrides in forks.items() if overrides is not None}
        made: list[str] = []
        with contextlib.ExitStack() as stack:
            # Later executions stay behind this position until the end, as a copy can take several attempts.
            place = stack.enter_context(self._order.take(identifier))
            for each in identifiers:
                stack.enter_context(self._order.take(each))
            try:
                for each, overrides in own.items():
                    self.configure(each, overrides)
                async with self._channel(identifier) as parent, contextlib.AsyncExitStack() as leases:
                    await place.arrive()
                    ended = self._allocator.ended(identifier)
                    lease = partial(self._lease_all, identifiers, leases, made)
                    not_carried = await copy(parent, lease, self._copy_limits(identifiers, timeout))
                    if ended is not None:
                        for each in identifiers:  # their first executions report it, as the parent's does
                            self._allocator.remember_end(each, ended)
                    return not_carried
            except BaseException:
                for each, overrides in own.items():
                    self._overrides.discard(each, overrides)
                ending = asyncio.gather(*(self.delete(each) for each in made), return_exceptions=True)
                await asyncio.shield(ending)
                raise

    def _copy_limits(self, identifiers: Sequence[str], timeout: float | None) -> CopyLimits:
        settings = self._settings
        overrides = [self._overrides.get(each) or _NO_OVERRIDES for each in identifiers]
        memory = min([settings.memory, *(each.memory for each in overrides if each.memory is not None)])
        return CopyLimits(timeout or settings.timeout, settings.interrupt_grace, memory + settings.disk)

    def _check_fork(self, identifier: str, identifiers: Sequence[str]) -> None:
        """Check that a session can be copied to these identifiers.

        Raises:
            InvalidRequest: it cannot be copied to them.
        """
        if self.container_type is not ContainerType.PYTHON_LTS or not self._engine.copies_sessions:
            raise InvalidRequest(
                f"A session that is forked must be of type {ContainerType.PYTHON_LTS} on bubblewrap or Docker, not "
                f"{self.container_type} on {self._engine.name}."
            )
        most = self._settings.max_concurrent_sessions
        if len(identifiers) >= most:
            raise InvalidRequest(
                f"A fork must create at most {most - 1} sessions, not {len(identifiers)}: with the original, the pool "
                f"has at most {most} (the option max_concurrent_sessions)."
            )
        for each in identifiers:
            if each == identifier or each in self._order:
                raise _used(each)
            self._check_unused(each)

    def _check_unused(self, identifier: str) -> None:
        if self._allocator.holds(identifier):
            raise _used(identifier)

    async def _lease_all(
        self, identifiers: Sequence[str], leases: contextlib.AsyncExitStack, made: list[str]
    ) -> list[Channel]:
        """Lease new sandboxes at the same time, all or none; `made` receives the identifiers of any that may exist."""

        async def lease(identifier: str, stack: contextlib.AsyncExitStack) -> Channel:
            self._check_unused(identifier)  # while the fork waited, a file transfer can have created the session
            made.append(identifier)
            return await stack.enter_async_context(self._channel(identifier))

        stacks = [contextlib.AsyncExitStack() for _ in identifiers]
        for stack in stacks:
            leases.push_async_exit(stack)
        leasing = [
            asyncio.create_task(lease(identifier, stack)) for stack, identifier in zip(stacks, identifiers, strict=True)
        ]
        try:
            channels = await asyncio.gather(*leasing)
        finally:
            for task in leasing:
                task.cancel()
            await asyncio.wait(leasing)
        for each in identifiers:
            self._allocator.forget_end(each)
        return channels

    def _limits(self, timeout: float | None) -> ExecutionLimits:
        settings = self._settings
        return ExecutionLimits(
            timeout=timeout or settings.timeout,
            grace=settings.interrupt_grace,
            text=settings.output_limit,
            display=settings.display_limit,
            packages_from=self._engine.packages_from,
        )

    def request(self, identifier: str, request: HttpRequest, *, timeout: float | None) -> NoReturn:
        raise InvalidRequest(
            f"A session of type {self._settings.container_type} must be used with execute() and its file methods, "
            f"not with request(), which is for custom containers: {request.method} {request.target:.200}"
        )

    async def upload(
        self,
        identifier: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> RemoteFile:
        with self._recorder.transferring(identifier, Direction.UPLOAD) as recorded, recorded.span.active():
            async with self._channel(identifier) as channel:
                file = await channel.upload(path, chunks, self.file_limit, on_sent)
                recorded.size = file.size
                return file

    async def download(
        self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        limit = self.file_limit
        with self._recorder.transferring(identifier, Direction.DOWNLOAD) as recorded:
            async with contextlib.AsyncExitStack() as stack:
                with recorded.span.active():  # not while the consumer has a chunk, which can be in another task
                    channel = await stack.enter_async_context(self._channel(identifier))
                chunks = await stack.enter_async_context(contextlib.aclosing(channel.download(path, limit, on_size)))
                async for chunk in chunks:
                    recorded.size += len(chunk)
                    yield chunk

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        async with self._channel(identifier) as channel:
            return await channel.files(path, recursive=recursive)

    async def file(self, identifier: str, path: str) -> RemoteFile:
        async with self._channel(identifier) as channel:
            return await channel.file(path)

    async def delete_file(self, identifier: str, path: str) -> None:
        async with self._channel(identifier) as channel:
            await channel.delete_file(path)

    async def delete(self, identifier: str) -> None:
        await self._allocator.end(identifier)
        self._resumable.forget(identifier)

    def configure(self, identifier: str, overrides: Overrides) -> None:
        self._settings.check_limits(overrides.memory, overrides.idle_timeout)
        if overrides.env is not None:
            self._merged(overrides.env)
        self._overrides[identifier] = overrides

    def mark_owned(self, identifier: str) -> None:
        """Do nothing: every session of a local pool ends with the pool."""

    async def sessions(self) -> list[SessionInfo]:
        leased = self._allocator.leased()
        return [_with_calls(each, leased.get(each.identifier)) for each in self._allocator.sessions()]

    async def session(self, identifier: str) -> SessionInfo | None:
        info = self._allocator.session(identifier)
        return None if info is None else _with_calls(info, self._allocator.leased().get(identifier))

    async def status(self) -> PoolStatus:
        return self._status()

    def reading(self) -> tuple[PoolStatus, PoolUsage]:
        return self._status(), super().reading()[1]

    def _status(self) -> PoolStatus:
        status = self._allocator.status()
        calls = [each.calls for each in self._allocator.leased().values()]
        parked = [each for each in calls if each is not None and each.waiting]
        return replace(
            status,
            parked=len(parked),
            parked_calls=sum(each.waiting for each in parked),
            parked_since=min((since for each in parked if (since := each.waits_since) is not None), default=None),
        )

    async def _launch(self, engine: Engine, settings: PoolSettings, on_lost: Callable[[], None]) -> Channel:
        sandbox = await engine.start(settings.spec)
        if not isinstance(sandbox, StreamSandbox):
            await sandbox.kill()
            raise EngineUnavailable(f"The engine {engine.name} must give code sandboxes two streams.")
        return Channel(sandbox, on_lost, preload=settings.spec.preload, env=settings.env)

    def _restarted(self, identifier: str) -> RestartCause | None:
        """Return why the session had ended before, for the first execution since then."""
        return _CAUSES.get(self._allocator.forget_end(identifier))

    def _merged(self, env: Environment) -> Environment:
        try:
            return Environment.parse({**self._settings.env, **env})
        except ValueError as error:
            raise InvalidRequest(f"The env of the session and its pool together {error}.") from None

    @contextlib.asynccontextmanager
    async def _channel(self, identifier: str) -> AsyncGenerator[Channel, None]:
        """Lease the session's sandbox, and apply the session's own limits to it."""
        overrides = self._overrides.get(identifier) or _NO_OVERRIDES
        async with self._allocator.lease(identifier, overrides.idle_timeout) as channel:
            if overrides.env is not None:
                channel.environment = self._merged(overrides.env)
            if overrides.memory is not None:
                await channel.limit_memory(overrides.memory)
            try:
                yield channel
            except FileMissing as error:
                if (cause := self._allocator.ended(identifier)) in _CAUSES:
                    raise FileMissing(f"{error} {restarted(_CAUSES[cause])}") from error
                raise
            except FileRefused as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    reason = f"{error.strerror}; it has {in_units(self._settings.disk)} (the option disk)"
                    raise FileRefused(error.errno, reason, error.filename) from error
                raise


def _used(identifier: str) -> InvalidRequest:
    return InvalidRequest(f"The identifiers of a fork must be unused, but {identifier!r} already has a session.")


def _with_calls(info: SessionInfo, channel: Channel | None) -> SessionInfo:
    """Return a session with the number of calls for which its code waits."""
    calls = channel.calls if channel is not None else None
    return info if calls is None else replace(info, parked_calls=calls.waiting, parked_since=calls.waits_since)


_NO_OVERRIDES = Overrides()

_CAUSES: dict[EndCause | None, RestartCause] = {
    EndCause.COOLED_DOWN: "cooled_down",
    EndCause.LOST: "lost",
    EndCause.MAX_AGE: "limit_reached",
}
