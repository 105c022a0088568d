"""What the client of a pool in Azure is told."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from greenroom.azure.codecs.shared import API_VERSIONS, LATEST
from greenroom.config.values import MAX_TIMEOUT, Size, validate
from greenroom.errors import InvalidRequest

_MIB = 1 << 20


class AzureSettings(BaseModel):
    """How to call a pool in Azure. Times are in seconds, sizes in bytes or as `512Mi`.

    What the pool itself has (its size, memory, cool-down, network) is set where it is made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    credential: Any = None
    """An azure-core credential, synchronous or asynchronous; by default `DefaultAzureCredential`, which takes
    the login of `az`, environment variables or a managed identity."""
    client_id: str | None = None
    """Of the user-assigned managed identity to take; by default that of `AZURE_CLIENT_ID`."""
    api_key: SecretStr | None = None
    """A key of `greenroom serve`, sent in place of a token."""
    api_version: str = LATEST
    timeout: float = Field(60, gt=0, le=MAX_TIMEOUT)
    """How long an execution may run if its caller does not say. Azure ends a synchronous one after 220 seconds,
    so longer ones are asynchronous."""
    acquire_timeout: float = Field(30, ge=0)
    """How long a call is tried again while the pool is full or too busy."""
    output_limit: Size = Field(_MIB, ge=1024, le=64 * _MIB)
    """Characters of each stream that come back (2025-10-02-preview; Azure's own default is 4,096)."""
    file_limit: Size = Field(128 * _MIB, ge=1)
    """Bytes of one uploaded or downloaded file."""
    transport: Any = None
    """An `httpx.AsyncBaseTransport` in place of httpx's own, such as one with a proxy."""

    @field_validator("api_version")
    @classmethod
    def _is_known(cls, version: str) -> str:
        if version not in API_VERSIONS:
            raise ValueError(f"must be one of {', '.join(API_VERSIONS)}")
        return version

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Settings from options of any origin.

        Raises:
            InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
        """
        return validate(cls, options)


def parse_endpoint(url: str) -> str:
    """The pool's management endpoint, without a slash at its end.

    Raises:
        InvalidRequest: it is none, or would carry credentials in the clear.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidRequest(f"The pool {url!r:.200} is not valid: {error}.") from None
    if parts.username is not None:  # and maybe a password, which no message repeats
        raise InvalidRequest(
            "The pool's endpoint is not valid: it has no user. Give connect() an api_key or a credential."
        )
    if not parts.hostname or parts.fragment:
        raise InvalidRequest(f"The pool {url!r:.200} is not valid: its endpoint has a host, and no fragment.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InvalidRequest(
            f"The pool {url!r:.200} is not valid: credentials and code would travel in the clear. Use https; only "
            "a server on this machine may have http."
        )
    if parts.hostname.endswith(".dynamicsessions.io") and "/sessionPools/" not in parts.path:
        raise InvalidRequest(
            f"The pool {url!r:.200} is not valid: the endpoint of a pool ends with /subscriptions/…/resourceGroups/…"
            "/sessionPools/…. Find it with: az containerapp sessionpool show --name … --resource-group … "
            "--query properties.poolManagementEndpoint"
        )
    return SplitResult(parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "").geturl()


def is_loopback(host: str) -> bool:
    """Whether only this machine answers under the name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
