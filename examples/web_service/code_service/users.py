"""Who calls: the subject of a signed token, whatever else a request says."""

from __future__ import annotations

import os
import sys
import time

import jwt

AUDIENCE = "code-service"
_MOST_NAME = 256


class NotSignedIn(Exception):
    """The request has no valid token."""


def new_token(secret: str, user: str, seconds: float = 3600) -> str:
    """Return a token as an identity provider would issue it."""
    return jwt.encode({"sub": user, "aud": AUDIENCE, "exp": int(time.time() + seconds)}, secret, "HS256")


def user_of(secret: str, authorization: str | None) -> str:
    """Return the user of a request.

    Args:
        secret: signed the token.
        authorization: the header, if there is one.

    Raises:
        NotSignedIn: it has no valid token.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise NotSignedIn("A request must have a token: Authorization: Bearer …")
    try:
        claims = jwt.decode(token, secret, ["HS256"], audience=AUDIENCE, options={"require": ["sub", "aud", "exp"]})
    except jwt.PyJWTError as error:
        raise NotSignedIn(f"The token must be valid: {error}.") from error
    user = claims["sub"]
    if not 0 < len(user) <= _MOST_NAME or not user.isprintable():
        raise NotSignedIn(f"The token must name a user in 1 to {_MOST_NAME} printable characters.")
    return user


if __name__ == "__main__":  # for development: python -m code_service.users alice
    print(new_token(os.environ["CODE_SERVICE_SECRET"], sys.argv[1]))
