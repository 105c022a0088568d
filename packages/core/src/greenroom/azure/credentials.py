"""Access tokens: fetched when needed, and kept until shortly before they expire."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from greenroom.azure.codecs.shared import SCOPE
from greenroom.azure.settings import AzureSettings, is_azure, is_loopback
from greenroom.errors import AccessDenied, EngineUnavailable, InvalidRequest

_RENEW_BEFORE = 300.0
"""Seconds before its expiry at which a token is renewed, as in azure-core's own policy."""


class Tokens(Protocol):
    """Supplies the `Authorization` header."""

    async def get(self) -> str | None:
        """Return a valid token, or `None` to send none.

        Raises:
            AccessDenied: there is no token.
        """
        ...

    def refused(self, token: str | None) -> bool:
        """Discard a token that was not accepted; return whether a new one might be."""
        ...

    async def close(self) -> None: ...


class FixedToken:
    """A key for a `greenroom serve`, or no token."""

    def __init__(self, token: str | None, *, option: str = "api_key") -> None:
        """
        Args:
            token: the key that is sent.
            option: the name of the option that has the key.

        Raises:
            InvalidRequest: a header cannot contain the key; the message does not show it.
        """
        if token is not None and not _fits_a_header(token):
            raise InvalidRequest(f"The option {option} must be printable ASCII, without spaces or newlines around it.")
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

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        owned: bool,
        scope: str = SCOPE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            make: returns the credential; called on first use, in a thread, as azure-identity takes long to import.
            owned: whether to close the credential too.
            scope: the scope of the tokens.
            clock: seconds since 1970.
        """
        self._make = make
        self._owned = owned
        self._scope = scope
        self._clock = clock
        self._lock = asyncio.Lock()
        self._credential: Any = None
        self._token: str | None = None
        self._renew_at = 0.0

    async def get(self) -> str:
        async with self._lock:  # concurrent calls wait for the same token
            if self._token is None or self._clock() >= self._renew_at:
                self._token, self._renew_at = await self._fetch()
            return self._token

    def refused(self, token: str | None) -> bool:
        if token == self._token:  # it has not been renewed yet
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
                token = await get_token(self._scope)
            else:
                token = await asyncio.to_thread(get_token, self._scope)
        except EngineUnavailable:
            raise
        except Exception as error:  # a credential can raise anything; the message shows why
            raise AccessDenied(
                f"Could not get an Azure token: {error}\nLog in with 'az login', set AZURE_CLIENT_ID, "
                "AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or give connect() a credential."
            ) from error
        if not _fits_a_header(token.token):  # errors of HTTP libraries would show the token
            raise AccessDenied("The credential's token must be printable ASCII.")
        # A token that lives for less than twice the margin is kept for half its lifetime.
        lasts = max(token.expires_on - self._clock(), 0.0)
        return token.token, token.expires_on - min(_RENEW_BEFORE, lasts / 2)


def _fits_a_header(token: str) -> bool:
    return token.isascii() and token.isprintable() and token == token.strip()


def default_credential(client_id: str | None) -> Any:
    """Return a `DefaultAzureCredential`, for the managed identity with this client ID if it is given.

    Raises:
        EngineUnavailable: azure-identity is not installed.
    """
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415  43 MB, so only when needed
    except ImportError as error:
        raise EngineUnavailable(
            "Azure credentials need azure-identity. Install it: pip install 'greenroom[azure]'."
        ) from error
    # Without the argument, azure-identity reads AZURE_CLIENT_ID itself.
    return DefaultAzureCredential(managed_identity_client_id=client_id) if client_id else DefaultAzureCredential()


def tokens_for(endpoint: str, settings: AzureSettings) -> Tokens:
    """Return the tokens for a pool: its server's key, a credential's tokens, or for Azure's hosts Azure tokens.

    Raises:
        InvalidRequest: the host is not Azure's, and there is neither a key nor a credential.
    """
    if settings.api_key is not None:
        return FixedToken(settings.api_key.get_secret_value())
    if settings.credential is not None:
        return CredentialTokens(lambda: settings.credential, owned=False)
    host = urlsplit(endpoint).hostname or ""
    if is_loopback(host):  # a server on this machine must not see an Azure token
        return FixedToken(None)
    if not is_azure(endpoint):
        raise InvalidRequest(
            f"A pool must be on an Azure host to get an Azure token by default, not at {endpoint!r:.200}. Pass the "
            "server's api_key or a credential to connect()."
        )
    return CredentialTokens(lambda: default_credential(settings.client_id), owned=True)
