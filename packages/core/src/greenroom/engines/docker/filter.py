"""The system call filter of custom containers: the runner's, in Docker's format.

The runner's supervisor applies the filter to itself; a user's image has no supervisor. Docker takes one filter per
container, so this one replaces Docker's own, which until version 23 allows sockets to the host of the virtual
machine.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from greenroom.runner.seccomp import ATTACHMENTS, DENIED, FAMILIES, NAMESPACES

# Calls that Docker's own filter also denies: obsolete ones, clocks, and NUMA placement.
_ALSO_DENIED = (
    "_sysctl",
    "clock_adjtime64",
    "clock_settime64",
    "create_module",
    "get_kernel_syms",
    "get_mempolicy",
    "mbind",
    "migrate_pages",
    "nfsservctl",
    "query_module",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "stime",
    "sysfs",
    "umount",
    "uselib",
    "ustat",
    "vm86",
    "vm86old",
)
_INT = 0xFFFFFFFF  # the kernel reads these arguments as 32-bit integers
_SOL_SOCKET = 1


@cache
def profile() -> str:
    """Return the filter, as Docker's option `seccomp` takes it."""
    architectures = ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            # Not their 32-bit variants, whose calls have other numbers: those end the process.
            "archMap": [{"architecture": name, "subArchitectures": []} for name in architectures],
            "syscalls": list(_rules()),
        }
    )


def _rules() -> Iterator[dict[str, Any]]:
    yield _refuse([*DENIED, *_ALSO_DENIED], errno.EPERM)
    # Its flags are in memory, which a filter cannot read; without it, the C library uses clone.
    yield _refuse(["clone3"], errno.ENOSYS)
    for bit in range(32):
        if NAMESPACES >> bit & 1:
            yield _refuse(["clone"], errno.EPERM, _masked(0, 1 << bit, 1 << bit))
    for option in ATTACHMENTS:
        yield _refuse(["setsockopt"], errno.EPERM, _masked(1, _INT, _SOL_SOCKET), _masked(2, _INT, option))
    # Any argument with more than 32 bits is above all of them.
    above = {"index": 0, "value": max(FAMILIES), "op": "SCMP_CMP_GT"}
    yield _refuse(["socket"], errno.EAFNOSUPPORT, above)
    for family in sorted(set(range(max(FAMILIES))) - set(FAMILIES)):
        yield _refuse(["socket"], errno.EAFNOSUPPORT, {"index": 0, "value": family, "op": "SCMP_CMP_EQ"})


def _refuse(names: list[str], number: int, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number, "args": list(conditions)}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
