# ruff: noqa: E501  tables of attacks, one line each
"""Attacks that exhaust resources: the code gets an error, its session or the next one works, and no other is affected."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from greenroom.models import Execution
from greenroom.sessions import Session
from greenroom.testing.attacks.base import (
    MEMORY,
    AttackBase,
    answers,
    ask,
    attack,
    neighbour_works,
    while_it_holds,
    works,
)

_TAKING = """
kept = []
def take(function, most=200_000):
    "Keep what the function returns until it fails."
    try:
        while len(kept) < most: kept.append(function())
    except (OSError, MemoryError, RuntimeError): pass
def in_children(function, number=8):
    "Have children do it, each with its own limit on descriptors, and continue when they have."
    read, write = os.pipe()
    started = 0
    for _ in range(number):
        try:
            pid = os.fork()
        except OSError: break
        if pid == 0:
            try: function()
            finally:
                os.write(write, b'x')
                time.sleep(600)
        started += 1
    for _ in range(started): os.read(read, 1)
def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), "refused")
    return result
"""

EXHAUSTING: Mapping[str, str] = {
    "memory": "take(lambda: b'x' * (1 << 20))",
    "memory of many processes": "in_children(lambda: take(lambda: b'x' * (1 << 20)))",
    "shared memory": "import mmap\ntake(lambda: mmap.mmap(-1, 1 << 20).write(b'x' * (1 << 20)))\n"
    "kept = [mmap.mmap(-1, 1 << 30)]\nfor start in range(0, 1 << 30, 4096): kept[0][start] = 1",
    "memory-backed files": "take(lambda: [f := os.memfd_create('x'), os.write(f, bytes(1 << 20))])",
    "page tables": "import mmap\nspace = mmap.mmap(-1, 1 << 42, flags=mmap.MAP_PRIVATE | 0x4000)\n"
    "for start in range(0, 1 << 42, 1 << 21): space[start] = 1",
    "the disk": "take(lambda: open(f'/mnt/data/{len(kept)}', 'wb').write(bytes(1 << 20)))",
    "the temporary disk": "take(lambda: open(f'/tmp/{len(kept)}', 'wb').write(bytes(1 << 20)))",
    "the shared memory file system": "take(lambda: open(f'/dev/shm/{len(kept)}', 'wb').write(bytes(1 << 20)))",
    "files": "take(lambda: os.close(os.open(f'/mnt/data/{len(kept)}', os.O_CREAT)), 60_000)",
    "temporary files": "take(lambda: os.close(os.open(f'/tmp/{len(kept)}', os.O_CREAT)), 60_000)",
    "files in shared memory": "take(lambda: os.close(os.open(f'/dev/shm/{len(kept)}', os.O_CREAT)), 60_000)",
    "nested directories": "def deeper():\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\ntake(deeper, 5_000)",
    "processes": "def bomb():\n    while True:\n        try: os.fork()\n        except OSError: time.sleep(0.01)\n"
    "if os.fork() == 0: bomb()\ntime.sleep(2)",
    "threads": "def begin():\n    thread = threading.Thread(target=time.sleep, args=(600,), daemon=True)\n"
    "    thread.start()\ntake(begin)",
    "descriptors": "take(lambda: os.open('/dev/null', os.O_RDONLY))",
    "pipes": "in_children(lambda: take(lambda: [p := os.pipe(), os.set_blocking(p[1], False), os.write(p[1], bytes(65536))]))",
    "file locks": "import fcntl\nfile = open('/mnt/data/locked', 'wb')\n"
    "take(lambda: fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * len(kept)), 300_000)",
    "System V messages": "queues = lambda: check(libc.msgget(0, 0o600))\n"
    "def fill():\n    queue = queues()\n    for _ in range(2): check(libc.msgsnd(queue, bytes([1] * 8) + bytes(8000), 8000, 0o4000))\n"
    "take(fill)",
    "writes to disk": "for _ in range(8): threading.Thread(target=lambda: [os.sync() for _ in range(10**6)], daemon=True).start()\n"
    "time.sleep(2)",
    "processors": "in_children(lambda: None, 50)\nfor _ in range(8):\n    if os.fork() == 0:\n        while True: pass\ntime.sleep(2)",
    "text": "out = bytes(1 << 16)\nend = time.monotonic() + 2\nwhile time.monotonic() < end: os.write(1, out)",
}

_SENDING = """
def fill(one, piece):
    "How many bytes a socket accepts without a reader."
    one.setblocking(False)
    taken = 0
    try:
        while True: taken += one.send(piece)
    except OSError: return taken
def tcp():
    client = socket.create_connection(server.getsockname())
    connection, _ = server.accept()
    kept.extend((client, connection))
    for side in client, connection:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        side.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    return fill(client, bytes(1 << 20)) + fill(connection, bytes(1 << 20))
def udp():
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    kept.extend((receiver, sender))
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    receiver.bind(('127.0.0.1', 0))
    sender.connect(receiver.getsockname())
    before = held(receiver)
    for _ in range(100): sender.send(bytes(60_000))
    return held(receiver) - before
def held(receiver):
    "SO_MEMINFO: the bytes in its queue."
    return struct.unpack_from('I', receiver.getsockopt(socket.SOL_SOCKET, 55, 36))[0]
def unix(kind):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    kept.extend((one, other))
    for side in one, other: side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    return fill(one, bytes(60_000)) + fill(other, bytes(60_000))
def netlink():
    receiver, sender = (socket.socket(16, socket.SOCK_RAW, 2) for _ in range(2))
    kept.extend((receiver, sender))
    receiver.bind((0, 0))
    for side in receiver, sender:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    sender.connect((receiver.getsockname()[0], 0))
    return fill(sender, bytes(60_000))
def routes():
    "Unread answers of the kernel."
    link = socket.socket(16, socket.SOCK_RAW, 0)
    kept.append(link)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    link.setblocking(False)
    body = struct.pack('BxHiII', 0, 0, 1, 0, 0)
    for _ in range(3_000): link.send(struct.pack('IHHII', 16 + len(body), 18, 1, 1, 0) + body)
    return held(link)
def sctp():
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    client.connect(listener.getsockname())
    kept.extend((listener, client))
    return fill(client, bytes(60_000))
"""
_SOCKETS: Mapping[str, str] = {
    "TCP": "server = socket.create_server(('127.0.0.1', 0))\nway = tcp",
    "UDP": "way = udp",
    "SCTP": "way = sctp",
    "Unix stream sockets": "way = lambda: unix(socket.SOCK_STREAM)",
    "Unix datagram sockets": "way = lambda: unix(socket.SOCK_DGRAM)",
    "netlink": "way = netlink",
    "netlink responses": "way = routes",
}


def _on_host(number: Callable[[ctypes.CDLL], int]) -> None:
    assert number(ctypes.CDLL(None, use_errno=True)) >= 0, os.strerror(ctypes.get_errno())


def _asynchronous(libc: ctypes.CDLL) -> int:
    context = ctypes.c_ulong()
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    made: int = libc.syscall((206, 0)[column], 128, ctypes.byref(context))
    libc.syscall((207, 1)[column], context)
    return made


def _timer(libc: ctypes.CDLL) -> int:
    timer = ctypes.c_void_p()
    made: int = libc.timer_create(1, None, ctypes.byref(timer))
    if made == 0:
        libc.timer_delete(timer)
    return made


def _inotify(libc: ctypes.CDLL) -> int:
    watch: int = libc.inotify_init1(0)
    if watch >= 0:
        os.close(watch)
    return watch


def _terminal(_libc: ctypes.CDLL) -> int:
    for descriptor in os.openpty():
        os.close(descriptor)
    return 0


def _in_flight(_libc: ctypes.CDLL) -> int:
    one, other = socket.socketpair()
    with one, other:
        return socket.send_fds(one, [b"x"], [0])


def _pipe(_libc: ctypes.CDLL) -> int:
    for descriptor in os.pipe():
        os.close(descriptor)
    return 0


def _process(_libc: ctypes.CDLL) -> int:
    return os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1]


@dataclass(frozen=True, slots=True)
class Shared:
    """A resource that the kernel counts per machine or per user: how to take it all, and how to check what is left."""

    take: str
    host: Callable[[ctypes.CDLL], int]
    neighbour: str
    """An expression that is true if a neighbour gets what it needs; `None` if it would not get it anyway."""


SHARED: Mapping[str, Shared] = {
    "asynchronous I/O contexts": Shared(
        "take(lambda: call((206, 0)[column], 400, ctypes.create_string_buffer(8)) == 'done' or check(-1))",
        _asynchronous,
        "True",
    ),
    "inotify instances": Shared(
        "in_children(lambda: take(lambda: check(libc.inotify_init1(0)), 5_000), 4)",
        _inotify,
        "libc.inotify_init1(0) >= 0",
    ),
    "inotify watches": Shared(
        "watch = libc.inotify_init1(0)\n"
        "def add():\n"
        "    name = f'/tmp/{len(kept)}'\n"
        "    os.mkdir(name)\n"
        "    return check(libc.inotify_add_watch(watch, name.encode(), 2))\n"
        "take(add)",
        _inotify,
        "libc.inotify_add_watch(libc.inotify_init1(0), b'/tmp', 2) >= 0",
    ),
    "pseudo-terminals": Shared(
        "in_children(lambda: take(os.openpty, 2_000), 8)",
        _terminal,
        "[os.close(number) for number in os.openpty()] == [None, None]",
    ),
    "pending signals": Shared(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [40])\n"
        "info = struct.pack('3i', 40, 0, -1) + bytes(116)\n"
        "take(lambda: call((129, 138)[column], os.getpid(), 40, info) == 'done' or check(-1), 200_000)",
        _timer,
        "libc.timer_create(1, None, ctypes.create_string_buffer(8)) == 0",
    ),
    "timers": Shared(
        "take(lambda: check(libc.timer_create(1, None, ctypes.create_string_buffer(8))))",
        _timer,
        "libc.timer_create(1, None, ctypes.create_string_buffer(8)) == 0",
    ),
    "pipe pages": Shared(
        "import fcntl\nin_children(lambda: take(lambda: [p := os.pipe(), fcntl.fcntl(p[1], 1031, 1 << 20)]), 4)",
        _pipe,
        "__import__('fcntl').fcntl(os.pipe()[1], 1032) == 65536",
    ),
    "descriptors in flight": Shared(
        "def send():\n"
        "    one, other = socket.socketpair()\n"
        "    one.setblocking(False)\n"
        "    socket.send_fds(one, [b'x'], [0] * 200)\n"
        "    return one, other\n"
        "in_children(lambda: take(send, 2_000), 8)",
        _in_flight,
        "socket.send_fds((ends := socket.socketpair())[0], [b'x'], [0]) == 1",
    ),
    "message queues": Shared(
        "take(lambda: check(libc.mq_open(f'/{len(kept)}'.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)), 1_000)",
        _pipe,
        "libc.mq_open(b'/one', os.O_CREAT | os.O_RDWR, 0o600, None) >= 0",
    ),
    "descriptors": Shared(
        "in_children(lambda: take(lambda: os.open('/dev/null', os.O_RDONLY)), 50)", _pipe, "bool(os.pipe())"
    ),
    "processes": Shared("in_children(lambda: None, 100)", _process, "subprocess.run(['true']).returncode == 0"),
}


class ExhaustionAttacks(AttackBase):
    """Memory, disk, processes, and everything that the kernel counts: the limits hold, and no other session is affected."""

    @pytest.mark.parametrize("what", EXHAUSTING)
    def test_taking_all_hurts_the_session_alone(self, session: Session, neighbour: Session, what: str) -> None:
        with neighbour_works(neighbour):
            attack(session, _TAKING + EXHAUSTING[what], timeout=3)
        works(neighbour)
        answers(session)

    @pytest.mark.parametrize("what", _SOCKETS)
    def test_buffers_of_sockets_count_as_memory(self, session: Session, neighbour: Session, what: str) -> None:
        code = (
            f"{_TAKING}{_SENDING}{_SOCKETS[what]}\ntaken = 0\n"
            "try:\n"
            f"    while taken < {2 * MEMORY}:\n"
            "        if not (more := way()): break\n"
            "        taken += more\n"
            "except OSError: pass\n"
            "tell(taken)"
        )
        ended = attack(session, code, timeout=30)
        if isinstance(ended, Execution) and ended.succeeded:
            assert int(ended.stdout) <= MEMORY
        works(neighbour)
        answers(session)

    @pytest.mark.parametrize("what", SHARED)
    def test_one_session_cannot_take_all(self, session: Session, neighbour: Session, what: str) -> None:
        shared = SHARED[what]
        needed = ask(neighbour, f"tell({shared.neighbour})")
        with while_it_holds(session, _TAKING + shared.take):
            _on_host(shared.host)
            works(neighbour)
            assert ask(neighbour, f"tell({shared.neighbour})") is needed
        answers(session)
