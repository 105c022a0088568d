"""The key of a pool's MCP endpoint, in the header `x-ms-apikey`, as in Azure."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

from greenroom.server.access.keys import digest

if TYPE_CHECKING:
    from greenroom.server.registry import ServedPool

KEY_HEADER = "x-ms-apikey"


def new_pool_key() -> str:
    """Create a key, which is valid as long as its pool is served."""
    return f"grm_{secrets.token_urlsafe(32)}"


def pool_of_key(key: str, pools: Iterable[ServedPool]) -> ServedPool | None:
    """Return the pool with this key, if there is one, in constant time."""
    given, found = digest(key), None
    for pool in pools:
        if hmac.compare_digest(given, digest(pool.mcp_key)):
            found = pool
    return found
