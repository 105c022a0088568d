"""New namespaces and directories for a process forked from a template: the same as bubblewrap gives to a new sandbox.

The template already has bubblewrap's read-only view of the system, with privileges over it. Everything that it and its
other forks can write to is replaced here. `confine` then gives up the privileges.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
import sys
from typing import Any, NoReturn

GROUPS = "/opt/greenroom/groups"
"""The path at which a template sees the control groups of the sandboxes, read-only."""

_STAGE = "/opt/greenroom/cache"  # where directories are created before they replace the template's
_WRITABLE = ("/tmp", "/mnt/data", "/dev/shm")  # noqa: S108

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _MOVE, _REC = 1, 2, 4, 8, 32, 4096, 8192, 16384
_ESCAPE = re.compile(r"\\([0-7]{3})")
_PRIVATE = 0x40000 | 0x4000  # MS_PRIVATE, MS_REC
_DETACH = 2
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_INSIDE_USER = 1000
# The parts of /proc that bubblewrap protects, and process 1: if it is not root outside, the kernel assigns the files of
# process 1 to the user, because root of a namespace started the program.
_PROTECTED = ("sys", "sysrq-trigger", "irq", "bus", "1")
HIDDEN = ("keys", "key-users")
"""Files of /proc that list the kernel keys of the user who started the sandbox, if it runs as that user."""

_libc = ctypes.CDLL(None, use_errno=True)


def fork(own: int) -> int:
    """Fork a child that is process 1 of a new namespace; return its process ID here, and 0 in the child.

    Args:
        own: a descriptor of this process's own PID namespace.

    Raises:
        OSError: the kernel refuses.
    """
    _check("unshare", _libc.unshare(_NEWPID))
    try:
        pid = os.fork()
    except OSError:
        _check("setns", _libc.setns(own, _NEWPID))
        raise
    if pid:
        _check("setns", _libc.setns(own, _NEWPID))
    return pid


def join(groups: list[int]) -> None:
    """Move this process into control groups, given descriptors of their files `cgroup.procs`."""
    for group in groups:
        os.write(group, b"0")


def enter(
    *, network: bool, disk: int, shared_memory: int, user: int | None, events: list[str] | None, kept: list[str]
) -> None:
    """Give this process everything private that a new sandbox has.

    Args:
        network: whether it keeps the machine's network.
        disk: the size in bytes of /mnt/data, and of /tmp.
        shared_memory: the size in bytes of /dev/shm.
        user: the user that it will become, if it is root outside the sandbox, too.
        events: the file below `GROUPS` that counts its out-of-memory kills, and where the runner looks for it.
        kept: the result of `shown_in_writable` in the template.

    Raises:
        OSError: the kernel refuses.
    """
    kinds = _NEWNS | _NEWUTS | _NEWIPC | (0 if network else _NEWNET)
    if os.path.exists("/proc/self/ns/cgroup"):
        kinds |= _NEWCGROUP
    _check("unshare", _libc.unshare(kinds))
    _mount("none", "/", None, _PRIVATE)
    settings, process = _new_proc()
    try:
        if events is not None:
            _unmount(events[1])  # nothing can be mounted on the template's file, which bubblewrap has unlinked
            _mount(f"{GROUPS}/{events[0]}", events[1], None, _BIND)
            _protect(events[1], _NOSUID | _NODEV)
        if os.path.ismount(GROUPS):
            _unmount(GROUPS)
        if user is not None:
            _show_user(user)
        for path, size in zip(_WRITABLE, (disk, disk, shared_memory), strict=True):
            _new_directory(path, size, [shown for shown in kept if shown.startswith(f"{path}/")])
        _unmount("/dev/pts")
        _mount("devpts", "/dev/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=620")
        if not network:
            _start_loopback()
        if user is None:
            _become_user(settings, process)
    finally:
        os.close(settings)
        os.close(process)


def probe() -> NoReturn:
    """Act as a template that forks one process; if that cannot be isolated, exit with the reason."""
    if not hasattr(os, "pidfd_open"):
        os.write(2, b"its Python was built for an older kernel")
        os._exit(1)
    pid = fork(os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC))
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0)
    try:
        user = int(sys.argv[1]) or None
        size = 1 << 20
        enter(network=False, disk=size, shared_memory=size, user=user, events=None, kept=shown_in_writable())
    except OSError as error:
        os.write(2, f"{error.strerror}".encode())
        os._exit(1)
    os._exit(0)


def _new_proc() -> tuple[int, int]:
    """Mount a new /proc; return descriptors of its directories `sys` and `self`, which are protected only by path."""
    # If this process is not root outside, the kernel allows a new /proc only beside one that nothing covers.
    _mount("proc", _STAGE, "proc", _NOSUID | _NODEV | _NOEXEC)
    _unmount("/proc")
    _mount(_STAGE, "/proc", None, _MOVE)
    settings, process = (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in ("/proc/sys", "/proc/1"))
    for name in _PROTECTED:
        path = f"/proc/{name}"
        if os.path.exists(path):
            _mount(path, path, None, _BIND)
            _protect(path, _NOSUID | _NODEV | _NOEXEC)
    for name in HIDDEN:
        if os.path.exists(f"/proc/{name}"):
            _mount("/dev/null", f"/proc/{name}", None, _BIND)
    return settings, process


def _show_user(user: int) -> None:
    """Replace /etc/passwd with one that has this user."""
    _mount("tmpfs", _STAGE, "tmpfs", _NOSUID | _NODEV, "mode=0755,size=65536")
    with open(f"{_STAGE}/passwd", "w", encoding="ascii") as file:
        file.write(f"user:x:{user}:{user}::/tmp/home:/bin/sh\n")
        os.fchmod(file.fileno(), 0o644)
    _unmount("/etc/passwd")  # as above
    _mount(f"{_STAGE}/passwd", "/etc/passwd", None, _BIND)
    _protect("/etc/passwd", _NOSUID | _NODEV)
    _unmount(_STAGE)


def _new_directory(path: str, size: int, kept: list[str]) -> None:
    """Replace a writable directory with a new one that shows the same parts of the machine."""
    _mount("tmpfs", _STAGE, "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={size}")
    for shown in kept:
        target = _STAGE + shown.removeprefix(path)
        _make_directories(target)
        _mount(shown, target, None, _BIND | _REC)
    _unmount(path)
    _mount(_STAGE, path, None, _MOVE)


def _make_directories(path: str) -> None:
    if not os.path.isdir(path):
        _make_directories(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)  # noqa: S103  for the sandbox's user, regardless of the umask


def shown_in_writable() -> list[str]:
    """Return the parts of the machine that this process sees inside directories that it can write to."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        places = [_ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split()[4]) for line in file]
    found = [place for place in places if place.startswith(tuple(f"{path}/" for path in _WRITABLE))]
    return [place for place in found if not any(place.startswith(f"{other}/") for other in found)]


def _start_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        request = struct.pack("16sH22x", b"lo", 0)
        flags: int = struct.unpack("16xH22x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def _become_user(settings: int, process: int) -> None:
    """Enter a user namespace in which no further one can be made, as with bubblewrap's --disable-userns.

    The limit belongs to a namespace around the sandbox's, so nothing in the sandbox can change it.
    """
    _new_user(0, process)
    _write("user/max_user_namespaces", "1", settings)
    _new_user(_INSIDE_USER, process)


def _new_user(inside: int, process: int) -> None:
    _check("unshare", _libc.unshare(_NEWUSER))
    for name, content in (("setgroups", "deny"), ("uid_map", f"{inside} 0 1"), ("gid_map", f"{inside} 0 1")):
        _write(name, content, process)


def _write(path: str, content: str, directory: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.write(file, content.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (write {path})") from error


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words: list[Any] = [None if word is None else word.encode() for word in (source, target, kind)]
    _check(f"mount {target}", _libc.mount(*words, ctypes.c_ulong(flags), None if options is None else options.encode()))


def _protect(path: str, flags: int) -> None:
    # Attributes that a mount has from another user namespace cannot be removed.
    flags |= os.statvfs(path).f_flag & (_NOSUID | _NODEV | _NOEXEC)
    _mount("none", path, None, _REMOUNT | _BIND | _RDONLY | flags)


def _unmount(path: str) -> None:
    _check(f"unmount {path}", _libc.umount2(path.encode(), _DETACH))


def _check(action: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} ({action})")
