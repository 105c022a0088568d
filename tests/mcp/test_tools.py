"""What the tools return, and whose the sessions are, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest
from tests.server.served import application, client_of, eventually, memory_backend, served

from greenroom.errors import EngineUnavailable, PoolFull, SandboxLost
from greenroom.models import ContainerType, Execution, Output
from greenroom.server.access.keys import ApiKeys, digest
from greenroom.testing import ENDLESS_CODE, ScriptedBackend

from .wire import WITH_HANDSHAKE, call, events_of, post, request, stateless

KEYS = {name: f"{name}-key-0123456789" for name in ("ann", "bob")}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and more").decode()


@pytest.fixture
async def memory() -> AsyncIterator[httpx.AsyncClient]:
    async with served(await memory_backend()) as client:
        yield client


async def result_of(client: httpx.AsyncClient, message: Any, **headers: str) -> Any:
    response = await post(client, message, **headers)
    assert response.status_code == 200, response.text
    return response.json()["result"]


async def definitions(client: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    return {tool["name"]: tool for tool in (await result_of(client, stateless("tools/list"), **headers))["tools"]}


def key(name: str) -> str:
    return f"Bearer {KEYS[name]}"


def guard() -> ApiKeys:
    return ApiKeys({name: digest(value) for name, value in KEYS.items()})


AZURES = {
    ContainerType.PYTHON_LTS: [
        "launchShell",
        "launchPythonEnvironment",
        "runPythonCodeInRemoteEnvironment",
        "runShellCommandInRemoteEnvironment",
    ],
    ContainerType.NODE_LTS: ["launchShell", "runShellCommandInRemoteEnvironment"],
    ContainerType.SHELL: ["launchShell", "runShellCommandInRemoteEnvironment"],
}
RUN = {
    ContainerType.PYTHON_LTS: ["run_python", "run_shell"],
    ContainerType.NODE_LTS: ["run_javascript", "run_shell"],
    ContainerType.SHELL: ["run_shell"],
}


@pytest.mark.parametrize("container_type", AZURES)
async def test_the_tools_follow_the_container_type(container_type: ContainerType) -> None:
    async with served(ScriptedBackend(container_type)) as client:
        tools = await definitions(client)
        assert [name for name in tools if "_" not in name] == AZURES[container_type]
        assert [name for name in tools if name.startswith("run_")] == RUN[container_type]
        for tool in tools.values():
            jsonschema.Draft202012Validator.check_schema(tool["inputSchema"])
            jsonschema.Draft202012Validator.check_schema(tool["outputSchema"])
        assert tools["read_file"]["annotations"]["readOnlyHint"] is True
        assert tools["end_session"]["annotations"]["destructiveHint"] is True
        assert tools["run_shell"]["annotations"]["openWorldHint"] is True


async def test_azures_tutorial_works_as_its_commands_have_it(memory: httpx.AsyncClient) -> None:
    """They are sent by curl: no version, no Accept but `*/*`, ids that are text, and no params for `initialize`."""

    async def curl(body: dict[str, Any]) -> Any:
        answer = await memory.post("/mcp", json={"jsonrpc": "2.0", **body}, headers={"x-ms-apikey": "any"})
        assert answer.status_code == 200
        return answer.json()["result"]

    begun = await curl({"id": "1", "method": "initialize"})
    assert begun["protocolVersion"] == "2025-03-26"
    assert begun["capabilities"]["tools"] == {"call": True, "list": True}
    for launch in ("launchShell", "launchPythonEnvironment"):
        launched = await curl({"id": "2", "method": "tools/call", "params": {"name": launch, "arguments": {}}})
        environment = launched["structuredContent"]["environmentId"]
        run = {"environmentId": environment, "pythonCode": "print('Hello'); 6 * 7"}
        params = {"name": "runPythonCodeInRemoteEnvironment", "arguments": run}
        ran = (await curl({"id": "3", "method": "tools/call", "params": params}))["structuredContent"]
        assert (ran["environmentId"], ran["stdout"], ran["result"]) == (environment, "Hello\n", "42")
        command = {"environmentId": environment, "shellCommand": "echo Hello from a shell; exit 3"}
        params = {"name": "runShellCommandInRemoteEnvironment", "arguments": command}
        ran = (await curl({"id": "4", "method": "tools/call", "params": params}))["structuredContent"]
        assert (ran["stdout"], ran["exitCode"]) == ("Hello from a shell\n", 3)


async def test_state_files_and_their_end(memory: httpx.AsyncClient) -> None:
    tools = await definitions(memory)

    async def run(name: str, **arguments: Any) -> Any:
        result = await result_of(memory, call(name, **arguments))
        if not result["isError"] or "structuredContent" in result:
            jsonschema.validate(result["structuredContent"], tools[name]["outputSchema"])
        return result

    first = await run("run_python", code="```python\nx = 20\n```")
    session = first["structuredContent"]["session_id"]
    assert first["content"][0]["text"].startswith(f"New session_id: {session}\n")
    second = await run("run_python", code="x + 1", session_id=session)
    assert second["structuredContent"]["result"] == "21"
    assert session not in second["content"][0]["text"]
    written = await run("write_file", path="ä/b.bin", content="AAEC/w==", encoding="base64", session_id=session)
    assert written["structuredContent"]["file"]["size"] == 4
    (file,) = (await run("list_files", session_id=session))["structuredContent"]["files"]
    (content,) = (await result_of(memory, stateless("resources/read", uri=file["uri"])))["contents"]
    assert base64.b64decode(content["blob"]) == b"\x00\x01\x02\xff"
    refused = await run("read_file", path="ä/b.bin", session_id=session)
    assert refused["isError"]
    assert "not a UTF-8 text file" in refused["content"][0]["text"]
    await run("write_file", path="c.txt", content="text", session_id=session)
    assert (await run("read_file", path="c.txt", session_id=session))["structuredContent"]["text"] == "text"
    assert not (await run("delete_file", path="c.txt", session_id=session))["isError"]
    assert (await run("delete_file", path="c.txt", session_id=session))["isError"]
    assert not (await run("reset_session", session_id=session))["isError"]
    assert "There are no files" in (await run("list_files", session_id=session))["content"][0]["text"]
    assert (await run("run_python", code="x", session_id=session))["structuredContent"]["error"]["name"] == "NameError"
    assert not (await run("end_session", session_id=session))["isError"]
    gone = await run("run_python", code="1", session_id=session)
    assert gone["isError"]
    assert "has not ended" in gone["content"][0]["text"]


async def test_figures_are_images_and_texts_keep_their_budget() -> None:
    backend = ScriptedBackend()
    figure = Output({"image/png": PNG})
    backend.answer = Execution("1", "succeeded", stdout="x" * 100_000, outputs=(figure,))
    async with served(backend) as client:
        result = await result_of(client, call("run_python", code="plot()"))
        text, image = result["content"]
        assert len(text["text"]) <= 8000
        assert image == {"type": "image", "data": PNG, "mimeType": "image/png"}
        assert len(json.dumps(result["structuredContent"])) < 20_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "'code'"),
        ({"code": 1}, "string"),
        ({"code": ""}, "empty"),
        ({"code": "1", "timeout": -1}, "positive"),
        ({"code": "1", "timeout": "1"}, "number"),
        ({"code": "1", "timeout": True}, "number"),
        ({"code": "1", "other": 1}, "other"),
        ({"code": "1", "session_id": "another"}, "session_id"),
        ({"code": "\ud800"}, "UTF-8"),
    ],
)
async def test_a_wrong_argument_is_a_result_that_names_it(arguments: dict[str, Any], words: str) -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        result = await result_of(client, call("run_python", **arguments))
        assert result["isError"]
        assert words in result["content"][0]["text"]
    assert not backend.runs


@pytest.mark.parametrize(
    "error", [PoolFull("The pool is full.", sessions=1), EngineUnavailable("No engine."), SandboxLost("It is gone.")]
)
async def test_an_error_of_the_pool_is_a_result_and_leaves_no_session(error: Exception) -> None:
    backend = ScriptedBackend()
    backend.answer = error
    async with served(backend) as client:
        result = await result_of(client, call("run_python", code="1"))
        assert result["isError"]
        assert str(error) in result["content"][0]["text"]
    assert backend.deleted == backend.identifiers


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
async def test_a_server_failure_reveals_no_details(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptedBackend()
    backend.answer = kind("a secret of the server")
    async with served(backend) as client:
        response = await post(client, call("run_python", code="1"))
        assert (response.status_code, response.json()["error"]["code"]) == (200, -32603)
        assert "secret" not in response.text
    assert "failed" in caplog.text


# Whose the sessions are


async def test_a_caller_finds_its_own_sessions_and_no_others() -> None:
    async with served(await memory_backend(), guard=guard()) as client:
        made = await result_of(client, call("run_python", code="x = 1"), authorization=key("ann"))
        session = made["structuredContent"]["session_id"]
        (own,) = (await result_of(client, call("list_sessions"), authorization=key("ann")))["structuredContent"][
            "sessions"
        ]
        assert own["session_id"] == session
        others = await result_of(client, call("list_sessions"), authorization=key("bob"))
        assert others["structuredContent"]["sessions"] == []
        for name, arguments in {
            "run_python": {"code": "x"},
            "list_files": {},
            "reset_session": {},
            "end_session": {},
        }.items():
            refused = await result_of(client, call(name, session_id=session, **arguments), authorization=key("bob"))
            assert refused["isError"]
        uri = f"greenroom://sessions/{session}/files/a.txt"
        await result_of(
            client, call("write_file", path="a.txt", content="a", session_id=session), authorization=key("ann")
        )
        assert len((await result_of(client, stateless("resources/list"), authorization=key("ann")))["resources"]) == 1
        assert (await result_of(client, stateless("resources/list"), authorization=key("bob")))["resources"] == []
        read = await post(client, stateless("resources/read", uri=uri), authorization=key("bob"))
        assert read.json()["error"]["code"] == -32602
        # The data plane's list has another name for it.
        listed = await client.get(
            "/listSessions", params={"api-version": "2025-10-02-preview"}, headers={"authorization": key("ann")}
        )
        (entry,) = listed.json()["sessions"]
        assert session not in listed.text
        refused = await result_of(
            client, call("run_python", code="x", session_id=entry["identifier"]), authorization=key("ann")
        )
        assert refused["isError"]


async def test_without_authentication_nothing_is_listed(memory: httpx.AsyncClient) -> None:
    made = await result_of(memory, call("run_python", code="open('/mnt/data/a', 'w').close()"))
    assert "list_sessions" not in await definitions(memory)
    assert (await post(memory, call("list_sessions"))).json()["error"]["code"] == -32602
    assert (await result_of(memory, stateless("resources/list")))["resources"] == []
    assert len((await result_of(memory, stateless("resources/templates/list")))["resourceTemplates"]) == 1
    session = made["structuredContent"]["session_id"]  # who has the handle can use it
    assert not (await result_of(memory, call("list_files", session_id=session)))["isError"]


@pytest.mark.filterwarnings("ignore::greenroom.AzureRangeWarning")
async def test_a_handle_ends_with_its_session() -> None:
    backend = await memory_backend(cooldown_period=0.3)
    async with served(backend) as client:
        made = await result_of(client, call("run_python", code="x = 1"))
        session = made["structuredContent"]["session_id"]

        async with asyncio.timeout(60):
            while await backend.sessions():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await result_of(client, call("run_python", code="1", session_id=session)))["isError"]
        assert not await backend.sessions()


async def test_a_pools_key_opens_its_mcp_endpoint_and_nothing_else() -> None:
    pools = {"one": ScriptedBackend(), "two": ScriptedBackend()}
    path = "/subscriptions/s/resourceGroups/g/sessionPools"
    async with application(pools, guard=guard()) as app, client_of(app) as client:
        one = app.pools.get("one")
        assert one is not None
        mine = {"x-ms-apikey": one.mcp_key}
        message = stateless("tools/list")
        assert (await post(client, message, f"{path}/one/mcp", x_ms_apikey=one.mcp_key)).status_code == 200
        assert (await post(client, message, f"{path}/two/mcp", x_ms_apikey=one.mcp_key)).status_code == 401
        assert (await post(client, message, x_ms_apikey=KEYS["ann"])).status_code == 200
        assert (await post(client, message, x_ms_apikey="another")).status_code == 401
        assert (await post(client, message)).status_code == 401
        for other in (f"{path}/one/listSessions", f"{path}/one/files/mcp", f"{path}/one%2Fmcp", "/files/mcp", "/mcp/x"):
            assert (await client.get(other, headers=mine, params={"identifier": "test"})).status_code == 401, other
        refused = await post(client, message, x_ms_apikey=KEYS["ann"], origin="https://example.com")
        assert refused.status_code == 403
        allowed = await post(client, message, x_ms_apikey=KEYS["ann"], origin="http://localhost:3000")
        assert allowed.status_code == 200


async def test_web_pages_cannot_use_a_server_without_authentication(memory: httpx.AsyncClient) -> None:
    message = stateless("tools/list")
    assert (await post(memory, message, origin="http://localhost")).status_code == 403
    assert (await post(memory, message, host="rebound.example.com")).status_code == 403


async def test_custom_containers_have_no_tools() -> None:
    async with served(ScriptedBackend(ContainerType.CUSTOM_CONTAINER)) as client:
        for message in (stateless("server/discover"), request("initialize"), stateless("tools/list")):
            response = await post(client, message)
            assert response.status_code == 400
            assert "CustomContainer" in response.json()["error"]["message"]


# Cancellation


async def test_a_client_that_leaves_ends_its_code_and_its_new_session() -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        running = asyncio.create_task(post(client, call("run_python", code=ENDLESS_CODE)))
        await eventually(lambda: len(backend.runs) == 1)
        running.cancel()
        await eventually(lambda: len(backend.interrupted) == 1)
        await eventually(lambda: backend.deleted == backend.identifiers)


@pytest.mark.parametrize("version", WITH_HANDSHAKE)
async def test_a_client_with_a_handshake_cancels_by_its_own_ids(version: str) -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        begun = await post(client, request("initialize", protocolVersion=version))
        peer = {"mcp_session_id": begun.headers["mcp-session-id"], "mcp_protocol_version": version}
        params = {"name": "run_python", "arguments": {"code": ENDLESS_CODE}}
        running = asyncio.create_task(post(client, request("tools/call", 7, **params), **peer))
        await eventually(lambda: len(backend.runs) == 1)
        again = await post(client, request("tools/call", 7, **params), **peer)
        assert again.json()["error"]["code"] == -32600  # the id is in use
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        assert (await post(client, cancelled)).status_code == 202  # of another client
        assert not running.done()
        assert (await post(client, cancelled, **peer)).status_code == 202
        assert "cancelled" in events_of(await running)[-1]["error"]["message"]
        assert len(backend.interrupted) == 1
        assert (await client.delete("/mcp", headers={"mcp-session-id": peer["mcp_session_id"]})).status_code == 204


async def test_progress_and_log_messages_come_in_the_stream() -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="one\ntwo\n")
    async with served(backend) as client:
        meta = {"progressToken": "p", "io.modelcontextprotocol/logLevel": "info"}
        response = await post(client, call("run_python", meta=meta, code="1"))
        assert response.headers["content-type"] == "text/event-stream"
        *notes, answer = events_of(response)
        assert answer["result"]["isError"] is False
        by_method = {note["method"]: note["params"] for note in notes}
        assert by_method["notifications/message"]["data"] == "one\ntwo\n"
        assert by_method["notifications/progress"] | {"progress": 0} == {
            "progressToken": "p",
            "progress": 0,
            "message": "two",
        }
        quiet = await post(client, call("run_python", meta={"io.modelcontextprotocol/logLevel": "error"}, code="1"))
        assert quiet.headers["content-type"] == "application/json"
        alone = await post(client, call("run_python", meta=meta, code="1"), accept="application/json")
        assert alone.headers["content-type"] == "application/json"


async def test_a_session_deleted_under_its_code_ends_the_call_and_the_handle() -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        made = await result_of(client, call("run_python", code="1"))
        session = made["structuredContent"]["session_id"]
        running = asyncio.create_task(post(client, call("run_python", code=ENDLESS_CODE, session_id=session)))
        await eventually(lambda: len(backend.runs) == 2)
        query = {"identifier": backend.runs[0].identifier, "api-version": "2025-10-02-preview"}
        assert (await client.delete("/session", params=query)).status_code == 204
        result = (await running).json()["result"]
        assert result["isError"]
        assert "deleted" in result["content"][0]["text"]
        assert (await result_of(client, call("run_python", code="1", session_id=session)))["isError"]


async def test_a_server_that_stops_ends_its_code() -> None:
    backend = ScriptedBackend()
    async with application(backend) as app, client_of(app) as client:
        running = asyncio.create_task(post(client, call("run_python", code=ENDLESS_CODE)))
        await eventually(lambda: len(backend.runs) == 1)
        await app.drain(0.05)
        assert (await running).json()["result"]["isError"]
        assert (await post(client, stateless("tools/list"))).status_code == 503


async def test_files_that_are_read_at_the_same_time_fit_into_memory() -> None:
    async with application(max_in_flight=8 << 20, max_body=4 << 20) as app, client_of(app) as client:
        made = await result_of(
            client, call("run_python", code="with open('/mnt/data/a', 'wb') as f: f.write(b'x' * 1_000_000)")
        )
        uri = made["structuredContent"]["files"][0]["uri"]
        batch = [request("resources/read", number, uri=uri) for number in range(10)]
        answers = (await post(client, batch)).json()
        assert {answer.get("error", {}).get("code") for answer in answers} == {None, 429}
        assert app.budget.used == 0
        (content,) = (await result_of(client, stateless("resources/read", uri=uri)))["contents"]
        assert len(content["text"]) == 1_000_000
