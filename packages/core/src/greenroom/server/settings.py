"""The options of a server, on the command line and in a TOML file with tables `[server]` and `[pools.NAME]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from greenroom.azure.settings import is_loopback
from greenroom.config.sources import read_toml
from greenroom.config.values import Size, validate
from greenroom.errors import InvalidRequest
from greenroom.server.access.entra import EntraSettings
from greenroom.untrusted import brief

_MIB = 1 << 20


def _without_path(url: str) -> str:
    rule = "must be https:// or http:// with a host, and nothing after it"
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        raise ValueError(rule) from None
    if not named or parts.scheme not in {"http", "https"} or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(rule)
    return f"{parts.scheme}://{parts.netloc}"


class ServerSettings(BaseModel):
    """The settings of a server. Times are in seconds, sizes in bytes or as `4Mi`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """The address to listen on. An address that others can reach requires credentials."""
    port: int = Field(8080, ge=0, le=65535)
    """The port to listen on; 0 for any free port."""
    strict: bool = False
    """Whether to refuse requests that violate Azure's specification, even if its clients send them."""
    api_key_file: Path | None = None
    """Digests of the API keys, as `greenroom api-key` writes them."""
    management_key_file: Path | None = None
    """Digests of the keys with which pools are created, changed and deleted, in the same form."""
    metrics_key_file: Path | None = None
    """Digests of keys that can only read the metrics; keys of `api_key_file` can read them too."""
    engine: str | None = None
    """The engine URL for created pools that do not name one; by default the best engine for their type."""
    state: Path | None = None
    """The file that stores created pools, or `:memory:`; by default in the user's data directory, or memory if pools
    are declared."""
    ui: bool | None = None
    """Whether to serve the pages at `/ui`; by default only if no other machine can reach the server."""
    prices: Path | None = None
    """The price list for the usage page, in TOML; by default as for `greenroom usage`."""
    log_max_age: float = Field(30 * 86400, gt=0)
    """How long log records and the usage of ended sessions are kept."""
    log_max_size: Size = Field(32 * _MIB, ge=64 * 1024)
    """The approximate maximum size of each log and of the usage; the oldest records are deleted first."""
    entra: EntraSettings | None = None
    """Which Microsoft Entra ID tokens are accepted."""
    certfile: Path | None = None
    """The certificate chain for TLS, in PEM; needs `keyfile`."""
    keyfile: Path | None = None
    """The private key of `certfile`, in PEM."""
    tls_self_signed: bool = False
    """Whether to create a certificate for development."""
    tls_directory: Path = Path("~/.config/greenroom/tls")
    """The directory of that certificate."""
    public_url: Annotated[str, AfterValidator(_without_path)] | None = None
    """The URL that clients use if the server is behind a proxy, for the URLs in responses."""
    allowed_hosts: frozenset[Annotated[str, StringConstraints(to_lower=True)]] = frozenset()
    """Additional host names of a server without authentication."""
    max_body: Size = Field(8 * _MIB, ge=1024)
    """The maximum size of a request that is not an upload."""
    max_upload: Size = Field(128 * _MIB, ge=1024)
    """The maximum size of a file in an upload; the pool's `file_limit` applies too."""
    max_headers: Size = Field(32 * 1024, ge=4096, le=_MIB)
    """The maximum size of a request's headers and query."""
    max_in_flight: Size = Field(256 * _MIB, ge=1024 * 1024)
    """The maximum size of all request bodies and responses in memory."""
    max_requests: int = Field(256, ge=1)
    """The maximum number of concurrent requests."""
    max_connections: int = Field(2000, ge=1)
    """The maximum number of concurrent connections."""
    max_parked: int = Field(100, ge=0)
    """The maximum number of executions per key and pool whose calls wait for a client because theirs has
    disconnected."""
    max_parked_time: float = Field(604_800, gt=0)
    """How long the calls of one execution can wait while nothing works on them; clients can set a lower limit."""
    client_timeout: float = Field(20, gt=0)
    """How long a client can keep the server waiting, not counting the time for its data at 4 KiB per second."""
    shutdown_grace: float = Field(30, ge=0)
    """How long running executions have to end at shutdown."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.certfile is None) != (self.keyfile is None):
            given, missing = ("certfile", "keyfile") if self.certfile is not None else ("keyfile", "certfile")
            raise ValueError(f"{given} must be used with {missing}, not alone")
        if self.certfile is not None and self.tls_self_signed:
            raise ValueError(f"certfile must not be {str(self.certfile)!r} if tls_self_signed is set")
        return self

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_in_flight < self.max_body:
            raise ValueError(f"max_in_flight must be at least max_body ({self.max_body}), not {self.max_in_flight}")
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def has_ui(self) -> bool:
        """Whether to serve the pages at `/ui`."""
        return self.is_local if self.ui is None else self.ui

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Return the settings from options, whatever their source.

        Raises:
            InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
        """
        return validate(cls, options)


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the server's options and the pools' options by name.

    Raises:
        InvalidRequest: the file cannot be read, or has other tables.
    """
    content = read_toml(path)
    if unknown := sorted(content.keys() - {"server", "pools"}):
        raise _invalid(path, "must contain only the tables [server] and [pools.NAME]", ", ".join(unknown))
    server = _table(path, "server", content.get("server", {}))
    _table(path, "server.entra", server.get("entra", {}))
    pools = _table(path, "pools", content.get("pools", {}))
    for name, value in pools.items():
        url = _table(path, f"pools.{name}", value).get("url", "")
        if not isinstance(url, str):
            raise _invalid(path, f"must have a string as the url of [pools.{name}]", url)
    return server, pools


def _table(path: Path, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(path, f"must have a table [{name}]", value)
    return cast("dict[str, Any]", value)


def _invalid(path: Path, rule: str, value: object) -> InvalidRequest:
    return InvalidRequest(f"The configuration {str(path)!r} {rule}, not {brief(value)}.")
