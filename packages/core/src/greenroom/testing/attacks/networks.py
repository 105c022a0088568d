# ruff: noqa: E501  tables of attacks, one line each
"""Attacks on networks, sockets and shared memory of the host from within a sandbox."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import threading
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from greenroom.sessions import Session
from greenroom.testing.attacks.base import AttackBase, ask

_PROTOCOLS: Mapping[str, str] = {
    "a packet socket": "17, socket.SOCK_RAW, 0x0300",
    "a raw socket": "socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP",
    "a raw socket for all protocols": "socket.AF_INET, socket.SOCK_RAW, 255",
    "an IPv6 raw socket": "socket.AF_INET6, socket.SOCK_RAW, 58",
    "a virtual machine's socket": "40, socket.SOCK_STREAM, 0",
    "the kernel's ciphers": "38, socket.SOCK_SEQPACKET, 0",
    "a key management socket": "15, socket.SOCK_RAW, 2",
    "bluetooth": "31, socket.SOCK_RAW, 1",
    "a CAN bus": "29, socket.SOCK_RAW, 1",
    "an express data path": "44, socket.SOCK_RAW, 0",
    "TIPC": "30, socket.SOCK_RDM, 0",
    "RDS": "21, socket.SOCK_SEQPACKET, 0",
    "NFC": "39, socket.SOCK_RAW, 0",
    "SMC": "43, socket.SOCK_STREAM, 0",
}


class NetworkAttacks(AttackBase):
    """Nothing on the host or the network around it can be reached, by address or by name."""

    @pytest.mark.parametrize("what", _PROTOCOLS)
    def test_there_is_no(self, shared: Session, what: str) -> None:
        assert ask(shared, f"tell(attempt(socket.socket, {_PROTOCOLS[what]}))") in {
            "EPERM",
            "EACCES",
            "EAFNOSUPPORT",
            "EPROTONOSUPPORT",
            "ESOCKTNOSUPPORT",
        }

    def test_netlink_changes_and_overhears_nothing(self, shared: Session) -> None:
        code = (
            "def ask(protocol, kind, body, groups=0):\n"
            "    try:\n"
            "        link = socket.socket(16, socket.SOCK_RAW, protocol)\n"
            "        link.settimeout(2)\n"
            "        link.bind((0, groups))\n"
            "        link.send(struct.pack('IHHII', 16 + len(body), kind, 5, 1, 0) + body)\n"
            "        reply = link.recv(65536)\n"
            "    except OSError as error: return errno.errorcode.get(error.errno, type(error).__name__)\n"
            "    number = -struct.unpack_from('i', reply, 16)[0]\n"
            "    return errno.errorcode.get(number, 'done')\n"
            "link = struct.pack('BxHiII', 0, 0, 0, 0, 0) + struct.pack('HH4sHHHH8s', 8, 3, b'dum0', 16, 18, 10, 1, b'dummy')\n"
            "tell({'a new interface': ask(0, 16, link), 'a new address': ask(0, 20, bytes(8)),\n"
            "      'the audit': ask(9, 1000, b''), 'a firewall': ask(12, 0xa00, bytes(4))})"
        )
        for what, ended in ask(shared, code).items():
            assert ended != "done", what

    def test_services_of_the_host_cannot_be_reached(self, shared: Session) -> None:
        addresses = {"127.0.0.1", "127.0.1.1", "0.0.0.0", "172.17.0.1", "10.0.2.2", "192.168.65.2", *_own_addresses()}  # noqa: S104
        with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104  only briefly, and nothing is sent
            port = server.getsockname()[1]
            code = f"tell([attempt(socket.create_connection, (a, {port}), 2) for a in {sorted(addresses)}])"
            assert "done" not in ask(shared, code)
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.accept()

    @pytest.mark.parametrize(
        "address", ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254"]
    )
    def test_the_metadata_service_of_the_cloud_is_unreachable_at(self, shared: Session, address: str) -> None:
        assert ask(shared, f"tell(attempt(socket.create_connection, ('{address}', 80), 2))") != "done"

    def test_names_cannot_be_looked_up(self, shared: Session) -> None:
        assert ask(shared, "tell(attempt(socket.getaddrinfo, 'example.com', 80))") == "gaierror"

    def test_unix_sockets_of_the_host_cannot_be_reached(self, shared: Session, tmp_path: Path) -> None:
        name = f"greenroom-{secrets.token_hex(6)}"
        with _listening(f"\0{name}"), _listening(str(tmp_path / "socket")):
            code = (
                "def reach(address): socket.socket(socket.AF_UNIX).connect(address)\n"
                f"tell([attempt(reach, '\\0{name}'), attempt(reach, {str(tmp_path / 'socket')!r}),\n"
                f"      {name!r} in open('/proc/net/unix').read() if os.path.exists('/proc/net/unix') else False])"
            )
            assert ask(shared, code) in (["ECONNREFUSED", "ENOENT", False], ["ECONNREFUSED", "EACCES", False])

    # Memory and queues that processes share by name

    def test_shared_memory_of_the_host_cannot_be_reached(self, shared: Session) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        key = 0x47520000 + secrets.randbelow(1 << 16)
        made = {
            "shm": libc.shmget(key, 4096, 0o1666),
            "sem": libc.semget(key, 1, 0o1666),
            "msg": libc.msgget(key, 0o1666),
        }
        try:
            assert min(made.values()) >= 0
            code = (
                f"key = {key}\n"
                "reached = [libc.shmget(key, 0, 0), libc.semget(key, 0, 0), libc.msgget(key, 0)]\n"
                f"reached += [libc.shmat({made['shm']}, None, 0), libc.msgctl({made['msg']}, 2, bytes(200))]\n"
                "listed = [str(key) in open(f'/proc/sysvipc/{n}').read() for n in ('shm', 'sem', 'msg')\n"
                "          if os.path.exists(f'/proc/sysvipc/{n}')]\n"
                "tell([set(reached) == {-1}, any(listed)])"
            )
            assert ask(shared, code) == [True, False]
        finally:
            libc.shmctl(made["shm"], 0, None)
            libc.semctl(made["sem"], 0, 0)
            libc.msgctl(made["msg"], 0, None)

    def test_message_queues_of_the_host_cannot_be_reached(self, shared: Session) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        name = f"/greenroom-{secrets.token_hex(6)}"
        queue = libc.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
        if queue < 0:
            pytest.skip("This machine cannot create message queues.")
        try:
            code = f"tell(libc.mq_open({name.encode()!r}, os.O_RDWR) == -1)"
            assert ask(shared, code) is True
        finally:
            os.close(queue)
            libc.mq_unlink(name.encode())


def _own_addresses() -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found |= {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("192.0.2.1", 9))  # sends nothing
        found.add(udp.getsockname()[0])
    return found


@contextlib.contextmanager
def _listening(address: str) -> Generator[None, None, None]:
    """A Unix socket that accepts every connection."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=accept, daemon=True).start()
        yield
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
