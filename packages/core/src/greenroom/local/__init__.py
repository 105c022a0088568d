"""Pools on this machine: sandboxes of one engine, assigned to sessions by identifier."""

from greenroom.local.settings import AzureRangeWarning, PoolSettings

__all__ = ["AzureRangeWarning", "PoolSettings"]
