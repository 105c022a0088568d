"""The arguments for bubblewrap: namespaces, file system and environment of a sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from greenroom.engines.base import (
    RUNNER_ENVIRONMENT,
    RUNNER_HOME,
    RUNNER_SOURCE,
    Limits,
    SandboxSpec,
    sandbox_environment,
)
from greenroom.engines.bubblewrap.cgroups import MOUNT
from greenroom.engines.bubblewrap.node import mounts
from greenroom.errors import EngineUnavailable
from greenroom.runner.isolation import HIDDEN

INSIDE_USER = 1000
"""The user ID inside a sandbox that was started by an unprivileged process."""

# Files that system programs read, except those that reveal something about this machine.
_ETC = ("alternatives", "fonts", "ld.so.cache", "localtime", "mime.types", "ssl/certs", "ssl/openssl.cnf")
_ETC_NETWORK = ("hosts", "nsswitch.conf", "resolv.conf")


_FORKING = ("SYS_ADMIN", "NET_ADMIN", "SETUID", "SETGID", "SETPCAP")
"""The capabilities that a template needs: for namespaces and mounts, the loopback device, and changing users."""


def isolation(limits: Limits, *, forks: bool = False) -> Iterator[str]:
    """Yield the arguments for namespaces and privileges.

    Args:
        forks: whether this is a template, which keeps the privileges that it needs to fork sandboxes.
    """
    yield from ("--unshare-ipc", "--unshare-pid", "--as-pid-1", "--unshare-uts", "--unshare-cgroup-try")
    if not limits.network:
        yield "--unshare-net"
    yield from (
        "--hostname",
        "greenroom",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
    )
    if forks:
        for name in _FORKING:
            yield from ("--cap-add", f"CAP_{name}")
        if os.geteuid() != 0:  # root in a namespace, so that it can mount and become the sandboxes' user there
            # The kernel requires the last one if root maps itself into a further namespace.
            yield from ("--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "CAP_SETFCAP")
    elif os.geteuid() == 0:
        # Mounting requires root, which our own first process then gives up permanently.
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP")
    else:
        yield from ("--unshare-user", "--disable-userns")
        yield from ("--uid", str(INSIDE_USER), "--gid", str(INSIDE_USER))


def file_system(python: Path, node: Path | None, limits: Limits) -> Iterator[str]:
    """Yield the arguments for the parts of this machine that a sandbox sees, and for its own directories.

    Raises:
        EngineUnavailable: a program is in the directory where sandboxes have the runner.
    """
    for path, size in (("/tmp", limits.disk), ("/mnt/data", limits.disk)):  # noqa: S108
        yield from ("--perms", "1777", "--size", str(size), "--tmpfs", path)
    programs = {path: path for path in _interpreter(python)}
    if node is not None:
        programs |= mounts(node)[1]
    for path in programs:
        if Path(RUNNER_HOME).is_relative_to(path):
            raise EngineUnavailable(
                f"The environment of the sandboxes' programs must not be {path}: sandboxes have Greenroom's runner at "
                f"{RUNNER_HOME}. Create the environment in another directory."
            )
    # bubblewrap creates missing parents as private, and the sandbox's user does not own them.
    targets = [
        *programs,
        Path(RUNNER_HOME, "cache/x"),
        Path("/etc/ssl/x"),
        Path(f"{MOUNT}/memory/x"),
    ]
    for parent in dict.fromkeys(parent for target in targets for parent in reversed(target.parents[:-1])):
        yield from ("--perms", "0755", "--dir", str(parent))
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    for name in _ETC + (_ETC_NETWORK if limits.network else ()):
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    for target, source in programs.items():
        yield from ("--ro-bind", str(source), str(target))
    yield from ("--ro-bind", str(RUNNER_SOURCE), f"{RUNNER_HOME}/greenroom_runner")
    yield from ("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev")
    for name in HIDDEN:
        if Path("/proc", name).exists():
            yield from ("--dev-bind", "/dev/null", f"/proc/{name}")
    yield from ("--perms", "1777", "--size", str(shared_memory(limits)), "--tmpfs", "/dev/shm")  # noqa: S108


def shared_memory(limits: Limits) -> int:
    """Return the size of /dev/shm in bytes."""
    return limits.memory // 4


def environment(first: Sequence[str], spec: SandboxSpec) -> Iterator[str]:
    """Yield the arguments for the environment variables; `first` are directories to put first on the PATH."""
    search = os.pathsep.join([*first, RUNNER_ENVIRONMENT["PATH"]])
    for name, value in {**sandbox_environment(spec), "PATH": search}.items():
        yield from ("--setenv", name, value)


def _interpreter(python: Path) -> list[Path]:
    """The directories that an interpreter needs, outside /usr."""
    found: list[Path] = []
    environment = python.parent.parent
    if (environment / "pyvenv.cfg").exists():
        found.append(environment)
    # A virtual environment's interpreter is a chain of links to the real one.
    found.append(python.resolve().parent.parent)
    home = Path.home()
    shown: list[Path] = []
    for path in dict.fromkeys(found):
        if path.is_relative_to("/usr"):
            continue
        if home.is_relative_to(path):  # an interpreter in ~/bin must not expose the home directory
            shown += [part for part in (path / "bin", path / "lib") if part.is_dir()]
        else:
            shown.append(path)
    return shown
