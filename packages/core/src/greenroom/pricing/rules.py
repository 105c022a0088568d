"""Azure's billing rules, from https://learn.microsoft.com/azure/container-apps/billing of 2025-12-09."""

from __future__ import annotations

import math

_HOUR = 3600
_NODE_CPUS = 16
_NODE_MEMORY = 128 << 30
"""The size of an E16, which runs custom containers."""


def session_hours(wall: float) -> int:
    """Return the billed hours of a code interpreter: started hours count as whole ones, at least one.

    Args:
        wall: seconds from its allocation to its deallocation.
    """
    return max(1, math.ceil(wall / _HOUR))


def node_share(cpus: float, memory: int) -> float:
    """Return the part of a node that a custom container takes: its share of processors or memory, if that is larger."""
    return max(cpus / _NODE_CPUS, memory / _NODE_MEMORY)


def node_hours(wall: float, share: float) -> float:
    """Return the node hours that a custom container takes. A pool has whole nodes, so it is billed for more."""
    return wall / _HOUR * share
