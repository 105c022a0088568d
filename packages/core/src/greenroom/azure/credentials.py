"""Access tokens: fetched when they are needed, kept until shortly before they end."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, Protocol

from greenroom.azure.codecs.shared import SCOPE
from greenroom.errors import AccessDenied, EngineUnavailable, InvalidRequest

_RENEW_BEFORE = 300.0
"""Seconds before its end from which a token is renewed, as azure-core's own policy does."""


class Tokens(Protocol):
    """Where the header `Authorization` comes from."""

    async def get(self) -> str | None:
        """A token that is good now, or `None` to send none.

        Raises:
            AccessDenied: none can be had.
        """
        ...

    def refused(self, token: str | None) -> bool:
        """Note that a token was not accepted; returns whether another one may be."""
        ...

    async def close(self) -> None: ...


class FixedToken:
    """A key of `greenroom serve`, or none at all."""

    def __init__(self, token: str | None) -> None:
        """
        Raises:
            InvalidRequest: no header can hold it; the message does not show it.
        """
        if token is not None and not _fits_a_header(token):
            raise InvalidRequest("The option api_key is not valid: it takes ASCII, without spaces or a newline around.")
        self._token = token

    async def get(self) -> str | None:
        return self._token

    def refused(self, token: str | None) -> bool:
        del token
        return False

    async def close(self) -> None:
        pass


class CredentialTokens:
    """The tokens of an azure-core credential, synchronous or asynchronous."""

    def __init__(self, make: Callable[[], Any], *, owned: bool, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            make: gives the credential; called at the first use, in a thread, as importing azure-identity takes long.
            owned: whether to close the credential at the end.
            clock: seconds since 1970.
        """
        self._make = make
        self._owned = owned
        self._clock = clock
        self._lock = asyncio.Lock()
        self._credential: Any = None
        self._token: str | None = None
        self._renew_at = 0.0

    async def get(self) -> str:
        async with self._lock:  # whoever comes meanwhile waits for the same token
            if self._token is None or self._clock() >= self._renew_at:
                self._token, self._renew_at = await self._fetch()
            return self._token

    def refused(self, token: str | None) -> bool:
        if token == self._token:  # nobody has fetched another one since
            self._token = None
        return True

    async def close(self) -> None:
        credential, self._credential = self._credential, None
        if self._owned and credential is not None:
            await asyncio.to_thread(credential.close)

    async def _fetch(self) -> tuple[str, float]:
        try:
            if self._credential is None:
                self._credential = await asyncio.to_thread(self._make)
            get_token = self._credential.get_token
            if inspect.iscoroutinefunction(get_token):
                token = await get_token(SCOPE)
            else:
                token = await asyncio.to_thread(get_token, SCOPE)
        except EngineUnavailable:
            raise
        except Exception as error:  # a credential may raise anything, and the reason helps
            raise AccessDenied(
                f"No token for Azure could be had: {error}\nLog in with 'az login', set AZURE_CLIENT_ID, "
                "AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or give connect() a credential."
            ) from error
        if not _fits_a_header(token.token):  # the errors of HTTP's libraries would show it
            raise AccessDenied("The credential's token must be printable ASCII.")
        # A token that lives for less than twice the margin is kept for half its life.
        lasts = max(token.expires_on - self._clock(), 0.0)
        return token.token, token.expires_on - min(_RENEW_BEFORE, lasts / 2)


def _fits_a_header(token: str) -> bool:
    return token.isascii() and token.isprintable() and token == token.strip()


def default_credential(client_id: str | None) -> Any:
    """`DefaultAzureCredential`, for the managed identity of that client id, if there is one.

    Raises:
        EngineUnavailable: azure-identity is not installed.
    """
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415  43 MB, only when it is needed
    except ImportError as error:
        raise EngineUnavailable(
            "The credentials for Azure need azure-identity. Install it: pip install 'greenroom[azure]'."
        ) from error
    # Without the argument it takes AZURE_CLIENT_ID itself.
    return DefaultAzureCredential(managed_identity_client_id=client_id) if client_id else DefaultAzureCredential()
