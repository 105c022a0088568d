"""A pool of custom containers on this machine, whose only operation is `request`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, Self

from greenroom.backend import HeldOverrides, HttpRequest, HttpResponse, Overrides, ShellCommand
from greenroom.engines.base import Engine
from greenroom.errors import InvalidRequest, SandboxLost
from greenroom.local.allocator import Allocator
from greenroom.local.changing import ChangeablePool
from greenroom.local.container import ContainerInstance, NotListening
from greenroom.local.memory import reader
from greenroom.local.recording import Recorder
from greenroom.local.settings import PoolSettings
from greenroom.models import ContainerType, PoolStatus, SessionInfo
from greenroom.pricing.rules import node_share
from greenroom.telemetry import ConsoleWritten, Observer, Work, guarded, ignore, tracing

_MOST_TRIED = 3  # ready instances for one request


class ContainerPool(ChangeablePool[ContainerInstance]):
    """A `Backend` of custom containers on one engine. Created and used on one event loop."""

    def __init__(self, engine: Engine, settings: PoolSettings, observer: Observer = ignore, name: str = "") -> None:
        super().__init__(engine, settings)
        self._overrides = HeldOverrides()
        self._observer = observer = guarded(observer)
        self._allocator = Allocator(
            self._start,
            self._rules(),
            engine.name,
            observer,
            start_timeout=None,  # the probes have their own
            most_failed_starts=2,
            memory=reader(engine.memory_from),
        )
        self._recorder = Recorder(observer, self._allocator.metering, name or engine.name, content=False)

    @classmethod
    async def open(cls, engine: Engine, settings: PoolSettings, observer: Observer = ignore, name: str = "") -> Self:
        """Check the engine, pull a missing image, remove what dead owners left, and start the first containers.

        The arguments are those of `LocalPool.open`.

        Raises:
            EngineUnavailable: no container can be started.
        """
        await cls._check(engine, settings)
        await engine.sweep()
        return cls(engine, settings, observer, name)

    @staticmethod
    async def _check(engine: Engine, settings: PoolSettings) -> None:
        assert settings.container is not None  # noqa: S101  a rule of the settings
        await engine.check_container(settings.container)

    @contextlib.asynccontextmanager
    async def request(
        self, identifier: str, request: HttpRequest, *, timeout: float | None
    ) -> AsyncGenerator[HttpResponse, None]:
        with self._recorder.executing(identifier, Work.REQUEST) as recorded:
            for attempt in range(1, _MOST_TRIED + 1):
                async with contextlib.AsyncExitStack() as stack:
                    with recorded.span.active():  # not while the caller has the response, which can be in another task
                        instance = await stack.enter_async_context(self._lease(identifier))
                        request = traced(request)
                    recorded.began()
                    try:
                        async with instance.request(request, timeout or self._settings.timeout) as response:
                            yield response
                            recorded.answered()
                            return
                    except (NotListening, SandboxLost):
                        if instance.used or attempt == _MOST_TRIED:
                            raise
                        instance.give_up()  # it was never sent a request, so the session has nothing to lose

    async def delete(self, identifier: str) -> None:
        await self._allocator.end(identifier)

    def configure(self, identifier: str, overrides: Overrides) -> None:
        self._settings.check_limits(overrides.memory, overrides.idle_timeout)
        if overrides.env is not None:
            raise InvalidRequest(
                "The env of custom containers must be set in their template: containers receive it when they start."
            )
        self._overrides[identifier] = overrides

    def mark_owned(self, identifier: str) -> None:
        """Do nothing: every session of a local pool ends with the pool."""

    async def sessions(self) -> list[SessionInfo]:
        return self._allocator.sessions()

    async def session(self, identifier: str) -> SessionInfo | None:
        return self._allocator.session(identifier)

    async def status(self) -> PoolStatus:
        return self._allocator.status()

    # Operations that it does not have

    async def execute(self, identifier: str, code: str, **options: Any) -> NoReturn:
        raise _only_requests("execute")

    async def resume(self, identifier: str, execution_id: str, **options: Any) -> NoReturn:
        raise _only_requests("resume")

    async def fork(self, identifier: str, forks: Mapping[str, Overrides | None], **options: Any) -> NoReturn:
        raise InvalidRequest(
            f"A session that is forked must be of type {ContainerType.PYTHON_LTS}, not "
            f"{ContainerType.CUSTOM_CONTAINER}: Greenroom cannot copy a container's state."
        )

    async def shell(self, identifier: str, command: ShellCommand, **options: Any) -> NoReturn:
        raise _only_requests("shell")

    async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes], **options: Any) -> NoReturn:
        raise _only_requests("upload")

    async def download(self, identifier: str, path: str, **options: Any) -> AsyncGenerator[bytes, None]:
        raise _only_requests("download")
        yield b""

    async def files(self, identifier: str, path: str, *, recursive: bool) -> NoReturn:
        raise _only_requests("files")

    async def file(self, identifier: str, path: str) -> NoReturn:
        raise _only_requests("file")

    async def delete_file(self, identifier: str, path: str) -> NoReturn:
        raise _only_requests("delete_file")

    async def _launch(self, engine: Engine, settings: PoolSettings, on_lost: Callable[[], None]) -> ContainerInstance:
        assert settings.container is not None  # noqa: S101  a rule of the settings
        sandbox = await engine.start_container(settings.spec)
        share = node_share(settings.spec.limits.cpus, settings.spec.limits.memory)
        on_line = self._printed if settings.console_log else None
        return ContainerInstance(sandbox, settings.container, on_lost, share, on_line)

    def _printed(self, identifier: str | None, stream: str, line: str) -> None:
        self._observer(ConsoleWritten(identifier, stream, line))

    @contextlib.asynccontextmanager
    async def _lease(self, identifier: str) -> AsyncGenerator[ContainerInstance, None]:
        overrides = self._overrides.get(identifier) or Overrides()
        async with self._allocator.lease(identifier, overrides.idle_timeout) as instance:
            instance.identifier = identifier
            if overrides.memory is not None:
                await instance.limit_memory(overrides.memory)
            yield instance


def traced(request: HttpRequest) -> HttpRequest:
    """Pass the current span to the container, as a proxy does; if there is none, keep the caller's header."""
    own = {name.encode(): value.encode() for name, value in tracing.headers().items()}
    if not own:
        return request
    others = tuple(
        (name, value) for name, value in request.headers if name.lower() not in {b"traceparent", b"tracestate"}
    )
    return replace(request, headers=(*others, *own.items()))


def _only_requests(verb: str) -> InvalidRequest:
    return InvalidRequest(
        f"A custom container must be used with request(), not with {verb}(), which is for code sessions: "
        'session.request("POST", "/path", json=…)'
    )
