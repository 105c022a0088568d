"""Access to the pages and to stopping sessions: sign-ins, cookies, the token of forms, the origin of requests.

A sign-in has no rights of its own. It keeps the person's key or token, encrypted with the cookie's value, and each
request is checked with it again: if the credential is no longer accepted, the sign-in ends.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http.cookies import SimpleCookie

from cryptography.fernet import Fernet, InvalidToken
from starlette.datastructures import Headers

from greenroom.azure.settings import is_loopback
from greenroom.server.access.keys import Guard
from greenroom.server.access.origins import host_name
from greenroom.server.responses import RequestRefused, unauthorized

LIFETIME = 3600
"""Seconds that a sign-in lasts, used or not."""

_MOST_OF_ONE_CALLER = 10
_MOST = 1000
_TOKEN_LENGTH = 43  # a key of Fernet without its padding


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person behind a request."""

    caller: str | None
    """The name of the credential; `None` if there is none."""
    can_manage: bool
    form_token: str
    """The token that a form must send back, unknown to other sites."""

    @property
    def is_signed_in(self) -> bool:
        return self.caller is not None

    def check_form(self, given: str) -> None:
        """Check the token of a form.

        Raises:
            RequestRefused: with status 403; the form is not from one of this viewer's pages.
        """
        if not hmac.compare_digest(given.encode(), self.form_token.encode()):
            raise RequestRefused(403, "FormNotValid", "The form belongs to an earlier sign-in. Reload the page.")


@dataclass(frozen=True, slots=True)
class _SignIn:
    caller: str
    expires: float
    credential: bytes = field(repr=False)
    """Encrypted; only the cookie contains the key."""
    form_token: str = field(repr=False)


class Access:
    """Decides who sees the pages, and keeps a bounded number of sign-ins, in memory, by the digest of their cookie."""

    def __init__(
        self, sessions: Guard | None, management: Guard | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            sessions: decides who can use sessions; with `None`, every program on this machine can see the pages.
            management: decides who can manage pools; `None` means no one, or everyone if `sessions` is `None`.
            clock: for tests.
        """
        self._sessions = sessions
        self._management = management
        self._clock = clock
        self._sign_ins: dict[str, _SignIn] = {}
        """By digest of the cookie, earliest first."""
        self._anonymous_token = secrets.token_urlsafe(32)

    @property
    def needs_sign_in(self) -> bool:
        """Whether the pages require a credential."""
        return self._sessions is not None

    @property
    def takes_keys(self) -> bool:
        """Whether any credential can sign in."""
        return self._sessions is not None or self._management is not None

    async def viewer(self, token: str | None) -> Viewer | None:
        """Return the viewer for the cookie of a request; `None` if they must sign in first.

        Raises:
            RequestRefused: with status 503; the credential cannot be checked at the moment.
        """
        if token is not None and (viewer := await self._signed_in(token)) is not None:
            return viewer
        if self._sessions is not None:
            return None
        return Viewer(None, can_manage=self._management is None, form_token=self._anonymous_token)

    async def sign_in(self, credential: str, replaced: str | None) -> str:
        """Start a sign-in, and return the value of its cookie.

        Args:
            credential: a key or a token.
            replaced: the previous cookie's value, whose sign-in ends.

        Raises:
            RequestRefused: with status 401 or 403, the credential is not accepted; with 503, it cannot be checked.
        """
        caller, _ = await self._rights(credential)
        self.sign_out(replaced)
        self._make_room(caller)
        token = Fernet.generate_key()
        self._sign_ins[_digest(token)] = _SignIn(
            caller,
            self._clock() + LIFETIME,
            Fernet(token).encrypt(credential.encode("utf-8", "surrogatepass")),
            secrets.token_urlsafe(32),
        )
        return token.decode().rstrip("=")

    def sign_out(self, token: str | None) -> None:
        """End a sign-in, if there is one."""
        if token is not None:
            self._sign_ins.pop(_digest(_padded(token)), None)

    async def _signed_in(self, token: str) -> Viewer | None:
        digest = _digest(_padded(token))
        found = self._sign_ins.get(digest)
        if found is None:
            return None
        if found.expires > self._clock():
            try:
                credential = Fernet(_padded(token)).decrypt(found.credential).decode("utf-8", "surrogatepass")
                caller, can_manage = await self._rights(credential)
                return Viewer(caller, can_manage, found.form_token)
            except (InvalidToken, ValueError):
                pass
            except RequestRefused as refused:
                if refused.problem.status not in {401, 403}:
                    raise
        self._sign_ins.pop(digest, None)
        return None

    async def _rights(self, credential: str) -> tuple[str, bool]:
        """Return the caller's name, and whether they can manage pools."""
        authorization = f"Bearer {credential}"
        refused = unauthorized("The server does not accept keys.")
        if self._management is not None:
            try:
                return await self._management.admit(authorization), True
            except RequestRefused as error:
                refused = error
        if self._sessions is not None:
            return await self._sessions.admit(authorization), False
        raise refused

    def _make_room(self, caller: str) -> None:
        """Forget expired sign-ins, and the earliest ones if there are too many."""
        now = self._clock()
        self._sign_ins = {digest: each for digest, each in self._sign_ins.items() if each.expires > now}
        own = [digest for digest, each in self._sign_ins.items() if each.caller == caller]
        for digest in own[: max(0, len(own) - _MOST_OF_ONE_CALLER + 1)]:
            del self._sign_ins[digest]
        while len(self._sign_ins) >= _MOST:
            del self._sign_ins[next(iter(self._sign_ins))]


def cookie_of(headers: Headers, name: str) -> str | None:
    """Return the value of a cookie, if the request has exactly one of that name."""
    values = list[str]()
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            found, _, value = pair.strip().partition("=")
            if found == name:
                values.append(value)
    return values[0] if len(values) == 1 and len(values[0]) == _TOKEN_LENGTH and values[0].isascii() else None


def set_cookie(name: str, value: str, *, secure: bool) -> str:
    """Return the header that sets a cookie for the pages; with an empty value, the header that removes it."""
    cookie = SimpleCookie({name: value})
    morsel = cookie[name]
    morsel["path"], morsel["samesite"], morsel["httponly"] = "/ui", "Strict", True
    morsel["max-age"] = LIFETIME if value else 0
    morsel["secure"] = secure
    return morsel.OutputString()


def refuse_foreign_pages(headers: Headers, allowed_hosts: Collection[str], *, guarded: bool, page: bool) -> None:
    """Allow navigation in a browser, and refuse scripts and forms of other pages.

    A page of a custom container can have the server's own origin. Its scripts cannot send a navigation request, and
    cannot access an opened window (`Cross-Origin-Opener-Policy`).

    Args:
        headers: the request's.
        allowed_hosts: names of the server, in addition to those of this machine.
        guarded: whether the pages need a sign-in; if not, links on other web pages cannot open them either.
        page: whether the request is for a page or a form, not for a part of a page.

    Raises:
        RequestRefused: with status 403; the request comes from elsewhere.
    """
    host = headers.get("host", "").lower()
    name = host_name(host)
    if not guarded and name not in allowed_hosts and not is_loopback(name):
        raise RequestRefused(
            403,
            "HostNotAllowed",
            f"Without authentication, the host must be a name of this machine, not {name!r:.200}. Allow it with "
            "--allowed-host, or require credentials.",
        )
    for origin in headers.getlist("origin"):
        own = origin.lower().partition("://")[2]
        if own != host and (not own or host_name(own) not in allowed_hosts):
            raise RequestRefused(403, "OriginNotAllowed", "The request must come from a page of this server.")
    sites = set(headers.getlist("sec-fetch-site")) - {"none", "same-origin"}
    if sites and not (guarded and page and "origin" not in headers):
        raise RequestRefused(
            403, "OriginNotAllowed", "The page must be opened from this server, not from another site."
        )
    modes = set(headers.getlist("sec-fetch-mode")) - ({"navigate"} if page else {"navigate", "no-cors"})
    if modes or (page and set(headers.getlist("sec-fetch-dest")) - {"document"}):
        raise RequestRefused(403, "OriginNotAllowed", "A page must be opened by a browser, not fetched by a script.")


def _digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _padded(token: str) -> bytes:
    return f"{token}=".encode()
