"""Attacks from inside custom containers, both with root and with another user as the image's user."""

from __future__ import annotations

import contextlib
import json
import socket
import textwrap
import threading
import uuid
from collections.abc import Generator, Iterator
from typing import Any

import pytest

import greenroom
from greenroom import GreenroomError, SandboxLost, Session, SessionPool

from .conftest import docker, template

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["user", "root"])
def attackers(request: pytest.FixtureRequest, image: str, root_image: str) -> Iterator[SessionPool]:
    chosen = root_image if request.param == "root" else image
    properties: Any = template(chosen)
    with greenroom.connect("docker:", template=properties, memory="512Mi", pids=64, disk="64Mi") as pool:
        yield pool


@pytest.fixture(scope="module")
def attacker(attackers: SessionPool) -> Iterator[Session]:
    with attackers.session() as session:
        yield session


def run(session: Session, code: str, **values: object) -> str:
    """Run code in the container, and return its output."""
    preamble = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    response = session.request("POST", "/run", content=preamble + textwrap.dedent(code), timeout=60)
    return response.raise_for_status().text


# The outcome of each attempt by its number: `done`, or the name of the error.
ATTEMPTS = """
    import ctypes, errno, os, socket
    libc = ctypes.CDLL(None, use_errno=True)

    def attempt(name, action):
        try:
            result = action()
            print(name, "done" if result is None or result >= 0 else errno.errorcode[ctypes.get_errno()])
        except OSError as error:
            print(name, errno.errorcode.get(error.errno, error))
"""


def outcomes(session: Session, code: str, **values: object) -> dict[str, str]:
    lines = run(session, textwrap.dedent(ATTEMPTS) + textwrap.dedent(code), **values).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)


@contextlib.contextmanager
def service(family: int, address: Any) -> Generator[Any]:
    """A service of the host that counts its callers."""
    callers: list[Any] = []
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    callers.append(connection)
                    connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()
        listener.close()
    assert callers == []


def host_addresses() -> list[str]:
    gateway = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0].get("Gateway", "172.17.0.1")
    found = {gateway, "127.0.0.1", *socket.gethostbyname_ex(socket.gethostname())[2]}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 1))
        found.add(probe.getsockname()[0])
    return sorted(found)


def test_no_service_of_the_host_and_no_network_can_be_reached(attacker: Session) -> None:
    with service(socket.AF_INET, ("0.0.0.0", 0)) as (_, port):
        found = outcomes(
            attacker,
            """
            for address in [*addresses, "169.254.169.254", "8.8.8.8"]:
                attempt(address, lambda: socket.create_connection((address, port), timeout=2).close())
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            attempt("udp", lambda: udp.sendto(b"x", (addresses[-1], port)) and None)
            attempt("dns", lambda: socket.getaddrinfo("example.com", 80) and None)
            print("interfaces", ",".join(name for _, name in socket.if_nameindex()))
            """,
            addresses=host_addresses(),
            port=port,
        )
    assert found.pop("interfaces") == "lo"
    assert "done" not in found.values(), found
    assert len(found) >= 5


def test_sockets_that_ignore_network_namespaces_are_refused(attacker: Session) -> None:
    name = f"\0greenroom-{uuid.uuid4()}"
    with service(socket.AF_UNIX, name):
        found = outcomes(
            attacker,
            """
            def connect_abstract():
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(name)
            attempt("abstract", connect_abstract)
            for family in range(64):
                if family not in (1, 2, 10, 16):
                    attempt(f"family-{family}", lambda: socket.socket(family, socket.SOCK_STREAM).close())
            attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close())
            attempt("packet", lambda: socket.socket(17, socket.SOCK_RAW).close())
            attempt("upper bits", lambda: libc.syscall(41, ctypes.c_ulong(40 | 1 << 32), 1, 0))
            """,
            name=name,
        )
    assert found.pop("abstract") == "ECONNREFUSED"
    assert set(found.values()) <= {"EAFNOSUPPORT", "EPERM"}, found


def test_the_relay_cannot_be_ended_stopped_or_starved(attacker: Session) -> None:
    found = outcomes(
        attacker,
        """
        import resource, signal
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV):
            attempt(f"signal-{number}", lambda: os.kill(1, number))
        attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
        attempt("affinity", lambda: os.sched_setaffinity(1, {0}))
        attempt("scheduler", lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)))
        def limit():
            try:
                resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))
            except PermissionError:
                raise OSError(1, "")
        attempt("limit", limit)
        attempt("ptrace", lambda: libc.ptrace(16, 1, 0, 0))
        for name in ("mem", "environ", "fd/0", "root/etc/passwd", "ns/net", "maps"):
            attempt(name, lambda: os.close(os.open(f"/proc/1/{name}", os.O_RDONLY)))
        """,
    )
    assert set(found.values()) <= {"EPERM", "EACCES"}, found
    assert len(found) == 16
    assert attacker.request("GET", "/").text == "hello"


def test_privileges_are_missing_and_cannot_be_gained(attacker: Session) -> None:
    found = outcomes(
        attacker,
        """
        status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            print(name, int(status[name], 16))
        print("NoNewPrivs", status["NoNewPrivs"].strip())
        attempt("mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
        for name, flag in (("user", 0x10000000), ("net", 0x40000000), ("mnt", 0x20000)):
            attempt(f"unshare-{name}", lambda: libc.unshare(flag))
        attempt("clone", lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
        attempt("io_uring", lambda: libc.syscall(425, 1, 0))
        attempt("bpf", lambda: libc.syscall(321, 0, 0, 0))
        attempt("keyctl", lambda: libc.syscall(250, 0, 0, 0, 0, 0))
        attempt("device", lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)))
        attempt("other user", lambda: os.setuid(31000))
        attempt("host name", lambda: libc.sethostname(b"x", 1))
        attempt("sysctl", lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)))
        attempt("sysrq", lambda: os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY)))
        attempt("docker", lambda: os.close(os.open("/var/run/docker.sock", os.O_RDWR)))
        attempt("root", lambda: os.close(os.open("/here", os.O_WRONLY | os.O_CREAT)))
        attempt("app", lambda: os.close(os.open("/app/server.py", os.O_WRONLY)))
        attempt("hosts", lambda: os.close(os.open("/etc/hosts", os.O_WRONLY)))
        """,
    )
    assert {found.pop(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0"}
    assert found.pop("NoNewPrivs") == "1"
    assert "done" not in found.values(), found


def test_processes_of_others_are_not_visible(attackers: SessionPool, attacker: Session) -> None:
    with attackers.session() as neighbour:
        neighbour.request("POST", "/state", json={"secret": 1})
        run(neighbour, "import subprocess\nsubprocess.Popen(['sleep', '54321'])")
        seen = run(
            attacker,
            """
            import glob
            for path in glob.glob("/proc/[0-9]*/cmdline"):
                print(open(path).read().replace("\\0", " ")[:100])
            """,
        )
        assert "server.py" in seen
        assert "54321" not in seen
        assert "dockerd" not in seen
        assert attacker.request("GET", "/state").json() == {}


def test_limits_apply_only_to_the_session(attackers: SessionPool) -> None:
    neighbour = attackers.session("neighbour")
    neighbour.request("POST", "/state", json={"kept": True})
    with attackers.session() as session:
        count = run(
            session,
            """
            import os, signal, time
            children = []
            try:
                for _ in range(1000):
                    if (child := os.fork()) == 0:
                        time.sleep(60)
                        os._exit(0)
                    children.append(child)
            except OSError:
                pass
            print(len(children))
            for child in children:
                os.kill(child, signal.SIGKILL)
            """,
        )
        assert int(count) < 64
    with attackers.session() as session:
        failure = run(
            session,
            """
            try:
                with open("/tmp/x", "wb") as file:
                    while True:
                        file.write(bytes(1 << 20))
            except OSError as error:
                print(error.strerror)
            """,
        )
        assert failure == "No space left on device\n"
    with attackers.session() as session:
        with pytest.raises(GreenroomError) as raised:
            session.request("POST", "/run", content="x = []\nwhile True: x.append(bytearray(1 << 20))", timeout=60)
        assert isinstance(raised.value, SandboxLost), raised.value
        assert session.request("GET", "/state").json() == {}  # its state is new
    assert neighbour.request("GET", "/state").json() == {"kept": True}
    neighbour.delete()


def test_an_endless_output_does_not_fill_the_host(attackers: SessionPool) -> None:
    with attackers.session() as session:
        run(
            session,
            """
            import os, threading
            def flood():
                while True:
                    os.write(1, b"x" * 65536)
            threading.Thread(target=flood, daemon=True).start()
            """,
        )
        assert session.request("GET", "/").text == "hello"
