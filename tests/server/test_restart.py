"""Executions in the background outlive the server: real servers that are stopped and killed while executions run."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.test_serve_command import Serving, serving

from greenroom.azure.codecs.shared import ExecuteRequest
from greenroom.errors import SandboxLost
from greenroom.models import Execution
from greenroom.server.outcomes import INTERRUPTED, Outcome, encode_end
from greenroom.server.records import ExecutionRecords, Record
from greenroom.server.state.executions import ExecutionTable
from greenroom.server.state.file import StateFile, StateNotWritten
from greenroom.testing import engine_pool

from .served import LATEST, current, query

ENDLESS = "import time\nwhile True: time.sleep(0.01)"
NATIVE = {"api-version": "greenroom/1"}


@pytest.fixture(scope="module")
def engine() -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()


def client_of(server: Serving) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60)


async def begin(client: httpx.AsyncClient, code: str, identifier: str = "user-1", **headers: str) -> str:
    """Start an execution in the background, and return the id that the server acknowledged."""
    body = current(code, executionType="Asynchronous")
    response = await client.post("/executions", params=query(LATEST, identifier), json=body, headers=headers)
    assert response.status_code == 202, response.text
    return response.headers["operation-id"]


async def poll(client: httpx.AsyncClient, execution: str, identifier: str = "user-1") -> dict[str, Any]:
    response = await client.get(f"/executions/{execution}", params=query(LATEST, identifier))
    assert response.status_code == 200, response.text
    return response.json()


async def ended(client: httpx.AsyncClient, execution: str, identifier: str = "user-1") -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (found := await poll(client, execution, identifier))["status"] == "Running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


@pytest.mark.slow
async def test_a_stopped_server_loses_no_execution(engine: None, tmp_path: Path) -> None:
    options = ("--state", str(tmp_path / "state.db"), "--shutdown-grace", "4")
    async with serving(*options) as server, client_of(server) as client:
        done = await begin(client, "print(6 * 7)")
        before = await ended(client, done)
        failed = await begin(client, "1 / 0")
        await ended(client, failed)
        gone = await begin(client, "1", "user-2", **{"operation-id": "of-a-deleted-session"})
        await ended(client, gone, "user-2")
        await client.delete("/session", params=query(LATEST, "user-2"))
        quick = await begin(client, "import time\nprint('begun')\ntime.sleep(1)\nprint('ended')", "user-3")
        endless = await begin(client, ENDLESS, "user-4")
        _, errors = await server.end(signal.SIGTERM)
        assert (server.process.returncode, "Traceback" in errors) == (0, False)
    async with serving(*options) as server, client_of(server) as client:
        assert await poll(client, done) == before
        assert (await poll(client, failed))["status"] == "Failed"
        response = await client.get(f"/executions/{gone}", params=query(LATEST, "user-2"))
        assert response.status_code == 404
        assert (await poll(client, quick, "user-3"))["result"]["stdout"] == "begun\nended\n"
        stopped = await poll(client, endless, "user-4")
        assert "The server shut down before the execution ended." in json.dumps(stopped), stopped
        again = await client.post(  # as by a client that did not get the first response
            "/executions",
            params=query(LATEST, "user-1"),
            json=current("print(6 * 7)", executionType="Asynchronous"),
            headers={"operation-id": done},
        )
        assert again.status_code == 409
        assert (await ended(client, await begin(client, "print('a new session')")))["status"] == "Succeeded"


@pytest.mark.slow
async def test_a_killed_server_loses_no_execution(engine: None, tmp_path: Path) -> None:
    """Whatever a client was told before the kill holds after it."""
    options = ("--state", str(tmp_path / "state.db"))
    chance = random.Random()
    acknowledged: dict[str, str] = {}
    seen: dict[str, dict[str, Any]] = {}

    async def use(client: httpx.AsyncClient, identifier: str) -> None:
        while True:
            each = await begin(client, f"print({chance.randrange(1000)})", identifier)
            acknowledged[each] = identifier
            seen[each] = await ended(client, each, identifier)

    for _ in range(3):
        async with serving(*options) as server, client_of(server) as client:
            for each, identifier in acknowledged.items():
                found = await poll(client, each, identifier)
                assert found["status"] != "Running"
                assert found == seen.get(each, found)
                seen[each] = found
            assert server.process.stdout is not None
            log = asyncio.create_task(server.process.stdout.read())  # a full pipe would stop the server
            users = [asyncio.create_task(use(client, f"user-{number}")) for number in range(4)]
            await asyncio.sleep(chance.uniform(1.5, 3))
            endless = await begin(client, ENDLESS, "user-x")
            acknowledged[endless] = "user-x"
            server.process.kill()
            ends = await asyncio.gather(*users, return_exceptions=True)
            await log
            assert all(isinstance(end, httpx.TransportError) for end in ends), ends
    async with serving(*options) as server, client_of(server) as client:
        assert len(acknowledged) > 3
        for each, identifier in acknowledged.items():
            found = await poll(client, each, identifier)
            assert found == seen.get(each, found)
        interrupted = await poll(client, endless, "user-x")  # pyright: ignore[reportPossiblyUnboundVariable]
        assert interrupted["status"] == "Failed"
        assert "The server ended while the execution was running" in json.dumps(interrupted)


@pytest.mark.slow
async def test_the_greenroom_client_finds_its_execution(engine: None, tmp_path: Path) -> None:
    options = ("--state", str(tmp_path / "state.db"))
    order = {"background": True, "stream": True}

    async def lines(client: httpx.AsyncClient, execution: str) -> list[dict[str, Any]]:
        path = f"/greenroom/1/executions/{execution}"
        response = await client.get(path, params={"identifier": "user-1", "stream": "true"})
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines() if line]

    async with serving(*options) as server, client_of(server) as client:
        whole = {**order, "id": "whole", "code": "display({'a/b': 'bundle'}, raw=True)\nprint(6 * 7)"}
        await client.post("/greenroom/1/executions", params={"identifier": "user-1"}, json=whole)
        cut = {**order, "id": "cut", "code": f"print('begun', flush=True)\n{ENDLESS}"}
        url, parameters = "/greenroom/1/executions", {"identifier": "user-1"}
        async with client.stream("POST", url, params=parameters, json=cut) as response:
            async for line in response.aiter_lines():
                if "begun" in line:
                    break
            server.process.kill()
            await server.process.wait()
    async with serving(*options) as server, client_of(server) as client:
        found = await lines(client, "whole")
        assert {"type": "part", "of": "outputs", "data": {"a/b": "bundle"}}.items() <= found[-2].items()
        assert found[-1]["execution"]["stdout"] == "42\n"
        assert (await lines(client, "cut"))[-1]["error"] == {"type": "SandboxLost", "message": str(INTERRUPTED)}


# Without a process


def records_in(file: StateFile, pool: str = "p") -> ExecutionRecords:
    return ExecutionRecords(table=ExecutionTable(file, pool))


async def _answer(stdout: str = "42\n") -> Outcome:
    return Outcome(Execution("", "succeeded", stdout=stdout))


async def _begun(records: ExecutionRecords, name: str = "one", *, outlives: bool = True) -> Record:
    record = records.begin("user-1", ExecuteRequest("secret code"), _answer, name, outlives=outlives)
    await record.durable()
    await record.task
    return record


async def test_pools_have_separate_executions_until_they_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    file = await StateFile.open(path)
    for pool in ("p", "q"):
        await _begun(records_in(file, pool), pool)
    await _begun(records_in(file), "not in the background", outlives=False)
    await file.close()
    assert b"secret code" not in path.read_bytes()

    file = await StateFile.open(path)
    p, q = records_in(file, "p"), records_in(file, "q")
    await p.take_over()
    await q.take_over()
    assert [record.id for record in p.of("user-1")] == ["p"]
    await p.clear()
    again = records_in(file, "p")
    await again.take_over()
    assert again.of("user-1") == []
    assert q.find("user-1", "q") is not None
    await file.close()


async def test_an_execution_that_cannot_be_kept_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await StateFile.open(tmp_path / "state.db")

    async def write(_: object) -> None:
        raise StateNotWritten("The disk is full.")

    monkeypatch.setattr(file, "write", write)
    blocked = asyncio.Event()

    async def work() -> Outcome:
        await blocked.wait()
        return await _answer()

    record = records_in(file).begin("user-1", ExecuteRequest("1"), work, outlives=True)
    with pytest.raises(StateNotWritten):
        await record.durable()
    await asyncio.wait([record.task])
    assert record.task.cancelled()
    await file.close()


async def test_an_end_of_another_version_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = await StateFile.open(tmp_path / "state.db")
    table = ExecutionTable(file, "p")
    await table.begin("user-1", "one", b'{"form":"unknown"}\n')
    await table.end("user-1", "one", lambda: encode_end(SandboxLost("It ended.")))
    records = records_in(file)
    await records.take_over()
    assert records.of("user-1") == []
    assert "cannot be read" in caplog.text
    await file.close()
