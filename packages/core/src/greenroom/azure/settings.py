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
    """Settings for a pool in Azure. Times are in seconds, sizes in bytes or as `512Mi`.

    A pool's own properties (its size, memory, cool-down, network) are set where it is created.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    container_type: ContainerType = ContainerType.PYTHON_LTS
    """The kind of program in the pool's sandboxes. Azure does not report it. Our own server does; if it reports another
    type, the first call fails."""
    credential: Any = None
    """An azure-core credential, synchronous or asynchronous; by default `DefaultAzureCredential`, which takes
    the login of `az`, environment variables or a managed identity."""
    client_id: str | None = None
    """The client ID of a user-assigned managed identity; by default that of `AZURE_CLIENT_ID`."""
    api_key: SecretStr | None = None
    """A key for a `greenroom serve`, sent in place of a token."""
    server: str | None = None
    """The server on which to look up a pool given by its id; by default that of `GREENROOM_SERVER`, else Azure."""
    management_key: SecretStr | None = None
    """The management key of a `greenroom serve` for that look-up; by default `api_key`."""
    api_version: str | None = None
    """A version of Azure's API, or `greenroom/1`; by default `greenroom/1` if the server supports it, as `greenroom
    serve` does, else Azure's 2025-10-02-preview. Azure's hosts are not asked."""
    timeout: float = Field(60, gt=0, le=MAX_TIMEOUT)
    """The default time limit of an execution. Azure ends synchronous executions after 220 seconds, so longer ones are
    asynchronous."""
    acquire_timeout: float = Field(30, ge=0)
    """How long a call is retried while the pool is full or too busy, or while a pool given by its id is not ready."""
    output_limit: Size = Field(_MIB, ge=1024, le=64 * _MIB)
    """The maximum number of characters returned of each stream (2025-10-02-preview; Azure's default is 4,096)."""
    file_limit: Size = Field(128 * _MIB, ge=1)
    """The maximum size of an uploaded or downloaded file."""
    trace_content: bool = False
    """Whether OpenTelemetry spans include the code and its output."""
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
        """Return the settings from options, whatever their source.

        Raises:
            InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
        """
        return validate(cls, options)


def parse_endpoint(url: str) -> str:
    """Return a pool's management endpoint, without a trailing slash.

    Raises:
        InvalidRequest: the URL is not an endpoint, or credentials would be sent unencrypted.
    """
    parts = _split(url)
    if parts.username is not None:  # it may contain a password, which no message shows
        shown = parts._replace(netloc=f"…@{parts.netloc.rpartition('@')[2]}").geturl()
        raise InvalidRequest(
            f"A pool's endpoint must not contain user information, not {shown!r:.200}. Give connect() an api_key or a "
            "credential."
        )
    if not parts.hostname or parts.fragment or not all(map(_is_label, parts.hostname.split("."))):
        raise InvalidRequest(f"A pool's endpoint must have a valid host, and no fragment, not {url!r:.200}.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InvalidRequest(
            f"A pool's endpoint must begin with https://, not {url!r:.200}: credentials and code would be sent "
            "unencrypted. Only a server on this machine can use http."
        )
    if parts.hostname.endswith(".dynamicsessions.io") and "/sessionPools/" not in parts.path:
        raise InvalidRequest(
            "The endpoint of a pool in Azure must end with /subscriptions/…/resourceGroups/…/sessionPools/…, not "
            f"{url!r:.200}. Find it with: az containerapp sessionpool show --name … --resource-group … --query "
            "properties.poolManagementEndpoint"
        )
    return SplitResult(parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "").geturl()


def refuse_variables(env: Environment) -> None:
    """Refuse environment variables, which the service cannot set.

    Raises:
        InvalidRequest: there are some; the message shows their names.
    """
    if env:
        raise InvalidRequest(
            f"A session in Azure cannot have its own environment variables, such as {next(iter(env))}. Set them in "
            "the code, for example os.environ['TZ'] = 'UTC', or in the command: TZ=UTC date."
        )


def refuse_usage() -> NoReturn:
    """Refuse a query for the usage, which the service does not report.

    Raises:
        InvalidRequest: always.
    """
    raise InvalidRequest(
        "The pool must be on this machine or on a greenroom serve to report a session's usage, not in Azure, whose "
        "API does not report it. See Azure's metrics and its bill."
    )


def refuse_overrides(identifier: str, overrides: Overrides) -> None:
    """Refuse a session's own limits and variables: in Azure, they are set for the pool.

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
                f"The session {identifier!r} cannot have its own {limit}: in Azure it is set for the pool, with az "
                f"containerapp sessionpool create {option}."
            )


def check_proxy(url: str) -> str:
    """Return the URL of a proxy.

    Raises:
        InvalidRequest: it is not the URL of a proxy; the message does not show its password.
    """
    parts = _split(url, "The option proxy")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        shown = f"{parts.scheme}://{parts.hostname or ''}"
        raise InvalidRequest(f"The option proxy must have the form http://host:port or https://…, not {shown!r:.200}.")
    return url


def is_azure(endpoint: str) -> bool:
    """Whether an endpoint's host is Azure's, so that it gets an Azure token by default."""
    return (urlsplit(endpoint).hostname or "").endswith((".dynamicsessions.io", ".azurecontainerapps.io"))


def is_dynamic_sessions(endpoint: str) -> bool:
    """Whether an endpoint is the Azure service itself, which must not get another server's key."""
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
    """Whether a label of a host name is valid: one in Punycode must contain non-ASCII characters."""
    if not label.isprintable():
        return False
    if not label.startswith("xn--"):
        return True
    try:
        return not label[4:].encode("ascii").decode("punycode").isascii()
    except UnicodeError:
        return False
