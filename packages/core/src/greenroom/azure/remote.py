"""A pool at a URL: on our own server with the API `greenroom/1`, on any other with a version of Azure's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

from greenroom import wire
from greenroom.azure.client import AzurePool, connection_of
from greenroom.azure.codecs.shared import Call
from greenroom.azure.native import NativePool
from greenroom.azure.settings import AzureSettings, is_azure, parse_endpoint
from greenroom.azure.transport import Transport
from greenroom.backend import NO_VARIABLES, Backend, HttpRequest, HttpResponse, OnEvent, Overrides, ShellCommand
from greenroom.config.environment import Environment
from greenroom.errors import GreenroomError, InvalidRequest, ServiceFailed
from greenroom.models import (
    ContainerType,
    Execution,
    NotCarried,
    PoolStatus,
    PoolUsage,
    RemoteFile,
    SessionInfo,
    SessionUsage,
)
from greenroom.tools import Toolbox

_TIMEOUT = 60.0
_UNKNOWN_PATH = frozenset({400, 404, 405, 501})
"""The statuses with which servers refuse an unknown path."""


def remote_pool(endpoint: str, settings: AzureSettings, *, transport: Transport | None = None) -> Backend:
    """Return the pool of an endpoint.

    Args:
        endpoint: of a pool in Azure or on a `greenroom serve`.
        settings: with the API version, or without one to detect it with the first call.
        transport: sends the requests; by default httpx, configured by the settings.

    Raises:
        InvalidRequest: the endpoint, the key or the proxy is not valid.
    """
    endpoint = parse_endpoint(endpoint)
    if settings.api_version == wire.VERSION:
        return NativePool(connection_of(endpoint, settings, transport), settings)
    if settings.api_version is not None or is_azure(endpoint):
        return AzurePool(endpoint, settings, transport=transport)
    return _Negotiated(endpoint, settings, transport)


class _Negotiated:
    """A pool that asks its server before the first call which API it supports."""

    def __init__(self, endpoint: str, settings: AzureSettings, transport: Transport | None) -> None:
        self._http = connection_of(endpoint, settings, transport)
        self._native = NativePool(self._http, settings)
        self._azure = AzurePool(endpoint, settings, connection=self._http)
        self._container_type = settings.container_type
        self._is_type_taken = "container_type" in settings.model_fields_set
        """Whether a caller relies on the type: it was given, or read before the server reported it."""
        self.file_limit = settings.file_limit
        self._chosen: Backend | None = None
        self._asking = asyncio.Lock()

    @property
    def container_type(self) -> ContainerType:
        """The server's container type once it is known; before, the one in the options."""
        self._is_type_taken = True
        return self._container_type

    def __repr__(self) -> str:
        return repr(self._chosen) if self._chosen is not None else f"not used yet: {self._http.endpoint}"

    async def _backend(self, identifier: str | None = None) -> Backend:
        if self._chosen is None:
            async with self._asking:
                if self._chosen is None:
                    self._chosen = self._native if await self._is_native() else self._azure
        if self._chosen is self._azure and (overrides := self._native.overrides_of(identifier)) is not None:
            self._azure.configure(identifier or "", overrides)  # raises
        return self._chosen

    async def _is_native(self) -> bool:
        """Find out whether the server is a Greenroom server.

        Raises:
            InvalidRequest: it has another container type than the caller relies on.
            GreenroomError: the server cannot be reached or refuses the credentials.
        """
        try:
            async with self._http.stream(Call("GET", "greenroom"), timeout=_TIMEOUT) as response:
                versions = response.headers.get(wire.VERSIONS_HEADER, "")
                container_type = response.headers.get(wire.TYPE_HEADER)
        except GreenroomError as error:
            if error.azure is not None and error.azure.status in _UNKNOWN_PATH:
                return False
            if not isinstance(error, ServiceFailed):
                raise
            failed = ServiceFailed(f"{error} Nothing was run.")
            failed.azure = error.azure
            raise failed from error
        if wire.VERSION not in (version.strip() for version in versions.split(",")):
            return False
        if container_type is not None:
            self._take_type(container_type)
        return True

    def _take_type(self, name: str) -> None:
        """Set the container type of the server's pool, which must not contradict an earlier answer to a caller."""
        if name not in set(ContainerType):
            raise ServiceFailed(
                f"The container type of the server must be one of {', '.join(ContainerType)}, not {name!r:.100}. "
                "Nothing was run."
            )
        if self._is_type_taken and name != self._container_type:
            raise InvalidRequest(
                f"The option container_type must be {name}, the type of the server's pool, not {self._container_type}. "
                "Nothing was run."
            )
        self._container_type = ContainerType(name)
        self._native.container_type = self._container_type

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
        backend = await self._backend(identifier)
        return await backend.execute(
            identifier, code, timeout=timeout, on_event=on_event, env=env, tools=tools, execution_id=execution_id
        )

    async def resume(
        self, identifier: str, execution_id: str, *, on_event: OnEvent | None, tools: Toolbox | None = None
    ) -> Execution:
        return await (await self._backend(identifier)).resume(identifier, execution_id, on_event=on_event, tools=tools)

    async def fork(
        self, identifier: str, forks: Mapping[str, Overrides | None], *, timeout: float | None
    ) -> tuple[NotCarried, ...]:
        return await (await self._backend(identifier)).fork(identifier, forks, timeout=timeout)

    async def shell(
        self, identifier: str, command: ShellCommand, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        backend = await self._backend(identifier)
        return await backend.shell(identifier, command, timeout=timeout, on_event=on_event)

    @asynccontextmanager
    async def request(
        self, identifier: str, request: HttpRequest, *, timeout: float | None
    ) -> AsyncGenerator[HttpResponse, None]:
        backend = await self._backend(identifier)
        async with backend.request(identifier, request, timeout=timeout) as response:
            yield response

    async def upload(
        self,
        identifier: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> RemoteFile:
        return await (await self._backend(identifier)).upload(identifier, path, chunks, on_sent=on_sent)

    async def download(
        self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        backend = await self._backend(identifier)
        async with aclosing(backend.download(identifier, path, on_size=on_size)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        return await (await self._backend(identifier)).files(identifier, path, recursive=recursive)

    async def file(self, identifier: str, path: str) -> RemoteFile:
        return await (await self._backend(identifier)).file(identifier, path)

    async def delete_file(self, identifier: str, path: str) -> None:
        await (await self._backend(identifier)).delete_file(identifier, path)

    async def delete(self, identifier: str) -> None:
        await (await self._backend()).delete(identifier)

    async def sessions(self) -> list[SessionInfo]:
        return await (await self._backend()).sessions()

    async def session(self, identifier: str) -> SessionInfo | None:
        return await (await self._backend()).session(identifier)

    async def status(self) -> PoolStatus:
        return await (await self._backend()).status()

    async def usage(self, identifier: str) -> SessionUsage | None:
        return await (await self._backend()).usage(identifier)

    async def pool_usage(self) -> PoolUsage:
        return await (await self._backend()).pool_usage()

    def configure(self, identifier: str, overrides: Overrides) -> None:
        """Set a session's own settings. If the server does not support them, using the session raises."""
        (self._chosen or self._native).configure(identifier, overrides)

    def mark_owned(self, identifier: str) -> None:
        for backend in (self._native, self._azure):
            backend.mark_owned(identifier)

    async def close(self) -> None:
        await (self._chosen or self._azure).close()
