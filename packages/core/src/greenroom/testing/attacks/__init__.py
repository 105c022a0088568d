"""Attacks by the code in a sandbox, on every engine: on the host, on its neighbours, and on what they share."""

from __future__ import annotations

from greenroom.testing.attacks.exhaustion import ExhaustionAttacks
from greenroom.testing.attacks.floods import FloodAttacks
from greenroom.testing.attacks.host import HostAttacks
from greenroom.testing.attacks.neighbours import NeighbourAttacks
from greenroom.testing.attacks.networks import NetworkAttacks
from greenroom.testing.attacks.system_calls import SystemCallAttacks


class AttackSuite(SystemCallAttacks, HostAttacks, NetworkAttacks, NeighbourAttacks, ExhaustionAttacks, FloodAttacks):
    """What hostile code tries. The pool has `AttackSuite.options`, and is on the machine of the tests."""


__all__ = ["AttackSuite"]
