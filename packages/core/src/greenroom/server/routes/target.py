"""The target of a request: its pool, session and API version, hence its contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl

from starlette.datastructures import URL
from starlette.requests import Request

from greenroom import wire
from greenroom.arm.ids import PoolId
from greenroom.azure.codecs.contract import Contract, contract_of
from greenroom.azure.codecs.problems import IDENTIFIER_LENGTH, NOT_SUPPORTED, BadRequest
from greenroom.azure.codecs.shared import API_VERSIONS, CURRENT_VERSIONS, LATEST, LEGACY_VERSIONS, is_legacy
from greenroom.server.budget import Share
from greenroom.server.registry import PoolRegistry, ServedPool
from greenroom.server.responses import RequestRefused
from greenroom.server.settings import ServerSettings
from greenroom.sessions.rules import check_identifier

ContractName: TypeAlias = Literal["legacy", "current", "greenroom", "mcp"]

_MAX_FIELDS = 50


def url_of(request: Request) -> URL:
    """Return the URL that the client used: a proxy before the server can have a different name and scheme."""
    public: str | None = request.app.public_url
    if public is None:
        return request.url
    scheme, _, place = public.partition("://")
    return request.url.replace(scheme=scheme, netloc=place)


@dataclass(frozen=True, slots=True)
class Target:
    """The pool, session and API version that a request names."""

    pool: ServedPool
    version: str
    query: Mapping[str, str]
    settings: ServerSettings
    session: str | None
    held: Share
    """The memory that is reserved for the request."""

    @property
    def identifier(self) -> str:
        """The session's identifier.

        Raises:
            BadRequest: it is missing or not valid.
        """
        if self.session is None:
            raise BadRequest("The request must have an 'identifier'.", target="identifier")
        if not 4 <= len(self.session) <= 128:
            raise BadRequest(
                f"The session identifier must have 4 to 128 characters, not {len(self.session)}.",
                code=IDENTIFIER_LENGTH,
                target="identifier",
            )
        return check_identifier(self.session)

    @property
    def legacy(self) -> bool:
        return is_legacy(self.version)

    @property
    def codec(self) -> Contract:
        return contract_of(self.version)

    @property
    def strict(self) -> bool:
        return self.settings.strict

    def require(self, since: str) -> None:
        """Refuse an operation in earlier versions.

        Raises:
            BadRequest: the version is earlier, and the server is strict.
        """
        if self.strict and API_VERSIONS.index(self.version) < API_VERSIONS.index(since):
            raise BadRequest(
                f"The api-version must be {since} or later for this operation, not {self.version}.", code=NOT_SUPPORTED
            )


def find_target(
    request: Request, pools: PoolRegistry, settings: ServerSettings, contract: ContractName | None
) -> Target:
    """Return the target of a request.

    Args:
        request: has the path parameters of its route.
        pools: the server's pools.
        settings: the server's settings.
        contract: the contract that the path belongs to, or `None` for both of Azure's.

    Raises:
        BadRequest: the query is not valid, or its version is unknown.
        RequestRefused: the pool does not exist.
    """
    query = parse_query(request)
    identifier = request.path_params.get("identifier")
    if identifier is not None and query.get("identifier", identifier) != identifier:
        raise BadRequest("The identifier in the query must equal that in the path.", target="identifier")
    if identifier is not None and "/" in identifier:  # a proxy before this server could split it into two segments
        raise BadRequest("An identifier with a slash must be in the query, not in the path.", target="identifier")
    return Target(
        pool=_pool(request.path_params, pools),
        version=_version(query.get("api-version"), contract, strict=settings.strict),
        query=query,
        settings=settings,
        session=identifier or query.get("identifier") or None,
        held=request.scope["greenroom.held"],
    )


def parse_query(request: Request) -> dict[str, str]:
    """Return the parameters of a query.

    Raises:
        BadRequest: one is repeated, or there are too many.
    """
    try:
        fields = parse_qsl(
            request.scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS
        )
    except ValueError as error:
        raise BadRequest(f"The query must have at most {_MAX_FIELDS} valid fields: {error}.") from None
    names = [name for name, _ in fields]
    if repeated := {name for name in names if names.count(name) > 1}:
        name = min(repeated)
        raise BadRequest(f"A query parameter must not be repeated, as {name!r:.100} is.", target=f"{name:.100}")
    return dict(fields)


def _pool(path: Mapping[str, str], pools: PoolRegistry) -> ServedPool:
    name = path.get("pool")
    pool = pools.find(None if name is None else PoolId(path["subscription"], path["group"], name))
    if pool is None:
        raise RequestRefused(
            404, "SessionPoolNotFound", f"The session pool must be one of this server, not {name or 'default'!r:.200}."
        )
    return pool


def _version(version: str | None, contract: ContractName | None, *, strict: bool) -> str:
    if contract == "greenroom":
        return wire.VERSION
    if contract == "mcp":  # its messages contain the version
        return contract
    if version is None:
        if strict:
            raise BadRequest("The request must have an 'api-version'.", target="api-version")
        return LEGACY_VERSIONS[-1] if contract == "legacy" else LATEST
    if version not in API_VERSIONS:
        known = ", ".join(API_VERSIONS)
        raise BadRequest(f"The api-version must be one of {known}, not {version!r:.100}.", target="api-version")
    versions = {"legacy": LEGACY_VERSIONS, "current": CURRENT_VERSIONS, None: API_VERSIONS}[contract]
    if version in versions:
        return version
    if strict:
        raise BadRequest(
            f"The api-version must be one of {', '.join(versions)} for this path, not {version}.",
            code=NOT_SUPPORTED,
            target="api-version",
        )
    return versions[-1]
