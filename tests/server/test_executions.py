"""ExecutionRecords among each other: their ends, their ids, and how long they are remembered."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from greenroom.azure.codecs.shared import ExecuteRequest
from greenroom.engines.base import SandboxSpec, StreamSandbox
from greenroom.errors import SandboxLost
from greenroom.models import Execution, ExecutionError, Output
from greenroom.server.outcomes import Outcome
from greenroom.server.records import ExecutionRecords
from greenroom.server.responses import RequestRefused
from greenroom.testing import ENDLESS_CODE, ScriptedBackend
from greenroom.testing.memory_engine import MemoryEngine

from .served import (
    CURRENT,
    LATEST,
    LEGACY,
    application,
    client_of,
    code_of,
    current,
    eventually,
    inline,
    memory_backend,
    query,
    served,
)

ASKED = ExecuteRequest("the code")


async def test_a_session_deleted_under_an_execution_cancels_it() -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        later = asyncio.create_task(client.post("/executions", params=query(LATEST), json=current(ENDLESS_CODE)))
        legacy = asyncio.create_task(client.post("/code/execute", params=query(LEGACY[0]), json=inline(ENDLESS_CODE)))
        body = current(ENDLESS_CODE, executionType="Asynchronous")
        location = (await client.post("/executions", params=query(LATEST), json=body)).headers["operation-location"]
        await eventually(lambda: len(backend.runs) == 3)
        assert (await client.delete("/session", params=query(LATEST))).status_code == 204
        assert (await later).json()["status"] == "Canceled"
        assert (await legacy).json()["properties"]["status"] == "Failure"
        assert (await client.get(location)).status_code == 404  # nothing of it is left
    assert backend.interrupted == ["session"] * 3


async def test_running_executions_can_end_when_the_server_stops_and_no_more_start() -> None:
    async with application() as app, client_of(app) as client:
        code = "import time; time.sleep(0.3); print('done')"
        running = asyncio.create_task(client.post("/executions", params=query(LATEST), json=current(code)))
        body = current(code, executionType="Asynchronous")
        begun = await client.post("/executions", params=query(LATEST, "another"), json=body)
        await eventually(lambda: sum(len(pool.records.running) for pool in app.pools) == 2 or running.done())
        drain = asyncio.create_task(app.drain(60))
        await asyncio.sleep(0.05)
        refused = await client.post("/executions", params=query(LATEST), json=current("1"))
        assert (refused.status_code, code_of(refused)) == (503, "ServiceUnavailable")
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        await drain
        assert (await running).json()["result"]["stdout"] == "done\n"
        ended = await client.get(begun.headers["operation-location"])  # which is still available
        assert ended.json()["result"]["stdout"] == "done\n"


async def test_executions_that_take_too_long_are_cancelled_when_the_server_stops() -> None:
    backend = ScriptedBackend()
    async with application(backend) as app, client_of(app) as client:
        running = asyncio.create_task(client.post("/executions", params=query(LATEST), json=current(ENDLESS_CODE)))
        await eventually(lambda: len(backend.runs) == 1)
        await app.drain(0.05)
        assert (await running).json()["status"] == "Canceled"
    assert backend.interrupted == ["session"]


async def test_a_request_with_a_late_body_starts_nothing_when_the_server_stops() -> None:
    backend = ScriptedBackend()
    arrived = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"code": '
        await arrived.wait()
        yield b'"1"}'

    async with application(backend) as app, client_of(app) as client:
        late = asyncio.create_task(client.post("/executions", params=query(LATEST), content=body()))
        await asyncio.sleep(0.05)
        await app.drain(1)
        arrived.set()
        # The transport reads the whole body first, so the request comes after the drain in either case.
        assert (await late).status_code == 503
    assert backend.runs == []


async def test_an_operation_is_carried_out_once() -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        headers = {"operation-id": "mine-1"}
        first = await client.post("/executions", params=query(LATEST), json=current("1"), headers=headers)
        assert first.headers["operation-id"] == first.json()["id"] == "mine-1"
        again = await client.post("/executions", params=query(LATEST), json=current("1"), headers=headers)
        assert (again.status_code, code_of(again)) == (409, "ExecutionAlreadyExists")
        elsewhere = await client.post(
            "/executions", params=query(LATEST, "another"), json=current("1"), headers=headers
        )
        assert elsewhere.status_code == 200  # ids are a session's own
        headers["operation-id"] = "x" * 129
        bad = await client.post("/executions", params=query(LATEST), json=current("1"), headers=headers)
        assert bad.status_code == 400
    assert backend.identifiers == ["session", "another"]


async def test_an_error_of_the_pool_is_a_response_and_later_a_failed_execution() -> None:
    backend = ScriptedBackend()
    backend.answer = SandboxLost("The sandbox ended.")
    async with served(backend) as client:
        now = await client.post("/executions", params=query(LATEST), json=current("1"))
        assert (now.status_code, code_of(now)) == (410, "SessionLost")
        begun = await client.post("/executions", params=query(LATEST), json=current("1", executionType="Asynchronous"))
        location = begun.headers["operation-location"]
        async with asyncio.timeout(60):
            while (later := await client.get(location)).json()["status"] == "Running":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert later.json()["status"] == "Failed"
        assert later.json()["result"]["stderr"] == "SessionLost: The sandbox ended."


async def test_an_internal_error_returns_nothing_but_an_id(caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptedBackend()
    backend.answer = RuntimeError("a secret")
    async with served(backend) as client:
        response = await client.post("/executions", params=query(LATEST), json=current("1"))
    assert (response.status_code, code_of(response)) == (500, "InternalServerError")
    assert "secret" not in response.text
    assert response.json()["error"]["traceId"] in caplog.text


async def test_executions_of_one_session_run_in_order_and_of_two_in_parallel(tmp_path: Path) -> None:
    async with served() as client:
        code = current("n = globals().get('n', 0)\nimport time; time.sleep(0.1)\nn += 1; n")
        same = await asyncio.gather(*(client.post("/executions", params=query(LATEST), json=code) for _ in range(2)))
        assert sorted(response.json()["result"]["executionResult"] for response in same) == [1, 2]
        meet = (
            "import os, time\nopen({mine!r}, 'w').close()\nend = time.monotonic() + 60\n"
            "while not os.path.exists({other!r}) and time.monotonic() < end: time.sleep(0.01)\n"
            "os.path.exists({other!r})"
        )
        left, right = str(tmp_path / "left"), str(tmp_path / "right")
        codes = {
            name: current(meet.format(mine=m, other=o))
            for name, m, o in (("left", left, right), ("right", right, left))
        }
        two = await asyncio.gather(
            *(client.post("/executions", params=query(LATEST, name), json=code) for name, code in codes.items())
        )
        assert [response.json()["result"]["executionResult"] for response in two] == [True, True]


async def test_a_hundred_concurrent_sessions_each_have_their_own_variables() -> None:
    async with served(await memory_backend(max_concurrent_sessions=100)) as client:

        async def use(number: int) -> int:
            for code in (f"x = {number}", "x"):
                response = await client.post(
                    "/executions", params=query(LATEST, f"session-{number}"), json=current(code)
                )
            return response.json()["result"]["executionResult"]  # pyright: ignore[reportPossiblyUnboundVariable]

        assert await asyncio.gather(*map(use, range(100))) == list(range(100))


async def test_too_many_concurrent_requests_are_refused() -> None:
    backend = ScriptedBackend()
    async with served(backend, max_requests=2) as client:
        posts = [
            asyncio.create_task(client.post("/executions", params=query(LATEST, name), json=current(ENDLESS_CODE)))
            for name in ("left", "right")
        ]
        await eventually(lambda: len(backend.runs) == 2)
        refused = await client.get("/files", params=query(LATEST))
        assert (refused.status_code, code_of(refused), refused.headers["retry-after"]) == (429, "TooManyRequests", "1")
        assert (await client.get("/healthz")).status_code == 200
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        assert (await client.get("/files", params=query(LATEST))).status_code == 200


async def outcome(execution: Execution) -> Outcome:
    return Outcome(execution)


async def test_old_executions_are_forgotten() -> None:
    now = 0.0
    executions = ExecutionRecords(clock=lambda: now)
    record = executions.begin("session", ASKED, lambda: outcome(Execution("", "succeeded")))
    await record.task
    now = 3599
    assert executions.find("session", record.id) is record
    now = 3601
    assert executions.find("session", record.id) is None


async def test_the_executions_kept_are_limited_in_number_and_bytes() -> None:
    executions = ExecutionRecords()
    large = Execution("", "succeeded", stdout="x" * (10 << 20))
    records = [executions.begin("session", ASKED, lambda: outcome(large)) for _ in range(8)]
    await asyncio.gather(*(record.task for record in records))
    await asyncio.sleep(0)
    assert [executions.find("session", record.id) is not None for record in records] == [False] * 2 + [True] * 6
    records.clear()
    for _ in range(16):
        records += [executions.begin("other", ASKED, lambda: outcome(Execution("", "succeeded"))) for _ in range(100)]
        await asyncio.gather(*(record.task for record in records))
    await asyncio.sleep(0)
    assert sum(executions.find("other", record.id) is not None for record in records) == 1000


async def test_an_execution_keeps_only_what_a_response_has() -> None:
    data = {"image/png": "iVBOR", "application/json": [1] * 1000, "text/html": "<b>", "text/plain": "x"}
    execution = Execution("", "succeeded", outputs=(Output(data), Output({"application/json": [1]})))
    executions = ExecutionRecords()
    record = executions.begin("session", ASKED, lambda: outcome(execution))
    await record.task
    kept = record.outcome()
    assert kept is not None
    assert kept.execution.outputs == (Output({"image/png": "iVBOR"}),)
    assert record.request.code == ""


async def test_the_number_of_running_executions_is_limited() -> None:
    executions = ExecutionRecords()

    async def forever() -> Outcome:
        return await asyncio.Future()

    for number in range(500):
        executions.begin(f"session-{number % 5}", ASKED, forever)
    with pytest.raises(RequestRefused, match="Too many"):
        executions.begin("session", ASKED, forever)
    for number in range(5):
        executions.cancel(f"session-{number}")
    assert executions.running == []


async def test_one_session_does_not_crowd_out_the_others() -> None:
    executions = ExecutionRecords()

    async def forever() -> Outcome:
        return await asyncio.Future()

    for _ in range(100):
        executions.begin("greedy", ASKED, forever)
    with pytest.raises(RequestRefused, match="Too many"):
        executions.begin("greedy", ASKED, forever)
    executions.begin("session", ASKED, forever)
    for identifier in ("greedy", "session"):
        executions.cancel(identifier)


# Shell commands


def shell(command: str, **fields: Any) -> dict[str, Any]:
    return {"shellCommand": command, **fields}


async def test_a_shell_command_answers_with_its_exit_code_as_the_status() -> None:
    async with served() as client:  # whose sandboxes have this machine's own shell
        response = await client.post(
            "/executions", params=query(CURRENT[1]), json=shell("echo out; echo err >&2; exit 3")
        )
        assert response.status_code == 200
        body = response.json()
        assert isinstance(body["result"].pop("executionTimeInMilliseconds"), int)
        assert body.pop("id")
        assert body == {
            "identifier": "session",
            "status": "3",
            "result": {"stdout": "out\n", "stderr": "err\n"},
        }


async def test_each_stream_of_a_shell_command_is_cut_and_its_time_is_limited() -> None:
    async with served() as client:
        long = await client.post("/executions", params=query(LATEST), json=shell("yes é | head -c 100000"))
        assert len(long.json()["result"]["stdout"].encode()) in {4095, 4096}
        late = await client.post(
            "/executions", params=query(LATEST), json=shell("echo begun; sleep 60", timeoutInSeconds=3)
        )
        assert late.json()["status"] == "-1"
        assert late.json()["result"]["stdout"] == "begun\n"


async def test_a_command_has_standard_input_and_can_be_a_list_of_arguments() -> None:
    async with served() as client:

        async def run(**body: Any) -> tuple[str, str]:
            answer = (await client.post("/executions", params=query(LATEST), json=body)).json()
            return answer["status"], answer["result"]["stdout"]

        assert await run(shellCommand="cat; exit 4", stdin="words ü") == ("4", "words ü")
        assert await run(execCommandAndArgs=["printf", "%s|", "$HOME", "a b"]) == ("0", "$HOME|a b|")
        assert await run(execCommandAndArgs=["wc", "-c"], stdin="12345") == ("0", "5\n")
        assert (await run(shellCommand="yes | head -c 5000", outputStreamsMaxLength=4500))[1] == "y\n" * 2250
        assert (await run(execCommandAndArgs=["no-such-program"]))[0] in {"126", "127"}


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({"shellCommand": "ls", "execCommandAndArgs": ["ls"]}, "execCommandAndArgs"),
        ({"execCommandAndArgs": "ls"}, "execCommandAndArgs"),
        ({"execCommandAndArgs": []}, "execCommandAndArgs"),
        ({"execCommandAndArgs": ["ls", 5]}, "execCommandAndArgs"),
        ({"execCommandAndArgs": ["ls", "a\0b"]}, "execCommandAndArgs"),
        ({"execCommandAndArgs": [""]}, "execCommandAndArgs"),
        ({"shellCommand": "  "}, "shellCommand"),
        ({"shellCommand": "a\0b"}, "shellCommand"),
        ({"shellCommand": "cat", "stdin": 5}, "stdin"),
    ],
    ids=str,
)
async def test_a_command_that_breaks_a_rule_is_refused(body: dict[str, Any], target: str) -> None:
    async with served() as client:
        response = await client.post("/executions", params=query(LATEST), json=body)
        assert response.status_code == 400
        assert response.json()["error"]["target"] == target


async def test_a_strict_server_has_lists_and_standard_input_in_the_latest_version_only() -> None:
    async with served(strict=True) as client:
        for body in (current("1", execCommandAndArgs=["true"]), shell("cat", stdin="x")):
            earlier = await client.post("/executions", params=query(CURRENT[1]), json=body)
            assert (earlier.status_code, code_of(earlier)) == (400, "SessionRequestNotSupported")
            assert (await client.post("/executions", params=query(LATEST), json=body)).status_code == 200


async def test_the_legacy_contract_has_no_shell() -> None:
    async with served() as client:
        response = await client.post("/code/execute", params=query(LEGACY[0]), json={"properties": shell("ls")})
        assert (response.status_code, code_of(response)) == (400, "SessionRequestNotSupported")


# Results of hostile sandboxes

ANSWER = "application/vnd.greenroom.answer+json"


@pytest.mark.parametrize(
    "data",
    [
        {"exit_code": "zero", "stdout": 1, "stderr": None, "duration": "long"},
        {"exit_code": 10**4000, "stdout": "\ud800", "stderr": "x" * 100_000, "duration": float("nan")},
        {"exit_code": True, "duration": -1},
        {},
        [],
        "text",
    ],
)
async def test_any_result_of_a_command_becomes_a_response(data: Any) -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", outputs=(Output({ANSWER: data}),))
    async with served(backend) as client:
        response = await client.post("/executions", params=query(LATEST), json=shell("ls"))
    assert response.status_code == 200
    assert isinstance(response.json()["status"], str)


@pytest.mark.parametrize("data", [{}, {"packages": [1], "python": 3}, {"packages": {"a": {"b": 1}}}, {"packages": "x"}])
async def test_any_package_list_becomes_a_response(data: Any) -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", outputs=(Output({ANSWER: data}),))
    async with served(backend) as client:
        response = await client.get("/metadata", params={"api-version": LATEST})
        assert response.status_code in {200, 503}
        assert backend.deleted  # its session


async def test_failed_metadata_are_determined_again() -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        failed = await client.get("/metadata", params={"api-version": LATEST})
        assert (failed.status_code, code_of(failed)) == (503, "ServiceUnavailable")
        backend.answer = Execution("1", "succeeded", outputs=(Output({ANSWER: {"python": "3.12", "packages": {}}}),))
        assert (await client.get("/metadata", params={"api-version": LATEST})).status_code == 200


HOSTILE = [
    Execution("1", "succeeded", stdout="\ud800", stderr="\udfff\0", result="\ud800"),
    Execution("1", "succeeded", result="'\\ud800'"),
    Execution("1", "succeeded", result="9" * 5000),
    Execution("1", "succeeded", result="1e999"),
    Execution("1", "succeeded", result="'\\x'"),
    Execution("1", "succeeded", result="(" * 10_000),
    Execution("1", "succeeded", outputs=(Output({"image/png": 5}), Output({"image/png": {"a": []}}))),
    Execution("1", "succeeded", outputs=(Output({"image/png": "no base64 \ud800"}),)),
    Execution("1", "failed", error=ExecutionError("\ud800", "\0" * 100, "\x1b[31m")),
]


@pytest.mark.parametrize("execution", HOSTILE)
async def test_any_result_of_code_becomes_a_response(execution: Execution) -> None:
    backend = ScriptedBackend()
    backend.answer = execution
    async with served(backend) as client:
        legacy = await client.post("/code/execute", params=query(LEGACY[0]), json=inline("1"))
        later = await client.post("/executions", params=query(LATEST), json=current("1"))
    assert (legacy.status_code, later.status_code) == (200, 200)
    assert legacy.json()["properties"]["stdout"] == execution.stdout
    assert later.json()["result"]["stdout"] == execution.stdout


class DyingEngine(MemoryEngine):
    """Its sandboxes end while code runs."""

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        sandbox = await super().start(spec)
        asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(sandbox.kill()))
        return sandbox


async def test_a_sandbox_that_ends_while_its_code_runs_is_reported() -> None:
    async with served(await memory_backend(DyingEngine())) as client:
        body = current("import time; time.sleep(5)")
        response = await client.post("/executions", params=query(LATEST), json=body)
    assert (response.status_code, code_of(response)) == (410, "SessionLost")


async def test_sandbox_images_are_passed_on_as_text() -> None:
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    code = f"class P:\n def _repr_mimebundle_(self): return {{'image/png': {picture!r}}}\nP()"
    async with served() as client:
        response = await client.post("/executions", params=query(LATEST), json=current(code))
    expected = {"type": "image", "format": "png", "base64_data": picture}
    assert response.json()["result"]["executionResult"] == expected


@pytest.mark.filterwarnings("ignore::greenroom.local.AzureRangeWarning")
@pytest.mark.parametrize("version", [LEGACY[0], LATEST])
async def test_a_restarted_session_is_reported_in_a_header(version: str) -> None:
    path, body = ("/code/execute", inline) if version in LEGACY else ("/executions", current)
    for period in (0.2, 2, 20):
        backend = await memory_backend(cooldown_period=period)
        async with served(backend) as client:

            async def told(client: httpx.AsyncClient = client) -> str | None:
                response = await client.post(path, params=query(version), json=body("1"))
                return response.headers.get("x-greenroom-session-restarted")

            began = time.monotonic()
            assert await told() is None
            second = await told()
            if second is not None and time.monotonic() - began >= period:
                continue  # the machine paused for the whole period, so the session did cool down
            assert second is None
            async with asyncio.timeout(60):
                while await backend.sessions():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert await told() == "cooled_down"
            return
    pytest.fail("the machine pauses for longer than any period")
