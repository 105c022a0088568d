"""The local pool: sandboxes of one engine, handed out by identifier."""

from greenroom.pool.local import LocalPool
from greenroom.pool.settings import AzureRangeWarning, PoolSettings

__all__ = ["AzureRangeWarning", "LocalPool", "PoolSettings"]
