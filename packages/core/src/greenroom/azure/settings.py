"""The options of the Azure client, and the rules for its endpoint."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from typing import Any, NoReturn, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from greenroom import wire
from greenroom.azure.codecs.shared import API_VERSIONS
from greenroom.backend import Overrides
from greenroom.config.environment import Environment
from greenroom.config.values import MAX_TIMEOUT, Size, validate
from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType

_MIB = 1 << 20


class AzureSettings(BaseModel):
    """How to call a pool in Azure. Times are in seconds, sizes in bytes or as `512Mi`.

    A pool's own properties (its size, memory, cool-down, network) are set where it is created.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    container_type: ContainerType = ContainerType.PYTHON_LTS
    """The kind of program in the pool's sandboxes, as it was created. Azure does not report it; our own server does,
    and one that contradicts it is refused with the first call."""
    credential: Any = None
    """An azure-core credential, synchronous or asynchronous; by default `DefaultAzureCredential`, which takes
    the login of `az`, environment variables or a managed identity."""
    client_id: str | None = None
    """The client ID of a user-assigned managed identity; by default that of `AZURE_CLIENT_ID`."""
    api_key: SecretStr | None = None
    """A key of `greenroom serve`, sent in place of a token."""
    server: str | None = None
    """The server that is asked for a pool given by its id: by default that of `GREENROOM_SERVER`, else Azure."""
    management_key: SecretStr | None = None
    """The management key of a `greenroom serve`, for that question; by default `api_key`."""
    api_version: str | None = None
    """A version of Azure's API, or `greenroom/1`; by default `greenroom/1` if the server speaks it, as
    `greenroom serve` does, else Azure's 2025-10-02-preview. Hosts of Azure are not asked."""
    timeout: float = Field(60, gt=0, le=MAX_TIMEOUT)
    """The time limit of an execution whose caller gives none. Azure ends a synchronous one after 220 seconds, so
    longer ones are asynchronous."""
    acquire_timeout: float = Field(30, ge=0)
    """How long a call is retried while the pool is full or too busy, and a pool's id is asked for until it is ready."""
    output_limit: Size = Field(_MIB, ge=1024, le=64 * _MIB)
    """Characters of each stream that are returned (2025-10-02-preview; Azure's own default is 4,096)."""
    file_limit: Size = Field(128 * _MIB, ge=1)
    """Bytes of one uploaded or downloaded file."""
    trace_content: bool = False
    """Whether the spans of OpenTelemetry have the code and what it printed."""
    proxy: SecretStr | None = None
    """The URL of an HTTP proxy, which can contain a user and a password; by default that of `HTTPS_PROXY`, except
    for the hosts of `NO_PROXY` and for this machine."""
    ssl_context: ssl.SSLContext | None = None
    """Which certificates are trusted; by default the usual authorities, or those of `SSL_CERT_FILE`."""

    @field_validator("api_version")
    @classmethod
    def _is_known(cls, version: str | None) -> str | None:
        if version not in {None, wire.VERSION, *API_VERSIONS}:
            raise ValueError(f"must be one of {', '.join((*API_VERSIONS, wire.VERSION))}")
        return version

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Settings from options of any origin.

        Raises:
            InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
        """
        return validate(cls, options)


def parse_endpoint(url: str) -> str:
    """Return a pool's management endpoint, without a slash at its end.

    Raises:
        InvalidRequest: the URL is not an endpoint, or credentials would travel in the clear.
    """
    parts = _split(url)
    if parts.username is not None:  # and maybe a password, which no message repeats
        shown = parts._replace(netloc=f"…@{parts.netloc.rpartition('@')[2]}").geturl()
        raise InvalidRequest(
            f"A pool's endpoint must not contain user information, not {shown!r:.200}. Give connect() an api_key or a "
            "credential."
        )
    if not parts.hostname or parts.fragment or not all(map(_is_label, parts.hostname.split("."))):
        raise InvalidRequest(f"A pool's endpoint must have a valid host, and no fragment, not {url!r:.200}.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InvalidRequest(
            f"A pool's endpoint must begin with https://, not {url!r:.200}: credentials and code would travel in the "
            "clear. Only a server on this machine can have http."
        )
    if parts.hostname.endswith(".dynamicsessions.io") and "/sessionPools/" not in parts.path:
        raise InvalidRequest(
            "The endpoint of a pool in Azure must end with /subscriptions/…/resourceGroups/…/sessionPools/…, not "
            f"{url!r:.200}. Find it with: az containerapp sessionpool show --name … --resource-group … --query "
            "properties.poolManagementEndpoint"
        )
    return SplitResult(parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "").geturl()


def refuse_variables(env: Environment) -> None:
    """Refuse environment variables, which the service has no means to set.

    Raises:
        InvalidRequest: there are some; the message shows their names.
    """
    if env:
        raise InvalidRequest(
            f"A session in Azure cannot have variables of its own, such as {next(iter(env))}. Set them in the code, as "
            "with os.environ['TZ'] = 'UTC', or in the command: TZ=UTC date."
        )


def refuse_usage() -> NoReturn:
    """Refuse to tell what was used, which the service does not report.

    Raises:
        InvalidRequest: always.
    """
    raise InvalidRequest(
        "The usage of a session must be asked of a pool on this machine or of greenroom serve, not of a pool in Azure, "
        "whose API does not report it: its metrics and its bill do."
    )


def refuse_overrides(identifier: str, overrides: Overrides) -> None:
    """Refuse the limits and variables of a session, which in Azure are its pool's.

    Raises:
        InvalidRequest: there are some.
    """
    if overrides.env is not None:
        refuse_variables(overrides.env)
    for value, limit, option in (
        (overrides.memory, "memory limit", "--memory"),
        (overrides.idle_timeout, "idle_timeout", "--cooldown-period"),
    ):
        if value is not None:
            raise InvalidRequest(
                f"The session {identifier!r} cannot have its own {limit}: in Azure it is the pool's, set with az "
                f"containerapp sessionpool create {option}."
            )


def check_proxy(url: str) -> str:
    """Return the URL of a proxy.

    Raises:
        InvalidRequest: it is not one; the message does not show its password.
    """
    parts = _split(url, "The option proxy")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        shown = f"{parts.scheme}://{parts.hostname or ''}"
        raise InvalidRequest(f"The option proxy must have the form http://host:port or https://…, not {shown!r:.200}.")
    return url


def is_azure(endpoint: str) -> bool:
    """Whether an endpoint's host is Azure's: it gets an Azure token by default."""
    return (urlsplit(endpoint).hostname or "").endswith((".dynamicsessions.io", ".azurecontainerapps.io"))


def is_dynamic_sessions(endpoint: str) -> bool:
    """Whether an endpoint is one of the service itself, which takes no key of another server."""
    return (urlsplit(endpoint).hostname or "").endswith(".dynamicsessions.io")


def is_loopback(host: str) -> bool:
    """Whether a host name always means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str, what: str = "A pool's endpoint") -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        shown = url.rpartition("@")[2]  # without a password
        raise InvalidRequest(f"{what} must be a URL, not {shown!r:.200}: {error}.") from None
    return parts


def _is_label(label: str) -> bool:
    """Whether a part of a host name can exist: one in Punycode must stand for more than ASCII."""
    if not label.isprintable():
        return False
    if not label.startswith("xn--"):
        return True
    try:
        return not label[4:].encode("ascii").decode("punycode").isascii()
    except UnicodeError:
        return False
