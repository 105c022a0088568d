"""The conformance suite of isolation. Each test tries something that code in a sandbox must not be able to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from greenroom.engines.base import SandboxSpec, sandbox_environment
from greenroom.sessions import Session, SessionPool
from greenroom.testing.suite import Suite


def _value(session: Session, code: str) -> Any:
    """Run code, and return the value that it prints as JSON."""
    execution = session.execute(f"import json, os\n{code}")
    assert execution.succeeded, execution.text_for_model()
    return json.loads(execution.stdout)


def _attempt(session: Session, code: str) -> str:
    """Run code, and return how it ends: the exception's name, or `done`."""
    error = session.execute(code).error
    return "done" if error is None else error.name


class IsolationSuite(Suite):
    """Isolation: no network, no privileges, nothing of the host, nothing of a neighbour."""

    def test_there_is_no_network(self, shared: Session) -> None:
        attempt = "import socket\nsocket.create_connection(('1.1.1.1', 53), timeout=3)"
        assert _attempt(shared, attempt) in {"OSError", "ConnectionRefusedError", "TimeoutError"}
        devices = (
            "print(json.dumps(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line)))"
        )
        assert set(_value(shared, devices)) <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0"}

    def test_the_code_is_not_root_and_has_no_capability(self, shared: Session) -> None:
        code = (
            "status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())\n"
            "capabilities = {name: int(value, 16) for name, value in status.items() if name.startswith('Cap')}\n"
            "print(json.dumps({'uid': os.getuid(), **capabilities}))"
        )
        reported = _value(shared, code)
        assert reported.pop("uid") != 0
        assert reported
        assert set(reported.values()) == {0}

    def test_privileges_cannot_be_gained(self, shared: Session) -> None:
        code = "import ctypes\nprint(json.dumps(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)))"  # PR_GET_NO_NEW_PRIVS
        assert _value(shared, code) == 1
        # In a user namespace without root, this user does not exist.
        assert _attempt(shared, "import os\nos.setuid(0)") in {"PermissionError", "OSError"}

    @pytest.mark.parametrize(
        "directory", ["/", "/usr", "/usr/bin", "/etc", "/opt/greenroom", "/dev", "/sys", "/var", "/root", "/home"]
    )
    def test_the_system_is_read_only(self, shared: Session, directory: str) -> None:
        attempt = f"open('{directory}/greenroom-was-here', 'w')"
        assert _attempt(shared, attempt) in {"OSError", "PermissionError", "FileNotFoundError"}

    def test_the_interpreter_is_read_only(self, shared: Session) -> None:
        attempt = "import json, pathlib\npathlib.Path(json.__file__).open('a')"
        assert _attempt(shared, attempt) in {"OSError", "PermissionError"}

    def test_the_environment_reveals_nothing_of_the_host(
        self, pool: SessionPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GREENROOM_TEST_SECRET", "secret")
        with pool.session() as session:
            assert "GREENROOM_TEST_SECRET" not in str(_value(session, "print(json.dumps(dict(os.environ)))"))
            names = _value(session, "print(json.dumps(sorted(os.environ)))")
            allowed: set[str] = {
                "PWD",
                "HOSTNAME",
                "MPLBACKEND",
                "PLOTLY_RENDERER",
                "NODE_OPTIONS",
                "NODE_PATH",
                "PYTHONDONTWRITEBYTECODE",
                *sandbox_environment(SandboxSpec()),
            }
            assert set(names) <= allowed | {
                "LC_CTYPE",
                "PAGER",
                "GIT_PAGER",
                "VIMINIT",
                "CLICOLOR",
                "SHLVL",
                "_",
            }

    def test_only_its_own_processes_are_seen(self, shared: Session) -> None:
        seen = _value(shared, "print(json.dumps(len([p for p in os.listdir('/proc') if p.isdigit()])))")
        assert seen <= 8

    def test_neighbours_share_no_file(self, pool: SessionPool) -> None:
        with pool.session() as one, pool.session() as other:
            for directory in ("/mnt/data", "/tmp", "/dev/shm", "/var/tmp"):
                one.execute(f"open('{directory}/note', 'w').write('from one')")
                assert other.execute(f"import os\nos.path.exists('{directory}/note')").result == "False"

    def test_neighbours_receive_no_signal(self, pool: SessionPool) -> None:
        with pool.session() as one, pool.session() as other:
            other.execute("x = 1")
            one.execute("import os, signal\ntry:\n    os.kill(-1, signal.SIGKILL)\nexcept OSError:\n    pass")
            assert other.execute("x").result == "1"

    def test_the_supervisor_cannot_be_traced_or_written_to(self, shared: Session) -> None:
        code = (
            "def place(status): return status.st_dev, status.st_ino\n"
            "own = {place(os.stat(path)) for path in ('/dev/null', '/mnt/data', '/dev/stdout', '/dev/stderr')}\n"
            "trouble = []\n"
            "for name in ['mem', *(f'fd/{number}' for number in range(32))]:\n"
            "    for mode in os.O_RDONLY, os.O_WRONLY:\n"
            "        try:\n            opened = os.open(f'/proc/{os.getppid()}/{name}', mode | os.O_NONBLOCK)\n"
            "        except OSError:\n            continue\n"
            "        if place(os.fstat(opened)) not in own:\n            trouble.append((name, mode))\n"
            "print(json.dumps(trouble))"
        )
        assert _value(shared, code) == []

    def test_the_supervisor_has_no_variables_that_the_code_lacks(self, shared: Session) -> None:
        code = (
            "names = []\ntry:\n    names = open(f'/proc/{os.getppid()}/environ').read().split('\\0')\n"
            "except OSError:\n    pass\n"
            "print(json.dumps([name for name in names if name and os.environ.get(name.split('=')[0]) is None]))"
        )
        assert _value(shared, code) == []

    def test_new_namespaces_and_mounts_are_refused(self, shared: Session) -> None:
        code = (
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            "print(json.dumps([libc.unshare(0x10000000), libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)]))"
        )
        assert _value(shared, code) == [-1, -1]

    def test_no_socket_reaches_the_machine_below(self, shared: Session) -> None:
        assert _attempt(shared, "import socket\nsocket.socket(40, socket.SOCK_STREAM)") in {
            "OSError",
            "PermissionError",
        }
