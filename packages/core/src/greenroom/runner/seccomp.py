"""The filter of system calls that applies to every sandbox, as a BPF program for the kernel.

It is the same on every engine, in addition to the engine's own measures. It denies system calls that session code never
needs and that have been ways out of sandboxes: new namespaces, mounts, kernel keyrings, BPF, io_uring, tracing of other
processes, asynchronous I/O (a machine has few contexts for it), and every kind of socket except Unix, IP and netlink
(sockets of virtual machines, for example, ignore network namespaces).

It also protects process 1, the supervisor, which ends the sandbox when the host is gone: code of the same user could
stop it (on gVisor) or starve it (everywhere), and the sandbox would outlive its owner.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Iterator
from typing import Any

# Numbers as in the kernel's tables: x86_64, then the generic one (aarch64). None: no such call.
DENIED: dict[str, tuple[int, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_EQUAL, _OTHER = True, False
_GUARDED: dict[str, tuple[tuple[int, int], tuple[tuple[int, bool, int], ...]]] = {
    # By call: its numbers, and the conditions under which it is denied: an argument equals a value, or differs from it.
    "fcntl": ((72, 25), ((1, _EQUAL, 10),)),  # F_SETSIG: any signal to any owner of a descriptor
    "ioprio_set": ((251, 30), ((0, _OTHER, 1), (1, _EQUAL, 1))),  # all except IOPRIO_WHO_PROCESS
    "kill": ((62, 129), ((0, _EQUAL, 1),)),
    "pidfd_open": ((434, 434), ((0, _EQUAL, 1),)),
    "prlimit64": ((302, 261), ((0, _EQUAL, 1),)),
    "rt_sigqueueinfo": ((129, 138), ((0, _EQUAL, 1),)),
    "rt_tgsigqueueinfo": ((297, 240), ((0, _EQUAL, 1), (1, _EQUAL, 1))),
    "sched_setaffinity": ((203, 122), ((0, _EQUAL, 1),)),
    "sched_setattr": ((314, 274), ((0, _EQUAL, 1),)),
    "sched_setparam": ((142, 118), ((0, _EQUAL, 1),)),
    "sched_setscheduler": ((144, 119), ((0, _EQUAL, 1),)),
    "setpriority": ((141, 140), ((0, _OTHER, 0), (1, _EQUAL, 1))),  # all except PRIO_PROCESS
    "tgkill": ((234, 131), ((0, _EQUAL, 1), (1, _EQUAL, 1))),
    "tkill": ((200, 130), ((0, _EQUAL, 1),)),
}
"""The kernel reads these arguments as 32-bit integers, so the filter compares only their lower halves."""

_CLONE = (56, 220)
_CLONE3 = (435, 435)
_SOCKET = (41, 198)
_SETSOCKOPT = (54, 208)

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_BIT = 0x40000000

NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_SOL_SOCKET = 1
ATTACHMENTS = (
    26,
    50,
    51,
    52,
)  # SO_ATTACH_FILTER and similar: the machine has a single memory pool for such programs
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ARGUMENT = 8  # bytes per argument, the lower half first
_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _refuse(number: int) -> int:
    return 0x00050000 | number


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _program(architecture: int, column: int) -> Iterator[bytes]:
    yield _instruction(_LOAD, _ARCHITECTURE)
    yield _instruction(_JUMP_EQUAL, architecture, if_true=1)
    yield _instruction(_RETURN, _KILL)
    yield _instruction(_LOAD, _NUMBER)
    if column == 0:  # the same calls have other numbers
        yield _instruction(_JUMP_GREATER_EQUAL, _X32_BIT, if_false=1)
        yield _instruction(_RETURN, _refuse(errno.ENOSYS))
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            yield _instruction(_JUMP_EQUAL, number, if_false=1)
            yield _instruction(_RETURN, _refuse(errno.EPERM))
    for numbers, conditions in _GUARDED.values():
        yield from _guard(numbers[column], conditions)
    # Its flags are in memory, which a filter cannot read; without it, the C library uses clone.
    yield _instruction(_JUMP_EQUAL, _CLONE3[column], if_false=1)
    yield _instruction(_RETURN, _refuse(errno.ENOSYS))
    yield _instruction(_JUMP_EQUAL, _CLONE[column], if_false=4)
    yield _instruction(_LOAD, _FIRST_ARGUMENT)
    yield _instruction(_JUMP_ANY_BIT, NAMESPACES, if_false=1)
    yield _instruction(_RETURN, _refuse(errno.EPERM))
    yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_JUMP_EQUAL, _SETSOCKOPT[column], if_false=4 + 2 * len(ATTACHMENTS))
    yield _instruction(_LOAD, _FIRST_ARGUMENT + _ARGUMENT)
    yield _instruction(_JUMP_EQUAL, _SOL_SOCKET, if_false=1 + 2 * len(ATTACHMENTS))
    yield _instruction(_LOAD, _FIRST_ARGUMENT + 2 * _ARGUMENT)
    for option in ATTACHMENTS:
        yield _instruction(_JUMP_EQUAL, option, if_false=1)
        yield _instruction(_RETURN, _refuse(errno.EPERM))
    yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_JUMP_EQUAL, _SOCKET[column], if_true=1)
    yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_LOAD, _FIRST_ARGUMENT)
    for family in FAMILIES:
        yield _instruction(_JUMP_EQUAL, family, if_false=1)
        yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _refuse(errno.EAFNOSUPPORT))


def _guard(number: int, conditions: tuple[tuple[int, bool, int], ...]) -> Iterator[bytes]:
    """Deny one call if any of the conditions holds."""
    length = 2 * len(conditions) + 2
    yield _instruction(_JUMP_EQUAL, number, if_false=length)
    for place, (argument, equal, value) in enumerate(conditions):
        denial = length - 2 * place - 3  # instructions from the jump to the last one
        yield _instruction(_LOAD, _FIRST_ARGUMENT + _ARGUMENT * argument)
        yield _instruction(_JUMP_EQUAL, value, *((denial, 0) if equal else (0, denial)))
    yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _refuse(errno.EPERM))


@functools.cache
def program() -> bytes | None:
    """Return the filter for this machine's processor; `None` if it is not supported."""
    known = _ARCHITECTURES.get(os.uname().machine)
    return None if known is None else b"".join(_program(*known))


def lacking(machine: str, *, kernel_filters: bool) -> str | None:
    """Return why a machine cannot have the filter; `None` if it can.

    Args:
        machine: its processor architecture, as in `os.uname().machine`.
        kernel_filters: whether its kernel can filter system calls.
    """
    if machine not in _ARCHITECTURES:
        return f"Greenroom has no system call filter for the processor {machine}"
    return None if kernel_filters else "the kernel was built without system call filters"


def kernel_filters() -> bool:
    """Return whether this machine's kernel can filter system calls."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0)


_PR_GET_SECCOMP, _PR_SET_SECCOMP, _MODE_FILTER = 21, 22, 2


class _Filter(ctypes.Structure):
    """The kernel's `sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(libc: Any) -> None:
    """Put this process and all of its future children under the filter, irrevocably.

    Raises:
        OSError: the kernel refuses, or the processor is not supported.
    """
    instructions = program()
    if instructions is None:
        raise OSError(errno.ENOSYS, f"there is no system call filter for the processor {os.uname().machine}")
    filter_program = _Filter(len(instructions) // 8, instructions)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filter_program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot install the system call filter: {os.strerror(number)}")
