"""`greenroom serve` as a process: its refusals, its output, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from greenroom.cli.app import app
from greenroom.errors import GreenroomError
from greenroom.server.access.keys import digest
from greenroom.server.state.file import StateFile
from greenroom.server.transport.access_log import LineHandler
from greenroom.testing import engine_pool

from .served import CURRENT, LATEST, LEGACY, POOL, current, eventually, inline, query

COMMAND = Path(sys.executable).with_name("greenroom")
KEY = "grk_a-key-that-is-long-enough"
CODE = "secret_code = 41\nprint(secret_code + 1)"


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "serve", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class Serving:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, said: str) -> None:
        self.process = process
        self.url = url
        self.said = said
        """At its start."""

    async def end(self, number: int = signal.SIGTERM) -> tuple[str, str]:
        """Its outputs, after a signal."""
        self.process.send_signal(number)
        async with asyncio.timeout(60):
            output, errors = await self.process.communicate()
        return (output or b"").decode(), errors.decode()


@contextlib.asynccontextmanager
async def serving(
    *options: str, stdout: int = asyncio.subprocess.PIPE, **environment: str
) -> AsyncGenerator[Serving, None]:
    given = options if "--config" in options else ("--pool", "bubblewrap:?ready_session_instances=0&preload=", *options)
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "serve",
        *given,
        "--port",
        "0",
        env={**os.environ, **environment},
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        said = ""
        async with asyncio.timeout(60):
            while (found := re.search(r" at (https?://\S+)\n", said)) is None:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    while True:
                        said += (await process.stderr.readline()).decode()
        yield Serving(process, found[1].replace("0.0.0.0", "127.0.0.1"), said)  # pyright: ignore[reportPossiblyUnboundVariable]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture(scope="module")
def engine() -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()


def test_the_help_names_the_tables_of_the_configuration() -> None:
    said = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    assert "[server]" in said
    assert "[pools.NAME]" in said


# What it refuses needs no engine.


@pytest.fixture
def refusal() -> Iterator[Callable[..., str]]:
    """What a command in this process refuses with."""
    access = logging.getLogger("greenroom.server.access")
    before = access.handlers[:], access.level, access.propagate

    def refusal(*options: str) -> str:
        with pytest.raises(GreenroomError) as caught:
            app(["serve", *options], standalone_mode=False)
        return str(caught.value)

    yield refusal
    access.handlers, access.level, access.propagate = before


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "box.internal"])
def test_the_server_does_not_listen_for_others_without_authentication(refusal: Callable[..., str], host: str) -> None:
    assert "A server without credentials must listen on 127.0.0.1" in refusal("--pool", "bubblewrap:", "--host", host)


def test_a_refusal_is_a_line_and_an_exit_code() -> None:
    refused = run("--pool", "bubblewrap:", "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert refused.stderr.startswith("A server without credentials must listen on 127.0.0.1, not '0.0.0.0'")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-key-file", "missing"], "cannot be read"),
        (["--certfile", "missing", "--keyfile", "missing"], "cannot be used"),
        (["--certfile", "missing"], "certfile must be used with keyfile"),
        (
            ["--certfile", "a", "--keyfile", "b", "--tls-self-signed"],
            "certfile must not be 'a' if tls_self_signed is set",
        ),
        (["--entra-tenant", "common"], "entra.tenant"),
        (["--entra-object-id", "11111111-2222-3333-4444-555555555555"], "entra.tenant"),
        (["--port", "99999"], "port"),
        (["--config", "missing.toml"], "cannot be read"),
        (["--pool", "nonsense:"], "scheme"),
    ],
)
def test_bad_serve_options_are_named(refusal: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refusal(*options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "cannot be read"),
        ("[other]\n", "other"),
        ("server = 1\n", "must have a table [server], not 1"),
        ("[server]\nprot = 80\n", "prot"),
        ('[server]\nentra = "x"\n', "entra"),
        ("[pools]\none = 1\n", "pools.one"),
        ("[pools.one]\nurl = 5\n", "url"),
        ('[pools.one]\nurl = "bubblewrap:"\nmemroy = 1\n', "memroy"),
    ],
)
def test_an_invalid_configuration_is_refused(
    refusal: Callable[..., str], tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "greenroom.toml"
    path.write_text(content)
    assert message in refusal("--config", str(path), "--entra-tenant", "11111111-2222-3333-4444-555555555555")


def test_two_servers_do_not_share_the_users_state(
    refusal: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("GREENROOM_POOL", raising=False)
    path = tmp_path / "greenroom" / "state.db"
    with asyncio.Runner() as runner:
        held = runner.run(StateFile.open(path))
        assert f"The state '{path}' is in use by another server" in refusal("--port", "0")
        runner.run(held.close())


def test_the_engine_of_created_pools_is_one_of_this_machine(refusal: Callable[..., str]) -> None:
    assert "The engine must be a local one" in refusal("--pool", "bubblewrap:", "--engine", "https://x")


def test_a_short_key_is_refused(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_API_KEY", "guess-me")
    message = refusal("--pool", "bubblewrap:")
    assert "at least 16 characters" in message
    assert "guess-me" not in message


def test_without_the_extra_the_error_names_the_package_to_install(tmp_path: Path) -> None:
    hidden = tmp_path / "starlette"
    hidden.mkdir()
    (hidden / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'starlette'\", name='starlette')\n"
    )
    refused = run(PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2
    assert "needs starlette" in refused.stderr
    assert "pip install 'greenroom[server]'" in refused.stderr


def test_greenroom_and_its_commands_are_imported_without_the_server() -> None:
    code = "import greenroom.cli, sys; sys.exit(bool({'starlette', 'uvicorn', 'jwt', 'httpx'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_a_key_is_made_and_printed_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made = subprocess.run(
        [COMMAND, "api-key", str(path), "--name", "ci"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert path.read_text() == f"ci sha256:{digest(made.stdout.strip())}\n"


# With an engine


@pytest.fixture
async def client(engine: None) -> AsyncIterator[httpx.AsyncClient]:
    async with serving() as server, httpx.AsyncClient(base_url=server.url + POOL, timeout=60) as client:
        yield client


async def test_both_contracts_over_real_sandboxes(client: httpx.AsyncClient) -> None:
    legacy = await client.post("/code/execute", params=query(LEGACY[0]), json=inline("x = 6 * 7; x"))
    assert legacy.json()["properties"]["result"] == 42
    later = await client.post("/executions", params=query(LATEST), json=current("print(x)"))
    assert later.json()["result"]["stdout"] == "42\n"
    figure = "import matplotlib.pyplot as plt; _ = plt.plot([1, 2])"
    image = (await client.post("/executions", params=query(LATEST), json=current(figure))).json()
    assert image["result"]["executionResult"]["type"] == "image"
    failed = await client.post("/code/execute", params=query(LEGACY[0]), json=inline("1/0"))
    assert failed.json()["properties"]["status"] == "Failure"
    assert "ZeroDivisionError" in failed.json()["properties"]["stderr"]
    shell = await client.post("/executions", params=query(CURRENT[1]), json={"shellCommand": "pwd; exit 7"})
    assert (shell.json()["status"], shell.json()["result"]["stdout"]) == ("7", "/mnt/data\n")
    upload = await client.post("/files", params=query(LATEST), files={"file": ("a.txt", b"content")})
    assert upload.status_code == 200
    read = await client.post("/executions", params=query(LATEST), json=current("open('/mnt/data/a.txt').read()"))
    assert read.json()["result"]["executionResult"] == "content"
    packages = (await client.get("/metadata", params={"api-version": LATEST})).json()["preInstalledPackages"]
    assert "ipython" in {package["name"] for package in packages}
    assert (await client.delete("/session", params=query(LATEST))).status_code == 204


async def test_a_client_that_disconnects_ends_its_execution(client: httpx.AsyncClient) -> None:
    await client.post("/executions", params=query(LATEST), json=current("x = 1"))
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/executions", params=query(LATEST), json=current("while True: pass"), timeout=0.5)
    again = await client.post("/executions", params=query(LATEST), json=current("x"), timeout=60)
    assert again.json()["result"]["executionResult"] == 1


def sandboxes_of(pid: int) -> list[str]:
    """The processes below one, by the kernel."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = dict(line.split() for line in listed.splitlines())
    found = {str(pid)}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {str(pid)})


async def test_stopping_lets_executions_end_and_leaves_nothing(engine: None) -> None:
    async with (
        serving("--shutdown-grace", "60") as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        code = current("import time; time.sleep(1); print('done')")
        running = asyncio.create_task(client.post("/executions", params=query(LATEST), json=code))
        await eventually(lambda: bool(sandboxes_of(server.process.pid)))
        await asyncio.sleep(0.7)
        below = sandboxes_of(server.process.pid)
        ended = asyncio.create_task(server.end(signal.SIGTERM))
        assert (await running).json()["result"]["stdout"] == "done\n"
        _, errors = await ended
        assert server.process.returncode == 0
        assert errors == ""
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


async def test_stopping_ends_executions_that_do_not_finish(engine: None) -> None:
    async with (
        serving("--shutdown-grace", "0.3") as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        running = asyncio.create_task(
            client.post("/executions", params=query(LATEST), json=current("while True: pass"))
        )
        await eventually(lambda: bool(sandboxes_of(server.process.pid)))
        await asyncio.sleep(1)
        below = sandboxes_of(server.process.pid)
        ended = asyncio.create_task(server.end(signal.SIGINT))
        assert (await running).json()["status"] == "Canceled"
        await ended
        assert server.process.returncode == 0
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


async def test_the_access_log_has_neither_code_nor_content_nor_credentials(engine: None, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"laptop sha256:{digest(KEY)}\n")
    async with serving("--host", "0.0.0.0", "--api-key-file", str(keys)) as server:
        assert "Without authentication" not in server.said
        assert "Without TLS" in server.said
        assert "/ui" not in server.said, "the pages are off unless asked for"
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            executed = await client.post("/executions", params=query(LATEST), json=current(CODE))
            assert executed.json()["result"]["stdout"] == "42\n"
            await client.post("/files", params=query(LATEST), files={"file": ("a.txt", b"secret_content")})
            await client.get("/files", params={**query(LATEST), "key": "secret_query"})
            await client.post("/executions", params=query(LATEST), json=current("secret_code(("))
            refused = await client.get("/files", headers={"Authorization": "Bearer secret_token"})
            assert refused.status_code == 401
            await client.get("/files%0A{fake}", params=query(LATEST))
        output, errors = await server.end()
    assert "secret" not in output + errors + server.said
    assert KEY not in output + errors + server.said
    entries = [json.loads(line) for line in output.splitlines()]
    assert len(entries) == 6
    first = entries[0]
    assert first["request_id"] == executed.headers["x-ms-request-id"]
    expected = {"method": "POST", "path": "/executions", "status": 200, "caller": "laptop", "pool": "default",
                "identifier": "session", "api_version": LATEST, "client": "127.0.0.1"}  # fmt: skip
    assert first.items() >= expected.items()
    assert first["duration_ms"] > 0
    assert (entries[4]["status"], entries[4]["error"], "caller" in entries[4]) == (401, "Unauthorized", False)


@pytest.fixture
def unread() -> Iterator[tuple[int, int]]:
    """The ends of a pipe with little room."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


async def test_an_unread_access_log_delays_nothing(engine: None, unread: tuple[int, int]) -> None:
    os.write(unread[1], b"x" * 4096)
    async with serving(stdout=unread[1]) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for _ in range(20):
            assert (await client.get("/healthz")).status_code == 200
        await server.end()
        assert server.process.returncode == 0


def test_lines_without_a_reader_are_dropped_and_counted(unread: tuple[int, int]) -> None:
    reader, writer = unread
    handler = LineHandler(writer)
    for number in range(5000):
        handler.handle(logging.makeLogRecord({"msg": f'{{"number": {number}}}'}))
    content = b""
    numbers: list[int] = []
    dropped = 0
    while len(numbers) + dropped < 5000:  # they can be counted in several lines
        content += os.read(reader, 1 << 16)
        *lines, content = content.split(b"\n")
        for line in map(json.loads, lines):
            dropped += line.get("dropped", 0)
            numbers += [line["number"]] if "number" in line else []
    assert numbers == sorted(set(numbers))
    assert 3000 < dropped < 5000
    handler.close()


async def test_a_key_from_the_environment_is_accepted_and_not_inherited(engine: None) -> None:
    async with serving(GREENROOM_API_KEY=KEY) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert f"Web pages: {server.url}/ui\n" in server.said
        assert (await client.get("/ui")).headers["location"] == "/ui/sign-in"
        signed_in = await client.post("/ui/sign-in", data={"key": KEY})
        assert signed_in.status_code == 303
        assert "Signed in as" in (await client.get("/ui")).text
        code = current("import os; [name for name in os.environ if 'KEY' in name]")
        assert (await client.post("/executions", params=query(LATEST), json=code)).status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        response = await client.post("/executions", params=query(LATEST), json=code, headers=headers)
        assert response.json()["result"]["executionResult"] == "[]"


async def test_its_own_certificate_is_trusted_by_clients_with_its_ca_file(engine: None, tmp_path: Path) -> None:
    options = ["--tls-self-signed", "--tls-directory", str(tmp_path)]
    async with serving(*options) as server:
        authority = tmp_path / "ca.pem"
        assert f"SSL_CERT_FILE={authority}" in server.said
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=authority)
        for host in ("127.0.0.1", "localhost"):
            async with httpx.AsyncClient(
                verify=context, base_url=server.url.replace("127.0.0.1", host), timeout=60
            ) as client:
                response = await client.post("/executions", params=query(LATEST), json=current("1 + 1"))
                assert response.json()["result"]["executionResult"] == 2
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as stranger:
            with pytest.raises(httpx.ConnectError):
                await stranger.get("/healthz")
        old = ssl.create_default_context(cafile=authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with httpx.AsyncClient(verify=old, base_url=server.url, timeout=60) as client:
            assert (await client.get("/healthz")).status_code == 200
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    before = authority.read_bytes()
    given = ["--certfile", str(tmp_path / "server.pem"), "--keyfile", str(tmp_path / "server.key")]
    async with serving(*given) as server, httpx.AsyncClient(verify=context, base_url=server.url, timeout=60) as client:
        assert (await client.get("/readyz")).status_code == 200
    async with serving(*options):
        assert authority.read_bytes() == before  # it is kept
    mismatched = tmp_path / "other"
    mismatched.mkdir()
    (mismatched / "server.pem").write_bytes((tmp_path / "server.pem").read_bytes())
    (mismatched / "server.key").write_text("nonsense")
    refused = run("--certfile", str(mismatched / "server.pem"), "--keyfile", str(mismatched / "server.key"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr


async def test_several_pools_come_from_a_configuration(engine: None, tmp_path: Path) -> None:
    path = tmp_path / "greenroom.toml"
    path.write_text(
        """
        [server]
        strict = true
        [pools.small]
        url = "bubblewrap:"
        memory = "256Mi"
        ready_session_instances = "auto"
        min_ready_session_instances = 0
        max_ready_session_instances = 3
        ready_wait_target = 30.0
        [pools.large]
        url = "bubblewrap:?memory=1Gi"
        ready_session_instances = 0
        """
    )
    where = "/subscriptions/s/resourceGroups/g/sessionPools"
    async with serving("--config", str(path)) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for pool, status in (("small", 200), ("large", 200), ("other", 404)):
            response = await client.post(f"{where}/{pool}/executions", params=query(LATEST), json=current("1"))
            assert response.status_code == status
        found = (await client.get(f"{where}/small/greenroom/1/status")).json()
        assert (found["ready_target"], found["ready_reason"]) == (0, "floor"), "a start is shorter than the wait"
        strictly = await client.post("/executions", params=query(LEGACY[0]), json=current("1"))
        assert strictly.status_code == 400


async def test_connections_that_wait_do_not_take_the_files_of_sandboxes(engine: None) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, limit[1]))  # what the server begins with
    try:
        starting = serving()
        server = await starting.__aenter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(starting)
        port = int(server.url.rpartition(":")[2])
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            response = await client.post("/executions", params=query(LATEST), json=current("6 * 7"))
            assert response.json()["result"]["executionResult"] == 42


async def test_a_port_in_use_is_reported(engine: None) -> None:
    async with serving() as server:
        refused = await asyncio.to_thread(
            run, "--pool", "bubblewrap:?ready_session_instances=0", "--port", server.url.rpartition(":")[2]
        )
    assert refused.returncode == 2
    assert "is the port already in use?" in refused.stderr
