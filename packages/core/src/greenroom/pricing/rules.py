"""How Azure counts what it bills, as https://learn.microsoft.com/azure/container-apps/billing of 2025-12-09 has it."""

from __future__ import annotations

import math

_HOUR = 3600
_NODE_CPUS = 16
_NODE_MEMORY = 128 << 30
"""Those of an E16, which runs custom containers."""


def session_hours(wall: float) -> int:
    """Return the hours of a code interpreter: each that has begun counts whole, and one at least.

    Args:
        wall: seconds from its allocation until its deallocation.
    """
    return max(1, math.ceil(wall / _HOUR))


def node_share(cpus: float, memory: int) -> float:
    """Return the part of a node that a custom container takes: that of its processors or its memory, the larger one."""
    return max(cpus / _NODE_CPUS, memory / _NODE_MEMORY)


def node_hours(wall: float, share: float) -> float:
    """Return the hours of nodes that a custom container takes. A pool has whole nodes, so it is billed for more."""
    return wall / _HOUR * share
