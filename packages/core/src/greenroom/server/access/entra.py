"""Microsoft Entra ID tokens: validated with the tenant's keys, which are fetched and cached."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast

import jwt
from pydantic import StringConstraints

from greenroom.azure.bodies import TimeBudget, TooSlow, received
from greenroom.azure.transport import Request, Transport, TransportError
from greenroom.server.access.keys import bearer
from greenroom.server.responses import RequestRefused, unauthorized

_LEEWAY = 60.0  # seconds by which clocks can differ
_KEYS_LIFETIME = 3600.0
_KEYS_LIFETIME_OFFLINE = 24 * 3600.0
_KEYS_PAUSE = 30.0  # between fetches, even if callers send invented key identifiers
_FETCH_TIMEOUT = 10.0
_MAX_DOCUMENT = 1 << 20


Guid: TypeAlias = Annotated[
    str, StringConstraints(to_lower=True, pattern=r"(?i)^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
]


@dataclass(frozen=True, slots=True)
class EntraSettings:
    """Which tokens are accepted."""

    tenant: Guid
    """The ID of the directory."""
    audiences: Sequence[str] = ("https://dynamicsessions.io", "https://acasessions.io")
    """Accepted audiences: Azure's own, and the one that Semantic Kernel's tool requests."""
    object_ids: Sequence[Guid] = ()
    """Object IDs of the users or service principals that are accepted (claim `oid`); by default all of the tenant."""
    management_object_ids: Sequence[Guid] = ()
    """Object IDs of callers that can create, change and delete pools; by default none."""
    management_audiences: Sequence[str] = (
        "https://management.azure.com",
        "https://management.azure.com/",
        "https://management.core.windows.net",
        "https://management.core.windows.net/",
    )
    """Accepted audiences of their tokens: Azure Resource Manager's."""
    authority: str = "https://login.microsoftonline.com"
    issuers: Sequence[str] = ()
    """The accepted issuers; by default the tenant's two."""

    @property
    def known_issuers(self) -> Sequence[str]:
        return self.issuers or (
            f"https://sts.windows.net/{self.tenant}/",
            f"{self.authority.rstrip('/')}/{self.tenant}/v2.0",
        )

    @property
    def keys_url(self) -> str:
        return f"{self.authority.rstrip('/')}/{self.tenant}/discovery/v2.0/keys"


class EntraTokens:
    """Accepts callers with a valid token of one tenant and an allowed object ID."""

    def __init__(self, settings: EntraSettings, keys: KeySet, *, management: bool = False) -> None:
        """
        Args:
            settings: which tokens are accepted.
            keys: the tenant's keys.
            management: whether to accept the tokens of callers that manage pools.
        """
        self._settings = settings
        self._keys = keys
        self._audiences = settings.management_audiences if management else settings.audiences
        self._callers = settings.management_object_ids if management else settings.object_ids

    async def admit(self, authorization: str | None) -> str:
        token = bearer(authorization)
        try:
            header = jwt.get_unverified_header(token)
            key = await self._keys.key(str(header.get("kid")))
            if key is None:
                raise unauthorized("The token must be signed by a key of this tenant.")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=self._audiences,
                issuer=self._settings.known_issuers,
                leeway=_LEEWAY,
                options={"require": ["exp", "iat", "aud", "iss", "tid", "oid"]},
            )
        except (jwt.InvalidTokenError, RecursionError) as error:  # of a header with deeply nested arrays
            raise unauthorized(f"The token must be valid: {error}.") from None
        if str(claims["tid"]).lower() != self._settings.tenant:
            raise unauthorized("The token must be from this server's tenant.")
        caller = str(claims["oid"]).lower()
        if self._callers and caller not in self._callers:
            raise RequestRefused(403, "Forbidden", f"The object id {caller} is not allowed to use this server.")
        return caller


class KeySet:
    """The public keys at a URL: cached for an hour, and fetched again when an unknown key is used."""

    def __init__(self, url: str, transport: Transport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._transport = transport
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = -math.inf
        self._lock = asyncio.Lock()

    async def key(self, identifier: str) -> jwt.PyJWK | None:
        """Return the key with that identifier, or `None` if there is none.

        Raises:
            RequestRefused: with status 503; the keys cannot be fetched, and the cached ones are too old.
        """
        if not self._knows(identifier):
            async with self._lock:
                if not self._knows(identifier):
                    await self._refresh()
        return self._keys.get(identifier)

    def _knows(self, identifier: str) -> bool:
        return identifier in self._keys and self._clock() - self._fetched < _KEYS_LIFETIME

    async def _refresh(self) -> None:
        reason = "fetching them has just failed"
        if self._clock() - self._tried >= _KEYS_PAUSE:
            self._tried = self._clock()
            try:
                self._keys = await self._fetch()
                self._fetched = self._tried
            except (TransportError, TooSlow, TimeoutError, ValueError, RecursionError, jwt.PyJWTError) as error:
                reason = f"{type(error).__name__}: {error}"
        if self._clock() - self._fetched >= _KEYS_LIFETIME_OFFLINE:
            raise RequestRefused(
                503, "ServiceUnavailable", f"The keys of Microsoft Entra ID are not available: {reason}."
            )

    async def _fetch(self) -> dict[str, jwt.PyJWK]:
        document: object = json.loads(await self._document())
        if not isinstance(document, dict):
            raise ValueError("the document must be a JSON Web Key Set")
        keys = jwt.PyJWKSet.from_dict(cast("dict[str, Any]", document))
        return {key.key_id: key for key in keys.keys if key.key_id and key.key_type == "RSA"}

    async def _document(self) -> bytes:
        content = bytearray()
        async with asyncio.timeout(_FETCH_TIMEOUT):
            response = await self._transport.send(Request("GET", self._url, {"Accept-Encoding": "identity"}))
            try:
                if not response.is_success:
                    raise ValueError(f"the status must be 200, not {response.status}")
                async for chunk in received(response, TimeBudget(_FETCH_TIMEOUT), _MAX_DOCUMENT):
                    content += chunk
                    if len(content) > _MAX_DOCUMENT:
                        raise ValueError(f"the document must have at most {_MAX_DOCUMENT} bytes")
            finally:
                await response.close()
        return bytes(content)
