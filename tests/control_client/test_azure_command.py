"""The commands in Azure, run as a person runs them: with `--subscription`, a managed identity, and Azure's host names.

A proxy leads the host names to servers of this machine, whose certificates the program is told to trust: one that
answers as Resource Manager does, and a `greenroom serve` as the pool.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import pytest

from greenroom.cli import main
from greenroom.server.transport.tls import Certificate, self_signed
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

from .arm import SUBSCRIPTION, TOKEN, Arm, refused, serving_arm, to
from .tunnel import Tunnel, tunnel_to

SESSIONS = "eastasia.dynamicsessions.io"
PLACE = ["--subscription", SUBSCRIPTION, "--resource-group", "rg"]


@dataclass
class Azure:
    """Everything that a program finds in Azure."""

    arm: Arm
    tunnel: Tunnel
    environment: dict[str, str]
    resources: list[str] = field(default_factory=list[str])
    """What tokens were requested for."""

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run the program in this process; return what it printed on standard output and error."""
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "argv", ["greenroom", *arguments]),
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        out, errors = (stream.buffer.getvalue().decode() for stream in streams)  # pyright: ignore[reportAttributeAccessIssue]
        return self.checked(int(ended.value.code or 0), code, out, errors)

    def run_program(self, *arguments: str) -> tuple[str, str]:
        """As `run`, in a process of its own."""
        ran = subprocess.run(
            [sys.executable, "-m", "greenroom", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        return self.checked(ran.returncode, 0, ran.stdout, ran.stderr)

    def checked(self, code: int, expected: int, out: str, errors: str) -> tuple[str, str]:
        assert code == expected, (out, errors)
        assert 'File "' not in errors  # a traceback of ours
        assert TOKEN not in out + errors
        return out, errors


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Generator[Azure, None, None]:
    with skipping_without("bubblewrap:"), serving("bubblewrap:", ready_session_instances=0, preload=()):
        pass
    directory = tmp_path_factory.mktemp("azure")
    files = self_signed(directory / "tls", ["management.azure.com", SESSIONS])
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_cert_chain(files.certificate, files.key)
    with (
        serving_arm(certificate=certificate) as arm,
        _identity() as (identity, resources),
        _sessions(files, directory) as port,
        tunnel_to({"management.azure.com": urlsplit(arm.url).port or 0, SESSIONS: port}) as tunnel,
    ):
        arm.url, arm.token = "https://management.azure.com", TOKEN
        arm.endpoint = f"https://{SESSIONS}/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/sessionPools/{{name}}"
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment = {
            **kept,
            "HOME": str(directory),
            "COLUMNS": "200",
            "HTTPS_PROXY": tunnel.url,
            "SSL_CERT_FILE": str(files.authority),
            "IDENTITY_ENDPOINT": identity,
            "IDENTITY_HEADER": "secret",
            # Those of a server of this machine, which Azure must not get.
            "GREENROOM_SERVER": "http://127.0.0.1:9",
            "GREENROOM_API_KEY": "a-key-of-this-machine",
            "GREENROOM_MANAGEMENT_KEY": "a-key-of-this-machine",
        }
        yield Azure(arm, tunnel, environment, resources)


@pytest.fixture(autouse=True)
def _anew(azure: Azure) -> None:
    azure.arm.pools.clear()
    azure.arm.seen.clear()
    azure.arm.answers.clear()
    azure.resources.clear()
    azure.tunnel.hosts.clear()


def test_a_pool_has_the_same_life_cycle_in_azure_as_here(azure: Azure, tmp_path: Path) -> None:
    create = ["--name", "ci", "--location", "eastasia", "--max-sessions", "20", *PLACE]
    created = json.loads(azure.run_program("pool", "create", *create, "--output", "json")[0])
    assert created["properties"]["provisioningState"] == "Succeeded"
    assert azure.arm.body_of("PUT") == {
        "location": "eastasia",
        "properties": {
            "containerType": "PythonLTS",
            "poolManagementType": "Dynamic",
            "scaleConfiguration": {"maxConcurrentSessions": 20, "readySessionInstances": 5},
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 300}
            },
            "sessionNetworkConfiguration": {"status": "EgressDisabled"},
        },
    }
    azure.run("pool", "update", "--name", "ci", "--max-sessions", "30", *PLACE)
    assert " 30 " in azure.run("pool", "list", *PLACE)[0]
    session = ["--pool", "ci", "--identifier", "user-0007", *PLACE]
    assert azure.run("session", "execute", *session, "--code", "x = 21\nprint('set')")[0] == "set\n"
    assert azure.run("session", "execute", *session, "--code", "x * 2")[0] == "42\n"
    azure.run("session", "execute", *session, "--code", "1 / 0", code=1)
    (tmp_path / "a.txt").write_text("hello")
    azure.run("session", "upload-file", *session, "--filepath", str(tmp_path / "a.txt"))
    assert azure.run("session", "show-file-content", *session, "--filename", "a.txt")[0] == "hello"
    asked = len(azure.arm.seen)
    assert azure.run("session", "execute", *session, "--code", "x", "--session-pool-location", "EastAsia")[0] == "21\n"
    assert len(azure.arm.seen) == asked
    azure.run("session", "stop", *session)
    assert azure.run("pool", "delete", "--name", "ci", "--yes", *PLACE) == ("", "")
    assert azure.run("pool", "list", "--subscription", SUBSCRIPTION, "--output", "json")[0] == "[]\n"
    assert {seen.token for seen in azure.arm.seen} == {TOKEN}
    assert set(azure.resources) == {"https://management.azure.com", "https://dynamicsessions.io"}
    assert set(azure.tunnel.hosts) == {"management.azure.com", SESSIONS}


def test_an_id_finds_its_pool_in_azure(azure: Azure) -> None:
    azure.arm.add("ci", containerType="PythonLTS")["properties"]["provisioningState"] = "Succeeded"
    program = (
        "import asyncio, os, sys, greenroom\n"
        "del os.environ['GREENROOM_SERVER']\n"
        "with greenroom.connect(sys.argv[1]) as pool:\n"
        "    print(pool.session('user-0008').execute('6 * 7').result)\n"
        "async def again():\n"
        "    async with greenroom.aconnect('https://management.azure.com' + sys.argv[1]) as pool:\n"
        "        print((await pool.session().aexecute('6 * 7')).result)\n"
        "asyncio.run(again())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, azure.arm.pools["rg", "ci"]["id"].upper()],
        env=azure.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "42\n42\n"), ran.stderr


def test_options_that_azure_requires_are_named(azure: Azure) -> None:
    subscription = ["--subscription", SUBSCRIPTION]
    assert "--resource-group" in azure.run("pool", "show", "--name", "ci", *subscription, code=2)[1]
    assert "must have a --location" in azure.run("pool", "create", "--name", "ci", *PLACE, code=2)[1]
    located = ["--identifier", "abcd", *PLACE, "--session-pool-location", "evil.example/"]
    assert "The location must consist of" in azure.run("session", "list-files", "--pool", "ci", *located, code=2)[1]
    custom = ["--container-type", "CustomContainer", "--image", "a", "--target-port", "80", "--location", "eastasia"]
    assert "an --environment" in azure.run("pool", "create", "--name", "ci", *custom, *PLACE, code=2)[1]
    assert azure.arm.seen == []


def test_errors_are_one_line_with_an_exit_code(azure: Azure) -> None:
    error = azure.run("pool", "show", "--name", "ci", *PLACE, code=2)[1]
    assert error == "There is no pool 'ci' in the resource group 'rg', which has no pools.\n"
    azure.arm.answers.append(
        to("PUT", refused(403, "AuthorizationFailed", "The client has no authorization."), times=9)
    )
    create = ["pool", "create", "--name", "ci", "--location", "eastasia", *PLACE]
    assert "role such as Contributor" in azure.run(*create, code=2)[1]
    azure.arm.answers.clear()
    azure.arm.failure = {"code": "QuotaExceeded", "message": "There are too many pools."}
    try:
        assert "There are too many pools. (QuotaExceeded)" in azure.run(*create, code=70)[1]
    finally:
        azure.arm.failure = None


def test_a_link_to_another_host_is_not_followed(azure: Azure) -> None:
    link = "https://evil.example/subscriptions/x?api-version=1"
    azure.arm.answers.append(to("GET", (200, {}, {"value": [], "nextLink": link}), times=9))
    error = azure.run("pool", "list", *PLACE, code=70)[1]
    assert "must point to https://management.azure.com, not to 'https://evil.example/" in error
    assert set(azure.tunnel.hosts) == {"management.azure.com"}


@contextmanager
def _identity() -> Generator[tuple[str, list[str]], None, None]:
    """The managed identity of an App Service; yields its URL and the resources that it was asked for."""
    resources: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["X-IDENTITY-HEADER"] == "secret"
            (resource,) = parse_qs(urlsplit(self.path).query)["resource"]
            resources.append(resource)
            token = {"access_token": TOKEN, "expires_on": str(int(time.time()) + 3600), "resource": resource}
            body = json.dumps({**token, "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/msi/token", resources
        server.shutdown()
        thread.join()


@contextmanager
def _sessions(files: Certificate, home: Path) -> Generator[int, None, None]:
    """A server whose key is the identity's token; yields its port."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "greenroom", "serve", "--port", "0"),
            *("--pool", "bubblewrap:?ready_session_instances=0&preload="),
            *("--certfile", str(files.certificate), "--keyfile", str(files.key)),
        ],
        env={**os.environ, "GREENROOM_API_KEY": TOKEN, "HOME": str(home), "XDG_DATA_HOME": str(home / "data")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    try:
        assert line.startswith("Serving"), line
        url: str = line.split()[-1]
        yield urlsplit(url).port or 0
    finally:
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert "Traceback" not in errors, errors
