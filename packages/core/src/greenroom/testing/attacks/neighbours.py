# ruff: noqa: E501  tables of attacks, one line each
"""Attacks on a neighbour's files, processes, sockets and names."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from greenroom.sessions import Session
from greenroom.testing.attacks.base import AttackBase, answers, ask, attack, works

# By the object that would be shared if isolation failed: code that creates it, and code that finds it elsewhere.
_NAMES: Mapping[str, tuple[str, str]] = {
    "an abstract Unix socket": (
        "kept = socket.socket(socket.AF_UNIX)\nkept.bind('\\0greenroom-attack')\nkept.listen()",
        "attempt(socket.socket(socket.AF_UNIX).connect, '\\0greenroom-attack')",
    ),
    "a loopback port": (
        "kept = socket.create_server(('127.0.0.1', 47113))",
        "attempt(socket.create_connection, ('127.0.0.1', 47113), 2)",
    ),
    "shared memory": (
        "libc.shmget(0x47520001, 4096, 0o1666)",
        "'none' if libc.shmget(0x47520001, 0, 0) == -1 else 'done'",
    ),
    "a semaphore": ("libc.semget(0x47520001, 1, 0o1666)", "'none' if libc.semget(0x47520001, 0, 0) == -1 else 'done'"),
    "a System V message queue": (
        "libc.msgget(0x47520001, 0o1666)",
        "'none' if libc.msgget(0x47520001, 0) == -1 else 'done'",
    ),
    "a POSIX message queue": (
        "libc.mq_open(b'/greenroom-attack', os.O_CREAT | os.O_RDWR, 0o666, None)",
        "'none' if libc.mq_open(b'/greenroom-attack', os.O_RDWR) == -1 else 'done'",
    ),
    "a file in shared memory": (
        "os.umask(0)\nopen('/dev/shm/greenroom-attack', 'w').close()",
        "attempt(open, '/dev/shm/greenroom-attack')",
    ),
    "a file in /tmp": ("open('/tmp/greenroom-attack', 'w').close()", "attempt(open, '/tmp/greenroom-attack')"),
    "a session file": ("open('greenroom-attack', 'w').close()", "attempt(open, '/mnt/data/greenroom-attack')"),
    "a file in the home directory": (
        "open(os.path.expanduser('~/greenroom-attack'), 'w').close()",
        "attempt(open, os.path.expanduser('~/greenroom-attack'))",
    ),
    "a terminal": (
        "kept = os.openpty()\nos.fchmod(kept[1], 0o666)",
        "attempt(os.open, '/dev/pts/0', os.O_RDWR | os.O_NOCTTY)",
    ),
}


class NeighbourAttacks(AttackBase):
    """Files, processes, sockets and names of a neighbour do not exist."""

    @pytest.mark.parametrize("what", _NAMES)
    def test_neighbours_do_not_share(self, shared: Session, neighbour: Session, what: str) -> None:
        make, find = _NAMES[what]
        ask(shared, f"{make}\ntell('made')")
        assert ask(neighbour, f"tell({find})") != "done"

    def test_neighbours_are_different_users(self, shared: Session, neighbour: Session) -> None:
        """The kernel counts many resources per user: a sandbox could take them from another with the same user."""
        assert ask(shared, "tell(os.getuid())") != ask(neighbour, "tell(os.getuid())")

    def test_processes_of_a_neighbour_can_be_neither_seen_nor_ended(self, session: Session, neighbour: Session) -> None:
        ask(neighbour, "sleeping = subprocess.Popen(['sleep', '600'])\ntell(sleeping.pid)")
        try:
            attack(
                session,
                "for number in range(2, 40000):\n"
                "    if number != os.getpid(): attempt(os.kill, number, signal.SIGKILL)\n"
                "attempt(os.kill, -1, signal.SIGKILL)",
            )
            assert ask(neighbour, "tell(sleeping.poll())") is None
            works(neighbour)
            answers(session)
        finally:
            ask(neighbour, "sleeping.kill()\nsleeping.wait()\ntell(0)")

    def test_a_lock_on_a_system_file_holds_in_its_own_sandbox_alone(self, session: Session, neighbour: Session) -> None:
        code = "import fcntl\nlocked = open(json.__file__)\ntell(attempt(fcntl.flock, locked, fcntl.LOCK_EX | fcntl.LOCK_NB))"
        assert ask(session, code) == "done"
        assert ask(neighbour, code + "\nlocked.close()") == "done"

    def test_the_use_of_system_files_by_a_neighbour_cannot_be_watched(
        self, session: Session, neighbour: Session
    ) -> None:
        watch = (
            "watch = libc.inotify_init1(os.O_NONBLOCK)\n"
            "path = os.path.dirname(json.__file__).encode()\n"
            "tell(libc.inotify_add_watch(watch, path, 0x21))"  # read, opened
        )
        assert ask(session, watch) >= 0
        ask(neighbour, "open(json.__file__).read()\ntell(0)")
        assert ask(session, "tell(attempt(os.read, watch, 4096))") == "EAGAIN"
