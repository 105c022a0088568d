"""Give up privileges permanently: those of the supervisor, and those of a worker with a separate user.

An engine starts the supervisor in one of three ways, according to its settings:

    neither `uid` nor `worker_uid`   as the sandbox's user, without capabilities (Docker; bubblewrap as a user)
    `uid`                            as root, to become that user itself (bubblewrap as root)
    `worker_uid`                     as root in gVisor's own kernel, where it stays root; its workers become that user

After `confine`, neither the supervisor nor its children can regain a privilege: no capabilities are left to use (in
the third case, none in the worker), `no_new_privs` is set, and the filter of system calls is in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct

from . import seccomp

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64  # more than any kernel has; the kernel rejects unknown ones, which is ignored

WORKER_STEP_DOWN = (
    f"import ctypes, os; prctl = ctypes.CDLL(None).prctl; "
    f"[prctl({_PR_CAPBSET_DROP}, number, 0, 0, 0) for number in range({_CAPABILITIES})]; "
    "os.setresgid({0}, {0}, {0}); os.setresuid({0}, {0}, {0}); del prctl; "
)
"""Python source that a worker with a separate user must run first; `format` it with the user ID.

Changing the user clears the worker's capabilities, but not its bounding set. The supervisor must not drop that set for
it: a root process with an empty bounding set has no capabilities left after an exec.
"""


def step_down(user: int) -> None:
    """Like `WORKER_STEP_DOWN`, for a process that is about to exec a program as that user."""
    prctl = ctypes.CDLL(None).prctl
    for capability in range(_CAPABILITIES):
        prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def be_dumpable() -> None:
    """Undo what `confine` did to the supervisor, in a fork of it, as starting a program would."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up all capabilities of this process permanently, whatever its user."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if libc.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "cannot drop its capabilities")


def confine(*, uid: int | None, worker_uid: int | None, allow_unfiltered: bool = False) -> None:
    """Give up the privileges of this process, the supervisor.

    The order matters: each step needs a privilege that a later step gives up, or undoes a setting of an earlier step.

    Args:
        uid: the user to become, if this process is root and must not stay so.
        worker_uid: the user that workers become, if this process stays root.
        allow_unfiltered: whether to continue where system calls cannot be filtered.

    Raises:
        OSError: a privilege cannot be given up, or system calls cannot be filtered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if uid is not None or worker_uid is not None:
        os.setgroups([])
    if uid is not None:
        for capability in range(_CAPABILITIES):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        libc.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24))  # including the inheritable ones
        # bubblewrap set this when it started us, and the change of user has cleared it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Without this, code of the same user could stop this process with ptrace, so that the sandbox would not end.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot set no_new_privs")
    with contextlib.suppress(*((OSError,) if allow_unfiltered else ())):
        seccomp.install(libc)
