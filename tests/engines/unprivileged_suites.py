"""The isolation and attack suites over bubblewrap, for `test_unprivileged` to run as a user without privileges."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from greenroom import SessionPool
from greenroom.testing import AttackSuite, IsolationSuite, engine_pool


@pytest.fixture(scope="session", autouse=True)
def kernel_keys() -> None:
    """Give the user what a login would give: a keyring, which the kernel lists only for that user."""
    getting, of_the_user, created = 0, -4, 1
    ctypes.CDLL(None).syscall({"x86_64": 250, "aarch64": 219}[platform.machine()], getting, of_the_user, created)
    assert Path("/proc/keys").read_text()


class _Bubblewrap:
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with engine_pool("bubblewrap:", **cls.options) as pool:
            yield pool


_UNCOUNTED = "without control groups, nothing counts the memory of a sandbox's sockets together"
_ONE_USER = "every sandbox is the user who started it, and has that user's quotas"
_SHARED_SYSTEM = "the system is shared, read-only, and the kernel keeps locks and watches by file"


class TestIsolation(_Bubblewrap, IsolationSuite):
    pass


class TestAttacks(_Bubblewrap, AttackSuite):
    options: ClassVar[Mapping[str, Any]] = AttackSuite.options
    known_differences: ClassVar[Mapping[str, str]] = {
        **AttackSuite.shared_by_the_kernel,
        **{
            f"test_buffers_of_sockets_count_as_memory[{kind}]": _UNCOUNTED
            for kind in ("TCP", "UDP", "Unix stream sockets", "Unix datagram sockets")
        },
        "test_neighbours_are_different_users": _ONE_USER,
        "test_a_lock_on_a_system_file_holds_in_its_own_sandbox_alone": _SHARED_SYSTEM,
        "test_the_use_of_system_files_by_a_neighbour_cannot_be_watched": _SHARED_SYSTEM,
    }
