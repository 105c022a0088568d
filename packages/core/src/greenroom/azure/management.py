"""Create, change, list and delete session pools in Azure or on a `greenroom serve`."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

from greenroom.arm.ids import PoolId, pools_path
from greenroom.azure.codecs.management import (
    API_VERSION,
    AZURE,
    SCOPE,
    Follow,
    Operation,
    decode_page,
    decode_resource,
    decode_status,
    failed_operation,
    has_ended,
    has_succeeded,
    management_error,
    operation_of,
    retry_after,
    state_of,
    within,
)
from greenroom.azure.codecs.shared import Call, Json, Malformed
from greenroom.azure.credentials import CredentialTokens, FixedToken, Tokens, default_credential
from greenroom.azure.http import Connection, read_json
from greenroom.azure.httpx_transport import HttpxTransport
from greenroom.azure.settings import check_proxy, is_loopback, parse_endpoint
from greenroom.azure.transport import Unreachable
from greenroom.config.values import did_you_mean
from greenroom.errors import GreenroomError, InvalidRequest, ServiceFailed
from greenroom.wire.logs import PATH, Page
from greenroom.wire.logs import decode_page as decode_logs
from greenroom.wire.usage import POOLS_PATH, USAGE_PATH, Overview, UsageReport
from greenroom.wire.values import WireError, decode

T = TypeVar("T")

Resource = dict[str, Any]
"""A pool as JSON, as Resource Manager returns it."""

OnState = Callable[[str], None]
"""Called with the state of the operation while it is awaited."""

_TIMEOUT = 60.0
_LIST_TIMEOUT = 300.0
_OPERATION_TIMEOUT = 3600.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_MAX_POOLS = 20_000
_MOST_NAMES = 10


def _ignore(state: str) -> None:
    del state


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagementSettings:
    """Settings for calls of Resource Manager. Their representation does not show the key."""

    credential: Any = None
    """An azure-core credential, synchronous or asynchronous; by default `DefaultAzureCredential`, for Azure alone."""
    client_id: str | None = None
    """The client ID of a user-assigned managed identity."""
    proxy: str | None = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = None
    key: Callable[[], str | None] = lambda: None
    """Returns the management key of a `greenroom serve`, which is never sent to Azure."""
    retry_for: float = 30.0
    """Seconds for which a request is retried while the service is too busy."""


class ManagementClient:
    """The session pools of one server: Azure or a `greenroom serve`.

    Each method raises `AccessDenied`, `InvalidRequest` (the request is refused, or there is no such pool) or
    `ServiceFailed`.
    """

    def __init__(self, server: str = AZURE, settings: ManagementSettings | None = None) -> None:
        """
        Args:
            server: its URL.
            settings: the credentials and connection settings.

        Raises:
            InvalidRequest: the URL, the key or the proxy is not valid.
        """
        settings = settings or ManagementSettings()
        self.server = parse_endpoint(server)
        parts = urlsplit(self.server)
        self._prefix = parts.path.strip("/")
        origin = parts._replace(path="", query="").geturl()
        proxy = None if settings.proxy is None else check_proxy(settings.proxy)
        self._http = Connection(
            origin,
            _tokens_for(self.server, settings),
            HttpxTransport(origin, proxy=proxy, ssl_context=settings.ssl_context),
            retry_for=settings.retry_for,
            errors=management_error,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()

    async def get(self, pool: PoolId) -> Resource:
        """Return a pool.

        Raises:
            InvalidRequest: there is no such pool; the message lists the existing ones.
        """
        return (await self._send("GET", pool))[0]

    async def list(self, subscription: str, resource_group: str | None = None) -> list[Resource]:
        """Return the pools of a resource group or a subscription, in the server's order."""
        found: list[Resource] = []
        call: Call | None = self._call("GET", pools_path(subscription, resource_group))
        seen: set[str] = set()
        try:
            async with asyncio.timeout(_LIST_TIMEOUT):
                while call is not None:
                    page, link = await self._json(call)
                    found += page
                    if len(found) > _MAX_POOLS:
                        raise ServiceFailed(f"A list of pools must have at most {_MAX_POOLS} entries.")
                    if link is not None and link in seen:
                        raise ServiceFailed(f"The link to the next page must point to a new page, not {link!r:.200}.")
                    seen.add(link or "")
                    call = None if link is None else Call("GET", self._path_of(link, "The link to the next page"))
        except TimeoutError:
            raise ServiceFailed(f"The list of pools must be complete within {_LIST_TIMEOUT:g} seconds.") from None
        return found

    async def create(
        self, pool: PoolId, resource: Mapping[str, Any], *, wait: bool = True, on_state: OnState = _ignore
    ) -> Resource:
        """Create a pool, or replace one.

        Args:
            pool: its id.
            resource: the pool's `location` and `properties`.
            wait: whether to wait until it is ready.
            on_state: called with its state while waiting.

        Raises:
            ServiceFailed: also if the pool failed to become ready; the message has the reason.
        """
        return await self._change("PUT", pool, resource, wait, on_state)

    async def update(
        self, pool: PoolId, changes: Mapping[str, Any], *, wait: bool = True, on_state: OnState = _ignore
    ) -> Resource:
        """Change some properties of a pool; arguments as for `create`."""
        return await self._change("PATCH", pool, changes, wait, on_state)

    async def logs(self, parameters: Mapping[str, str]) -> Page:
        """Return one page of the logs of a `greenroom serve`; parameters as for its `greenroom/1/logs`."""
        return await self._ask(PATH, decode_logs, parameters)

    async def usage(self, parameters: Mapping[str, str]) -> UsageReport:
        """Return the usage of sessions of a `greenroom serve`; parameters as for its `greenroom/1/usage-report`."""
        return await self._ask(USAGE_PATH, partial(decode, UsageReport), parameters)

    async def overview(self) -> Overview:
        """Return the current state of the pools of a `greenroom serve`."""
        return await self._ask(POOLS_PATH, partial(decode, Overview), {})

    async def _ask(self, path: str, decode_value: Callable[[Json], T], parameters: Mapping[str, str]) -> T:
        """Send a request that only a `greenroom serve` supports."""

        def decoded(body: Json) -> T:
            try:
                return decode_value(body)
            except WireError as error:
                raise Malformed(f"{error}") from None

        call = Call("GET", f"{self._prefix}{path}".lstrip("/"), parameters)
        with _advised(self.server):
            return await self._http.json(call, decoded, timeout=_TIMEOUT)

    async def delete(self, pool: PoolId, *, wait: bool = True, on_state: OnState = _ignore) -> bool:
        """Delete a pool with its sessions; return whether it existed."""
        _, status, headers = await self._send("DELETE", pool)
        operation = operation_of(status, headers)
        if operation is not None:
            self._path_of(operation.url, "The URL of an operation")
            if wait:
                await self._follow(operation, headers, on_state)
        return status != 204

    async def _change(
        self, method: str, pool: PoolId, body: Mapping[str, Any], wait: bool, on_state: OnState
    ) -> Resource:
        resource, status, headers = await self._send(method, pool, dict(body))
        operation = operation_of(status, headers)
        if operation is not None:
            self._path_of(operation.url, "The URL of an operation")
        if not wait:
            return resource or await self.get(pool)
        if operation is not None:
            await self._follow(operation, headers, on_state)
            resource = {}
        return await self._settled(pool, resource, on_state)

    async def _follow(self, operation: Operation, headers: Mapping[str, str], on_state: OnState) -> None:
        """Wait for the end of an operation.

        Raises:
            ServiceFailed: it failed, or takes longer than an hour.
        """
        call = Call("GET", self._path_of(operation.url, "The URL of an operation"))
        pauses = _Pauses(retry_after(headers))
        while True:
            await pauses.next()
            with _advised(self.server):
                async with self._http.stream(call, timeout=_TIMEOUT) as response:
                    pauses.asked_for = retry_after(response.headers)
                    if operation.follow is Follow.LOCATION:
                        if response.status != 202:
                            return
                        on_state("InProgress")
                        continue
                    state, problem = await read_json(response, decode_status, timeout=_TIMEOUT)
            if has_succeeded(state):
                return
            if has_ended(state):
                raise failed_operation(state, problem)
            on_state(state)

    async def _settled(self, pool: PoolId, resource: Resource, on_state: OnState) -> Resource:
        """Return a pool when it is ready; an empty resource is fetched."""
        resource = resource or await self.get(pool)
        pauses = _Pauses(None)
        while not has_ended(state := state_of(resource)):
            on_state(state)
            await pauses.next()
            resource = await self.get(pool)
        if not has_succeeded(state):
            raise failed_operation(state, None)
        return resource

    async def _send(self, method: str, pool: PoolId, body: Json = None) -> tuple[Resource, int, Mapping[str, str]]:
        """Return the resource in a response, with the response's status and headers."""
        try:
            with _advised(self.server):
                async with self._http.stream(self._call(method, str(pool), body), timeout=_TIMEOUT) as response:
                    resource = await read_json(response, decode_resource, timeout=_TIMEOUT)
                    return resource, response.status, response.headers
        except InvalidRequest as error:
            explained = await self._missing(pool, error) if method in {"GET", "PATCH"} else None
            if explained is None:
                raise
            raise explained from error

    async def _json(self, call: Call) -> tuple[list[Resource], str | None]:
        with _advised(self.server):
            return await self._http.json(call, decode_page, timeout=_TIMEOUT)

    def _call(self, method: str, path: str, body: Json = None) -> Call:
        prefixed = f"{self._prefix}/{quote(path.lstrip('/'), safe='/()')}".lstrip("/")
        return Call(method, prefixed, {"api-version": API_VERSION}, body)

    def _path_of(self, link: str, what: str) -> str:
        """Return the path and query of a URL in a response.

        Raises:
            ServiceFailed: it leads to another server, which must not get the credentials.
        """
        path = within(self.server, link)
        if path is None:
            raise ServiceFailed(f"{what} must point to {self._http.endpoint}, not to {link!r:.200}.")
        return path

    async def _missing(self, pool: PoolId, error: InvalidRequest) -> InvalidRequest | None:
        """Return the error that there is no such pool, with the names of the existing ones."""
        if error.azure is None or error.azure.status != 404:
            return None
        try:
            others = [str(each.get("name")) for each in await self.list(pool.subscription, pool.group)]
        except GreenroomError:  # must not hide the original error
            return None
        explained = InvalidRequest(missing(pool.name, pool.group, others))
        explained.azure = error.azure
        return explained


def missing(name: str, group: str, others: list[str]) -> str:
    """Return the message that there is no pool with this name."""
    if not others:
        return f"There is no pool {name!r} in the resource group {group!r}, which has no pools."
    shown = ", ".join(sorted(others)[:_MOST_NAMES]) + (", …" if len(others) > _MOST_NAMES else "")
    return f"There is no pool {name!r} in the resource group {group!r}.{did_you_mean(name, others)} Pools: {shown}."


def is_azure_management(server: str) -> bool:
    """Whether a URL is Azure Resource Manager's; only it gets an Azure token by default."""
    parts = urlsplit(server)
    return parts.scheme == "https" and parts.hostname == urlsplit(AZURE).hostname


def _tokens_for(server: str, settings: ManagementSettings) -> Tokens:
    """
    Raises:
        InvalidRequest: the server is not Azure's, and there is neither a key nor a credential.
    """
    in_azure = is_azure_management(server)
    if not in_azure and (key := settings.key()) is not None:
        return FixedToken(key, option="management_key")
    if settings.credential is not None:
        return CredentialTokens(lambda: settings.credential, owned=False, scope=SCOPE)
    if in_azure:
        return CredentialTokens(lambda: default_credential(settings.client_id), owned=True, scope=SCOPE)
    if is_loopback(urlsplit(server).hostname or ""):
        return FixedToken(None)
    raise InvalidRequest(
        f"A server must be on an Azure host to get an Azure token by default, not at {server!r:.200}. Set "
        "GREENROOM_MANAGEMENT_KEY to the management key of the server."
    )


class _Pauses:
    """Pauses between polls of an operation: the server's value, otherwise with backoff."""

    def __init__(self, asked_for: float | None) -> None:
        self.asked_for = asked_for
        self._own = _SHORTEST_PAUSE
        self._deadline = asyncio.get_running_loop().time() + _OPERATION_TIMEOUT

    async def next(self) -> None:
        """
        Raises:
            ServiceFailed: the operation takes too long.
        """
        pause = self._own if self.asked_for is None else max(self.asked_for, _SHORTEST_PAUSE)
        self._own = min(self._own * 1.5, _LONGEST_PAUSE)
        if asyncio.get_running_loop().time() + pause > self._deadline:
            raise ServiceFailed(
                f"The operation must end within {_OPERATION_TIMEOUT:g} seconds. It continues on the server."
            )
        await asyncio.sleep(pause)


@contextlib.contextmanager
def _advised(server: str) -> Generator[None, None, None]:
    """Raise an error that says how to start the server if a server on this machine is not running."""
    try:
        yield
    except ServiceFailed as error:
        if isinstance(error.__cause__, Unreachable) and is_loopback(urlsplit(server).hostname or ""):
            raise ServiceFailed(
                f"No server is running at {server}. Start one with: greenroom serve"
            ) from error.__cause__
        raise
