"""Find the endpoint of a pool by its id in Azure Resource Manager."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from greenroom.arm.ids import PoolId
from greenroom.azure.codecs.management import AZURE, has_succeeded, state_of
from greenroom.azure.codecs.shared import fields_of, text
from greenroom.azure.management import ManagementClient, ManagementSettings, is_azure_management
from greenroom.azure.settings import AzureSettings, is_azure, is_loopback
from greenroom.errors import ServiceFailed
from greenroom.models import ContainerType

SERVER_VARIABLE = "GREENROOM_SERVER"


@dataclass(frozen=True, slots=True)
class Discovered:
    """What Resource Manager knows of a pool."""

    endpoint: str
    container_type: ContainerType | None
    """`None` for one that is not known here."""


async def discover(pool: PoolId, server: str, settings: AzureSettings) -> Discovered:
    """Ask a server for a pool.

    Args:
        pool: its id.
        server: the URL of Azure Resource Manager or of a `greenroom serve`.
        settings: with the credentials.

    Raises:
        InvalidRequest: there is no such pool.
        ServiceFailed: it is not ready, or its endpoint is one that must not get the credentials.
    """
    async with ManagementClient(server, management_settings(settings)) as client:
        resource = await client.get(pool)
    return discovered(resource, server, pool.name)


def discovered(resource: dict[str, object], server: str, name: str) -> Discovered:
    """Return what a resource says about its pool.

    Raises:
        ServiceFailed: as for `discover`.
    """
    if not has_succeeded(state := state_of(resource)):
        raise ServiceFailed(
            f"The pool {name!r} must be ready to be used: its provisioningState must be 'Succeeded', not {state!r}."
        )
    properties = fields_of(resource.get("properties"))
    endpoint = text(properties.get("poolManagementEndpoint"))
    if not _may_serve(server, endpoint):
        raise ServiceFailed(
            f"The endpoint of the pool {name!r} must be on the host of its server, {server}, or on one of Azure for a "
            f"pool in Azure, not {endpoint!r:.200}."
        )
    kind = text(properties.get("containerType"))
    known = {str(each): each for each in ContainerType}
    return Discovered(endpoint, known.get(kind))


def management_settings(settings: AzureSettings) -> ManagementSettings:
    """Return how to call Resource Manager with the options of a pool."""
    key, proxy = settings.management_key or settings.api_key, settings.proxy
    return ManagementSettings(
        credential=settings.credential,
        client_id=settings.client_id,
        proxy=None if proxy is None else proxy.get_secret_value(),
        ssl_context=settings.ssl_context,
        key=lambda: None if key is None else key.get_secret_value(),
        retry_for=settings.acquire_timeout,
    )


def default_server() -> str:
    """Return the server of `GREENROOM_SERVER`, else Azure."""
    return os.environ.get(SERVER_VARIABLE) or AZURE


def _may_serve(server: str, endpoint: str) -> bool:
    """Whether the credentials for a server's pools may go to an endpoint that it names."""
    try:
        found, own = urlsplit(endpoint), urlsplit(server)
        host, own_host = found.hostname or "", own.hostname or ""
    except ValueError:
        return False
    if is_azure_management(server):
        return found.scheme == "https" and is_azure(endpoint)
    return bool(host) and (host == own_host or (is_loopback(host) and is_loopback(own_host)))
