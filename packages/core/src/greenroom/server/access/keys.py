"""Authentication: the interface of guards, and API keys."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from greenroom.errors import InvalidRequest
from greenroom.server.responses import RequestRefused, unauthorized

_MIN_LENGTH = 16
_ENTRY = re.compile(r"(?P<name>[\w.@-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})")


class Guard(Protocol):
    """Decides whether a request is accepted."""

    async def admit(self, authorization: str | None) -> str:
        """Return the caller's name, for the access log.

        Args:
            authorization: the header of that name.

        Raises:
            RequestRefused: with status 401 if the credentials are missing or not valid, 403 if they are insufficient,
                503 if they cannot be checked at the moment.
        """
        ...


class EitherOf:
    """Accepts a caller that any of several guards accepts; otherwise it raises the last guard's error."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = guards

    async def admit(self, authorization: str | None) -> str:
        refused = unauthorized("The server cannot accept any credentials.")
        for guard in self._guards:
            try:
                return await guard.admit(authorization)
            except RequestRefused as error:
                refused = error
        raise refused


class ManagementGuard:
    """Accepts callers that can manage pools; callers that can only use sessions get a specific error."""

    def __init__(self, management: Guard | None, sessions: Guard) -> None:
        """
        Args:
            management: the guard for managers; `None` accepts no caller, as only credentials for sessions are
                configured.
            sessions: the guard for callers that cannot manage pools.
        """
        self._management = management
        self._sessions = sessions

    async def admit(self, authorization: str | None) -> str:
        if self._management is None:
            raise RequestRefused(
                403,
                "AuthorizationFailed",
                "Session pools cannot be managed here: the server has credentials for sessions, but none for "
                "management. Start it with --management-key-file, GREENROOM_MANAGEMENT_KEY or, in [server.entra], "
                "management_object_ids.",
            )
        try:
            return await self._management.admit(authorization)
        except RequestRefused as refused:
            if refused.problem.status != 401 or not await self._is_of_sessions(authorization):
                raise
        raise RequestRefused(
            403,
            "AuthorizationFailed",
            "These credentials are for sessions and cannot manage session pools. Use credentials of "
            "--management-key-file, GREENROOM_MANAGEMENT_KEY or management_object_ids.",
        )

    async def _is_of_sessions(self, authorization: str | None) -> bool:
        try:
            await self._sessions.admit(authorization)
        except RequestRefused:
            return False
        return True


class ApiKeys:
    """Accepts callers with one of the keys. Only digests are kept; keys are random, so a plain hash suffices."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """`digests` are SHA-256 in hexadecimal, by key name."""
        self._digests = dict(digests)

    async def admit(self, authorization: str | None) -> str:
        given = digest(bearer(authorization))
        found = ""
        for name, known in self._digests.items():  # all of them: the time must not depend on which one matches
            if hmac.compare_digest(given, known):
                found = name
        if not found:
            raise unauthorized("The API key is not valid.")
        return found


def bearer(authorization: str | None) -> str:
    """Return the token of an `Authorization` header.

    Raises:
        RequestRefused: the header has none.
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("The request must have a bearer token in the header 'Authorization: Bearer …'.")
    return token.strip()


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """Read the digests of a file with lines `name sha256:…`, by name; empty lines and # comments are skipped.

    Raises:
        InvalidRequest: the file cannot be read or is empty, or a line has another form, such as a plain key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The key file {str(path)!r} cannot be read: {error}.") from error
    digests: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None or entry["name"] in digests:
            raise InvalidRequest(
                f"Line {number} of the key file {str(path)!r} must be a new name and 'sha256:' with 64 hexadecimal "
                "digits. Make keys with: greenroom api-key FILE --name NAME"  # not the line, which can be a key
            )
        digests[entry["name"]] = entry["digest"]
    if not digests:
        raise InvalidRequest(f"The key file {str(path)!r} must contain at least one key.")
    return digests


def new_key(path: Path, name: str) -> str:
    """Create a key, add its digest to a file, and return the key, which is not stored.

    Raises:
        InvalidRequest: the name is not valid or taken, or the file cannot be written.
    """
    key = f"grk_{secrets.token_urlsafe(32)}"
    entry = f"{name} sha256:{digest(key)}"
    if not _ENTRY.fullmatch(entry):
        raise InvalidRequest(f"The name of a key must be 1 to 64 letters, digits or . @ - _, not {name!r:.80}.")
    is_new = not path.exists() or path.stat().st_size == 0  # mktemp creates an empty file
    if not is_new and name in read_keys(path):
        raise InvalidRequest(f"The name of a key must be new in {str(path)!r}, not {name!r}.")
    try:
        path.touch(mode=0o600)
        # An editor can leave the last line without a newline.
        separator = "" if is_new or path.read_bytes().endswith(b"\n") else "\n"
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{separator}{entry}\n")
    except OSError as error:
        raise InvalidRequest(f"The key file {str(path)!r} cannot be written: {error}.") from error
    return key


def check_key(key: str) -> str:
    """Return a key that a user chose, if it is too long to be guessed.

    Raises:
        InvalidRequest: it is too short.
    """
    if len(key) < _MIN_LENGTH:
        raise InvalidRequest(f"An API key must have at least {_MIN_LENGTH} characters, not {len(key)}.")
    return key
