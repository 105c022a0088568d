"""Find the endpoint of a pool by its id in Azure Resource Manager."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from greenroom.arm.ids import PoolId, split_id
from greenroom.azure.codecs.management import AZURE, has_ended, has_succeeded, state_of
from greenroom.azure.codecs.shared import fields_of, text
from greenroom.azure.management import ManagementClient, ManagementSettings, is_azure_management
from greenroom.azure.settings import AzureSettings, is_azure, is_dynamic_sessions, is_loopback
from greenroom.errors import AccessDenied, InvalidRequest, ServiceFailed
from greenroom.models import ContainerType


@dataclass(frozen=True, slots=True)
class Discovered:
    """The facts about a pool from Resource Manager."""

    endpoint: str
    container_type: ContainerType | None
    """`None` if the type is unknown to this version."""


async def find(endpoint: str, settings: AzureSettings, given: Collection[str]) -> tuple[str, AzureSettings]:
    """Return the endpoint of a pool and the settings to call it with.

    Args:
        endpoint: the endpoint itself, or the pool's id, alone or after the URL of the server to ask.
        settings: all options.
        given: the names of the options that are not from the environment.

    Raises:
        InvalidRequest: there is no such pool, or the options contradict each other.
        ServiceFailed: the pool is not ready, or its endpoint must not get the credentials.
    """
    parts = urlsplit(endpoint)
    prefix, pool = split_id(unquote(parts.path)) or ("", None)
    if pool is None and not parts.scheme:
        pool = PoolId.parse(parts.path)  # its error shows the form of an id
    if "server" in given and (pool is None or parts.scheme):
        raise InvalidRequest("The option server must be used with a pool id that does not contain a server.")
    if pool is None:
        if is_dynamic_sessions(endpoint):
            settings = _without_foreign_keys(settings, given)
        return endpoint, settings
    server = parts._replace(path=prefix).geturl() if parts.scheme else settings.server or AZURE
    if is_azure_management(server):
        settings = _without_foreign_keys(settings, given)
    try:
        async with ManagementClient(server, management_settings(settings)) as client:
            found = discovered(await _settled(client, pool, settings.acquire_timeout), server, pool.name)
    except AccessDenied:
        if is_azure_management(server) or settings.api_key is None:
            raise
        # A caller that may use sessions may be unable to manage pools; our server has the endpoint at this path.
        return f"{server.rstrip('/')}{pool.sessions_path}", settings
    if found.container_type is not None:
        settings = settings.model_copy(update={"container_type": found.container_type})
    return found.endpoint, settings


async def _settled(client: ManagementClient, pool: PoolId, timeout: float) -> Mapping[str, Any]:
    """Return a pool once it is ready or has failed, at the latest after some seconds.

    A server that has just started opens its pools one after the other.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    pause = 0.1
    while True:
        resource = await client.get(pool)
        state = state_of(resource)
        if has_ended(state) or state.lower() == "deleting" or clock() + pause > deadline:
            return resource
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 2.0)


def _without_foreign_keys(settings: AzureSettings, given: Collection[str]) -> AzureSettings:
    """Return the settings for Azure without keys from the environment, which belong to another server."""
    foreign = {"api_key", "management_key"}.difference(given)
    return settings.model_copy(update=dict.fromkeys(foreign))


def discovered(resource: Mapping[str, Any], server: str, name: str) -> Discovered:
    """Return the facts about a pool from its resource.

    Raises:
        ServiceFailed: as for `find`.
    """
    if not has_succeeded(state := state_of(resource)):
        raise ServiceFailed(
            f"The pool {name!r} must be ready to be used: its provisioningState must be 'Succeeded', not {state!r}."
        )
    properties = fields_of(resource.get("properties"))
    endpoint = text(properties.get("poolManagementEndpoint"))
    if not _may_serve(server, endpoint):
        raise ServiceFailed(
            f"The endpoint of the pool {name!r} must be on the host of its server, {server}, or on an Azure host for "
            f"a pool in Azure, not {endpoint!r:.200}."
        )
    kind = text(properties.get("containerType"))
    known = {str(each): each for each in ContainerType}
    return Discovered(endpoint, known.get(kind))


def management_settings(settings: AzureSettings) -> ManagementSettings:
    """Return the settings for Resource Manager from the options of a pool."""
    key, proxy = settings.management_key or settings.api_key, settings.proxy
    return ManagementSettings(
        credential=settings.credential,
        client_id=settings.client_id,
        proxy=None if proxy is None else proxy.get_secret_value(),
        ssl_context=settings.ssl_context,
        key=lambda: None if key is None else key.get_secret_value(),
        retry_for=settings.acquire_timeout,
    )


def _may_serve(server: str, endpoint: str) -> bool:
    """Whether the credentials for a server's pools may be sent to an endpoint that it names."""
    try:
        found, own = urlsplit(endpoint), urlsplit(server)
        host, own_host = found.hostname or "", own.hostname or ""
    except ValueError:
        return False
    if is_azure_management(server):
        return found.scheme == "https" and is_azure(endpoint)
    return bool(host) and (host == own_host or (is_loopback(host) and is_loopback(own_host)))
