"""`greenroom logs` and the route behind it: filters, rights, following, and what `kill -9` leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.control.memory_engine_plugin import install
from tests.custom.scripted import ScriptedContainers, answer, scripted_pool
from tests.effort import examples
from tests.server.served import LATEST, client_of, current, memory_backend, query
from typer.testing import CliRunner

from greenroom.backend import Backend
from greenroom.cli import logs as command
from greenroom.cli.app import app
from greenroom.server.access.keys import ApiKeys, ManagementGuard, digest
from greenroom.server.app import Application, Management
from greenroom.server.control.choices import Engines
from greenroom.server.control.plane import ControlPlane
from greenroom.server.registry import PoolRegistry
from greenroom.server.settings import ServerSettings
from greenroom.server.state.file import IN_MEMORY, StateFile
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.server.state.pools import PoolTable
from greenroom.telemetry import (
    AllocationRefusal,
    AllocationRefused,
    ConsoleWritten,
    EngineLost,
    ExecutionEnded,
    SessionAllocated,
)
from greenroom.telemetry.records import LogOperation, LogTable
from greenroom.wire.logs import Page, decode_page
from greenroom.wire.values import WireError

LOGS = "/greenroom/1/logs"
KEYS = {name: ApiKeys({name: digest(f"a-key-for-{name}")}) for name in ("sessions", "management", "metrics")}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer a-key-for-{name}"}


@contextlib.asynccontextmanager
async def served_with_logs(
    *, keys: bool = False, backend: Backend | None = None
) -> AsyncGenerator[tuple[httpx.AsyncClient, LogStore]]:
    """A client of a server in this process, and its logs."""
    store, registry = LogStore(IN_MEMORY, LogLimits()), PoolRegistry()
    registry.add("p", backend or await memory_backend())
    plane = await ControlPlane.open(registry, PoolTable(await StateFile.open(IN_MEMORY)), Engines())
    guard = KEYS["sessions"] if keys else None
    application = Application(
        registry,
        ServerSettings.parse({}),
        guard,
        metrics_guard=KEYS["metrics"] if keys else None,
        management=Management(plane, ManagementGuard(KEYS["management"], KEYS["sessions"]) if keys else None),
        log_store=store,
    )
    try:
        async with client_of(application) as client:
            yield client, store
    finally:
        await plane.close()
        await registry.close()
        await store.close()


async def test_a_page_has_azures_columns_and_the_next_one_starts_after_it() -> None:
    async with served_with_logs() as (client, store):
        observe = store.observer_of("ci")
        for number in range(5):
            observe(SessionAllocated(f"session-{number}", 0.5, warm=True))
        first = (await client.get(LOGS, params={"limit": "3"})).json()
        second = (await client.get(LOGS, params={"limit": "3", "after": str(first["last"])})).json()
        third = (await client.get(LOGS, params={"after": str(second["last"])})).json()
    assert [each["complete"] for each in (first, second, third)] == [False, True, True]
    records = first["records"] + second["records"]
    assert [each["Identifier"] for each in records] == [f"session-{number}" for number in range(5)]
    assert third == {"records": [], "last": second["last"], "complete": True}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", records[0].pop("TimeGenerated"))
    assert records[0] == {
        "Type": "AppEnvSessionLifecycleLogs",
        "SessionPoolName": "ci",
        "OperationName": "SessionAllocated",
        "Level": "Information",
        "Location": "local",
        "Log": "The session got a ready sandbox.",
        "Identifier": "session-0",
        "DurationSeconds": 0.5,
    }


@pytest.mark.parametrize("path", [LOGS, f"{LOGS}/", "/greenroom/1/%6cogs", "/greenroom%2F1/logs", f"/{LOGS}"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_only_the_key_that_manages_reads_them(path: str, method: str) -> None:
    async with served_with_logs(keys=True) as (client, store):
        store.observer_of("ci")(SessionAllocated("session-0", 0.5, warm=True))
        answers = {name: await client.request(method, path, headers=bearer(name)) for name in KEYS}
        nobody = await client.request(method, path)
    assert nobody.status_code == 401
    assert answers["metrics"].status_code == 401
    assert answers["sessions"].status_code in {400, 403, 404}
    assert "session-0" not in answers["sessions"].text
    if path == LOGS:
        assert (answers["management"].status_code, answers["sessions"].status_code) == (200, 403)


async def test_a_container_at_the_root_of_the_server_does_not_hide_them() -> None:
    backend = await scripted_pool(ScriptedContainers(answer))
    async with served_with_logs(keys=True, backend=backend) as (client, _):
        for name, status in (("sessions", 403), ("management", 400)):
            response = await client.get(LOGS, params={"identifier": "user-0001"}, headers=bearer(name))
            assert response.status_code == status
        assert (await client.get("/other", params={"identifier": "user-0001"}, headers=bearer("sessions"))).is_success


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"level": "loud"}, "The parameter level must be one of Information, Warning, Error, not 'loud'."),
        ({"operation": "SessionEnded,x"}, "The parameter operation must be one of "),
        ({"since": "yesterday"}, "The parameter since must be a time such as "),
        ({"since": "9999-12-31T23:59:59-23:59"}, "The parameter since must be a time such as "),
        ({"limit": "0"}, "The parameter limit must be a number from 1 to 1000, not '0'."),
        ({"after": "-1"}, "The parameter after must be a number from 0 to "),
        ({"after": "9" * 5000}, "The parameter after must be a number from 0 to "),
        ({"console": "perhaps"}, "The parameter console must be one of false, true, not 'perhaps'."),
        ({"identifier": "x"}, "The parameters must be among after, console, "),
    ],
)
async def test_parameters_that_are_wrong_are_named(parameters: dict[str, str], message: str) -> None:
    async with served_with_logs() as (client, _):
        refused = await client.get(LOGS, params=parameters)
        assert refused.status_code == 400 or parameters["since"].startswith("9999"), refused.text
        assert message in refused.text or refused.status_code == 200


async def test_dropped_records_are_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served_with_logs() as (client, store):
        with monkeypatch.context() as patch:
            patch.setattr(store._writer, "_limit", 3)  # pyright: ignore[reportPrivateUsage]
            for _ in range(10):
                store.observer_of("ci")(EngineLost())
        records = (await client.get(LOGS)).json()["records"]
        async with asyncio.timeout(60):
            while "greenroom_log_dropped_total" not in (text := (await client.get("/metrics")).text):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert f"greenroom_log_dropped_total {float(store.dropped)}" in text
    assert len([each for each in records if each["OperationName"] == "EngineLost"]) == 10 - store.dropped < 10


async def test_an_unreadable_log_has_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_query: object) -> Page:
        raise sqlite3.OperationalError("disk I/O error")

    async with served_with_logs() as (client, store):
        monkeypatch.setattr(store, "records", broken)
        refused = await client.get(LOGS)
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "The log cannot be read: disk I/O error.")


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"records": [1], "last": 1, "complete": True}, {"records": [], "last": "1", "complete": True}],
)
def test_an_invalid_page_is_refused(body: object) -> None:
    with pytest.raises(WireError):
        decode_page(body)


HOSTILE = st.text(max_size=50) | st.sampled_from(
    ["a\nb\rc", "\x1b]0;title\x07", "\x1b[2J", "[red]x[/red]", "<script>", "\u202eabc", "a\u2028b", "\x9b31m"]
)


@given(
    record=st.dictionaries(
        st.sampled_from(["TimeGenerated", "Level", "SessionPoolName", "Identifier", "Log", "Reason"]), HOSTILE
    )
)
@settings(max_examples=examples(200))
def test_text_for_a_terminal_is_one_line(record: dict[str, str]) -> None:
    assert all(cell.isprintable() for cell in command._row(record))  # pyright: ignore[reportPrivateUsage]


# The command, with a server in a process of its own


@contextlib.asynccontextmanager
async def serving(state: Path, plugins: Path) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    arguments = ["serve", "--pool", "memory:?ready_session_instances=0", "--state", str(state), "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "greenroom", *arguments,
        env={**os.environ, "PYTHONPATH": str(plugins)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            found = re.search(r" at (http://\S+)\n", (await process.stderr.readline()).decode())
        assert found is not None
        yield process, found[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def run(url: str, *arguments: str) -> str:
    environment = {"GREENROOM_SERVER": url, "GREENROOM_MANAGEMENT_KEY": "", "COLUMNS": "200"}
    result = CliRunner().invoke(app, ["logs", *arguments], env=environment)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


async def records_of(url: str, *arguments: str) -> list[dict[str, Any]]:
    text = await asyncio.to_thread(run, url, "--output", "json", *arguments)
    return json.loads(text) if text else []


async def execute(url: str, code: str, identifier: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        response = await client.post("/executions", params=query(LATEST, identifier), json=current(code))
        assert response.is_success


@pytest.mark.slow
async def test_the_command_filters_follows_and_finds_what_a_killed_server_wrote(tmp_path: Path) -> None:
    plugins, state = install(tmp_path / "plugins"), tmp_path / "state.db"
    async with serving(state, plugins) as (process, url):
        await execute(url, "1 / 0", "user-0001")
        await execute(url, "print('the secret')", "user-0002")
        before = await records_of(url)
        assert [each["OperationName"] for each in before if each.get("Identifier") == "user-0001"] == [
            "SessionAllocated", "ExecutionEnded",
        ]  # fmt: skip
        assert await records_of(url, "--identifier", "user-0002", "--operation", "ExecutionEnded", "SessionEnded") == [
            each
            for each in before
            if each.get("Identifier") == "user-0002" and each["OperationName"] == "ExecutionEnded"
        ]
        assert await records_of(url, "--pool", "Default") == before
        assert await records_of(url, "--pool", "another") == []
        assert await records_of(url, "--level", "error") == []
        assert await records_of(url, "--since", "2999-01-01") == []
        assert await records_of(url, "--until", "2001-01-01T10:00") == []
        assert await records_of(url, "--console") == []
        table = await asyncio.to_thread(run, url, "--since", "30m")
        assert len(table.splitlines()) == len(before) + 1
        assert "secret" not in table + json.dumps(before)

        following = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "greenroom", "logs", "--follow", "--output", "json", "--server", url,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert following.stdout is not None
        async with asyncio.timeout(60):
            shown = [json.loads(await following.stdout.readline()) for _ in before]
            assert shown == before
            await execute(url, "1", "user-0003")
            later = [json.loads(await following.stdout.readline()) for _ in range(3)]
        assert [each["OperationName"] for each in later] == ["SandboxStarted", "SessionAllocated", "ExecutionEnded"]
        following.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            await following.communicate()
        assert following.returncode == 130

        process.kill()
        await process.wait()
    async with serving(state, plugins) as (process, url):
        assert (await records_of(url))[: len(before) + 3] == before + later
        process.terminate()
        async with asyncio.timeout(60):
            await process.communicate()
    with contextlib.closing(sqlite3.connect(state)) as database:
        assert database.execute("SELECT count(*) FROM usage").fetchone() == (0,), "no session ended before the kill"


@pytest.mark.slow
async def test_an_unwritable_log_does_not_affect_executions(tmp_path: Path) -> None:
    plugins, state = install(tmp_path / "plugins"), tmp_path / "state.db"
    async with serving(state, plugins) as (_, url):
        await execute(url, "1", "user-0001")
        before = await records_of(url)
        with contextlib.closing(sqlite3.connect(state, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(5):
                await execute(url, "1", f"user-1{number:03}")
            assert await records_of(url) == before
            other.execute("ROLLBACK")
        async with asyncio.timeout(60):
            while len(found := await records_of(url, "--operation", "ExecutionEnded")) < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert [each["Identifier"] for each in found] == ["user-0001", *(f"user-1{number:03}" for number in range(5))]


@pytest.mark.slow
async def test_the_commands_of_the_page_print_the_output_shown_below_them(tmp_path: Path) -> None:
    plugins, page = install(tmp_path / "plugins"), (Path(__file__).parents[2] / "docs/logs.md").read_text()
    program = tmp_path / "bin" / "greenroom"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m greenroom "$@"\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENROOM_")}
    async with serving(tmp_path / "state.db", plugins) as (_, url):
        environment = {**kept, "PATH": f"{program.parent}:{os.environ['PATH']}", "GREENROOM_SERVER": url}
        page += "```console\n$ set -o pipefail; greenroom logs --follow | head -n 1\n…SandboxStarted…\n```"
        for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                shell, _, expected = part.partition("\n")
                process = await asyncio.create_subprocess_exec(
                    "bash", "-c", shell, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )  # fmt: skip
                async with asyncio.timeout(100):
                    output, errors = await process.communicate()
                assert (process.returncode, errors) == (0, b""), (shell, errors)
                printed = "".join(f"{line.rstrip()}\n" for line in output.decode().splitlines())
                assert re.fullmatch(re.escape(expected).replace("…", ".*"), printed), (shell, printed)


def test_the_page_has_every_option_operation_and_no_unknown_one() -> None:
    page = (Path(__file__).parents[2] / "docs/logs.md").read_text()
    group = typer.main.get_group(app)
    options = {option for parameter in group.commands["logs"].params for option in parameter.opts}
    known = options | {"--state", "--engine", "--code"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page)) <= known
    shown = {option for option in options if option.startswith("--")} - {"--name", "--subscription"}
    assert {option for option in shown if option not in page} == set()
    assert {each.value for each in (*LogOperation, *LogTable) if f"`{each.value}`" not in page} == set()


@pytest.mark.slow
async def test_sessions_that_end_with_the_server_are_kept(tmp_path: Path) -> None:
    plugins, state = install(tmp_path / "plugins"), tmp_path / "state.db"
    async with serving(state, plugins) as (process, url):
        await execute(url, "1", "user-0001")
        process.terminate()
        async with asyncio.timeout(60):
            await process.communicate()
    async with serving(state, plugins) as (_, url):
        (ended,) = await records_of(url, "--operation", "SessionEnded")
    assert (ended["Identifier"], ended["Reason"]) == ("user-0001", "pool_closed")
    with contextlib.closing(sqlite3.connect(state)) as database:
        assert database.execute("SELECT identifier, cause, executions FROM usage").fetchall() == [
            ("user-0001", "pool_closed", 1)
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "soon"], "--since must be a time such as 2026-11-27T14:03 or a duration"),
        (["--until", "1y"], "--until must be a time such as 2026-11-27T14:03 or a duration"),
        (["--since", "9999999999999999999d"], "--since must be a time"),
        (["--since", "999999999w"], "--since must be a time"),
        (["--pool", "a b", "--resource-group", "team"], "The name of a session pool must consist of"),
        (["--subscription", "11111111-2222-3333-4444-555555555555"], "The server must be a greenroom serve."),
    ],
)
def test_arguments_that_are_wrong_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["logs", *arguments])
    assert result.exit_code != 0
    assert message in str(result.exception)


async def test_the_console_is_a_separate_log() -> None:
    async with served_with_logs() as (client, store):
        observe = store.observer_of("ci")
        observe(ConsoleWritten("session-1", "stderr", "a \x1b[31mred\x1b[0m line"))
        observe(AllocationRefused("session-2", AllocationRefusal.POOL_FULL, 1.0))
        observe(ExecutionEnded("session-1", "succeeded", 1.0))
        usual = (await client.get(LOGS)).json()["records"]
        console = (await client.get(LOGS, params={"console": "true"})).json()["records"]
    assert {each["OperationName"] for each in usual} == {"SessionRefused", "ExecutionEnded"}
    assert [(each["Type"], each["Identifier"], each["Status"], each["Log"]) for each in console] == [
        ("AppEnvSessionConsoleLogs", "session-1", "stderr", "a \x1b[31mred\x1b[0m line")
    ]
