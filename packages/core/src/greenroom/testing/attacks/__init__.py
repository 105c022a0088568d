"""Attacks by the code in a sandbox, on every engine: on the host, on its neighbours, and on shared resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from greenroom.testing.attacks.exhaustion import ExhaustionAttacks
from greenroom.testing.attacks.floods import FloodAttacks
from greenroom.testing.attacks.host import HostAttacks
from greenroom.testing.attacks.neighbours import NeighbourAttacks
from greenroom.testing.attacks.networks import NetworkAttacks
from greenroom.testing.attacks.shell import ShellAttackSuite
from greenroom.testing.attacks.system_calls import SystemCallAttacks

_UNCOUNTED = "Linux counts the buffers of netlink towards no control group"


class AttackSuite(SystemCallAttacks, HostAttacks, NetworkAttacks, NeighbourAttacks, ExhaustionAttacks, FloodAttacks):
    """Attempts by hostile code. The pool has `AttackSuite.options`, and runs on the machine of the tests."""

    shared_by_the_kernel: ClassVar[Mapping[str, str]] = {
        "test_buffers_of_sockets_count_as_memory[netlink]": _UNCOUNTED,
        "test_buffers_of_sockets_count_as_memory[netlink responses]": _UNCOUNTED,
        "test_one_session_cannot_take_all[pseudo-terminals]": (
            "all sandboxes share those that Linux has, except the 1,024 that it keeps for the host"
        ),
    }
    """Known differences of engines whose sandboxes share the host's kernel."""


__all__ = ["AttackSuite", "ShellAttackSuite"]
