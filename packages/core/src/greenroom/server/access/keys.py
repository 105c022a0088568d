"""Who may call: nobody is asked, those with a key, or those with a token of Microsoft Entra ID."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from greenroom.errors import InvalidRequest
from greenroom.server.responses import Refused, unauthorized

_MIN_LENGTH = 16
_ENTRY = re.compile(r"(?P<name>[\w.@-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})")


class Guard(Protocol):
    """Lets requests in, or does not."""

    async def admit(self, authorization: str | None) -> str:
        """Return the caller's name, for the access log.

        Args:
            authorization: the header of that name.

        Raises:
            Refused: with status 401 where the credentials are missing or not valid, 403 where they are not enough,
                503 where nobody can tell at the moment.
        """
        ...


class EitherOf:
    """Lets in whom one of several guards lets in; the last one's reason is given to the others."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = guards

    async def admit(self, authorization: str | None) -> str:
        refused = unauthorized("No credentials are accepted.")
        for guard in self._guards:
            try:
                return await guard.admit(authorization)
            except Refused as error:
                refused = error
        raise refused


class ApiKeys:
    """Lets in who has one of the keys. It keeps no key, only digests; a key is random, so a plain hash will do."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """`digests` are SHA-256 in hexadecimal, by the names of their keys."""
        self._digests = dict(digests)

    async def admit(self, authorization: str | None) -> str:
        given = digest(bearer(authorization))
        found = ""
        for name, known in self._digests.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(given, known):
                found = name
        if not found:
            raise unauthorized("The API key is not valid.")
        return found


def bearer(authorization: str | None) -> str:
    """The token of an `Authorization` header.

    Raises:
        Refused: there is none.
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("The request has no bearer token. Send the header 'Authorization: Bearer …'.")
    return token.strip()


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """The digests in a file of lines `name sha256:…`, by name; empty lines and those that begin with # are skipped.

    Raises:
        InvalidRequest: the file cannot be read, is empty, or a line is something else, such as a plain key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The file of keys {str(path)!r} cannot be read: {error}.") from error
    digests: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None or entry["name"] in digests:
            raise InvalidRequest(
                f"Line {number} of the file of keys {str(path)!r} is not valid: it takes a new name and "
                f"'sha256:' with 64 hexadecimal digits. Make keys with: greenroom api-key FILE --name NAME"
            )
        digests[entry["name"]] = entry["digest"]
    if not digests:
        raise InvalidRequest(f"The file of keys {str(path)!r} has no key in it.")
    return digests


def new_key(path: Path, name: str) -> str:
    """Make a key, add its digest to a file, and return the key, which nobody can see again.

    Raises:
        InvalidRequest: the name is not valid or taken, or the file cannot be written.
    """
    key = f"grk_{secrets.token_urlsafe(32)}"
    entry = f"{name} sha256:{digest(key)}"
    if not _ENTRY.fullmatch(entry):
        raise InvalidRequest(f"The name {name!r:.80} is not valid: it takes letters, digits and . @ - _, at most 64.")
    is_new = not path.exists() or path.stat().st_size == 0  # mktemp makes an empty one
    if not is_new and name in read_keys(path):
        raise InvalidRequest(f"The file of keys {str(path)!r} has a key named {name!r} already.")
    try:
        path.touch(mode=0o600)
        # An editor may have left the last line without its end.
        separator = "" if is_new or path.read_bytes().endswith(b"\n") else "\n"
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{separator}{entry}\n")
    except OSError as error:
        raise InvalidRequest(f"The file of keys {str(path)!r} cannot be written: {error}.") from error
    return key


def check_key(key: str) -> str:
    """Return a key that somebody chose, if it is long enough not to be guessed.

    Raises:
        InvalidRequest: it is not.
    """
    if len(key) < _MIN_LENGTH:
        raise InvalidRequest(f"The API key is not valid: it takes at least {_MIN_LENGTH} characters.")
    return key
