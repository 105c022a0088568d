"""What a server is told: by the command line, and by a TOML file with the tables `[server]` and `[pools.NAME]`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from greenroom.azure.settings import is_loopback
from greenroom.config.values import Size, validate
from greenroom.errors import InvalidRequest
from greenroom.server.access.entra import EntraSettings

_MIB = 1 << 20


class ServerSettings(BaseModel):
    """The settings of a server. Times are in seconds, sizes in bytes or as `4Mi`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """The address to listen at. Any but this machine's own needs credentials."""
    port: int = Field(8080, ge=0, le=65535)
    """0 takes any that is free."""
    strict: bool = False
    """Whether to refuse what Azure's specification does not allow, though clients send it."""
    api_key_file: Path | None = None
    """Digests of the keys that let callers in; see `greenroom.server.access.keys.read_keys`."""
    entra: EntraSettings | None = None
    """Whose tokens let callers in."""
    certfile: Path | None = None
    keyfile: Path | None = None
    tls_self_signed: bool = False
    """Whether to make a certificate for development."""
    tls_directory: Path = Path("~/.config/greenroom/tls")
    """Where that is kept."""
    allowed_hosts: frozenset[Annotated[str, StringConstraints(to_lower=True)]] = frozenset()
    """Further names under which a server without authentication may be reached."""
    max_body: Size = Field(8 * _MIB, ge=1024)
    """Bytes of one request that is no upload."""
    max_upload: Size = Field(128 * _MIB, ge=1024)
    """Bytes of the file in an upload; the pool's `file_limit` holds too."""
    max_headers: Size = Field(32 * 1024, ge=4096, le=_MIB)
    """Bytes of a request's headers and its query."""
    max_in_flight: Size = Field(256 * _MIB, ge=1024 * 1024)
    """Bytes of request bodies and responses that are held for all callers at the same time."""
    max_requests: int = Field(256, ge=1)
    """Requests at once."""
    max_connections: int = Field(2000, ge=1)
    client_timeout: float = Field(20, gt=0)
    """How long a client may leave the server waiting, beyond the time that its bytes take at 4 KiB a second."""
    shutdown_grace: float = Field(30, ge=0)
    """How long executions under way may take to end when the server is told to."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("certfile and keyfile go together")
        if self.certfile is not None and self.tls_self_signed:
            raise ValueError("there is either a certificate (certfile) or a self-signed one (tls_self_signed)")
        return self

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_in_flight < self.max_body:
            raise ValueError(f"max_in_flight must be at least max_body ({self.max_body}), not {self.max_in_flight}")
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Settings from options of any origin.

        Raises:
            InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
        """
        return validate(cls, options)


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The options of the server, and those of the pools by their names.

    Raises:
        InvalidRequest: the file cannot be read, or has other tables.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"The configuration {str(path)!r} cannot be read: {error}.") from error
    if unknown := content.keys() - {"server", "pools"}:
        raise InvalidRequest(
            f"The configuration {str(path)!r} has {', '.join(sorted(unknown))}, which is unknown: "
            "it takes [server] and [pools.NAME]."
        )
    server, pools = content.get("server", {}), content.get("pools", {})
    if not isinstance(server, dict) or not isinstance(pools, dict):
        raise InvalidRequest(f"The configuration {str(path)!r} is not valid: server and pools are tables.")
    if not isinstance(cast("dict[str, Any]", server).get("entra", {}), dict):
        raise InvalidRequest(f"The configuration {str(path)!r} is not valid: [server.entra] is a table.")
    for name, pool in cast("dict[str, Any]", pools).items():
        if not isinstance(pool, dict):
            raise InvalidRequest(f"The configuration {str(path)!r} is not valid: [pools.{name}] is a table.")
        if not isinstance(cast("dict[str, Any]", pool).get("url", ""), str):
            raise InvalidRequest(f"The configuration {str(path)!r} is not valid: the url of [pools.{name}] is a text.")
    return cast("dict[str, Any]", server), cast("dict[str, dict[str, Any]]", pools)
