"""The local pool: sandboxes of one engine, handed out by identifier."""

from greenroom.pool.local import LocalPool
from greenroom.pool.settings import PoolSettings

__all__ = ["LocalPool", "PoolSettings"]
