"""Every route of both contracts: statuses, bodies and headers."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from greenroom.connecting import open_backend
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType, Execution, ExecutionError, Output, PoolStatus
from greenroom.testing import ScriptedBackend
from greenroom.testing.engines import skipping_without

from .served import CURRENT, LATEST, LEGACY, POOL, code_of, current, inline, memory_backend, query, served

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMINGS = {
    "x-ms-allocation-retries",
    "x-ms-allocation-time",
    "x-ms-container-execution-duration",
    "x-ms-execution-read-response-time",
    "x-ms-execution-request-time",
    "x-ms-overall-execution-time",
    "x-ms-preparation-time",
    "x-ms-session-guid",
    "x-ms-total-execution-service-time",
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n...").decode()


class LostBackend(ScriptedBackend):
    """Its engine has gone."""

    async def status(self) -> PoolStatus:
        raise EngineUnavailable("The engine has gone.")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with served() as client:
        yield client


@pytest.fixture
async def strict() -> AsyncIterator[httpx.AsyncClient]:
    async with served(strict=True) as client:
        yield client


async def put(client: httpx.AsyncClient, name: str, content: bytes, **more: str) -> None:
    response = await client.post("/files", params=query(LATEST, **more), files={"file": (name, content)})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize("prefix", ["", POOL, f"{POOL}/identifier/session", "/identifier/session"])
async def test_the_legacy_contract_executes(client: httpx.AsyncClient, version: str, prefix: str) -> None:
    params = {"api-version": version} if "identifier" in prefix else query(version)
    response = await client.post(f"{prefix}/code/execute", params=params, json=inline("print('hi')\n2+2"))
    assert response.status_code == 200
    body = response.json()
    assert isinstance(body["properties"].pop("executionTimeInMilliseconds"), int)
    properties = {"$id": "2", "status": "Success", "stdout": "hi\n", "stderr": "", "result": 4}
    assert body == {"$id": "1", "properties": properties}
    assert response.headers.keys() >= TIMINGS
    assert "operation-location" not in response.headers  # there is no way to ask for it again


@pytest.mark.parametrize(("version", "status"), list(zip(CURRENT, [202, 200, 200], strict=True)))
async def test_the_current_contract_executes_and_remembers(
    client: httpx.AsyncClient, version: str, status: int
) -> None:
    response = await client.post(f"{POOL}/executions", params=query(version), json=current("print('hi')\n2+2"))
    assert response.status_code == status
    body = response.json()
    assert isinstance(body["result"].pop("executionTimeInMilliseconds"), int)
    assert body.pop("id") == response.headers["operation-id"]
    numbered = {"$id": "1"} if version == CURRENT[0] else {}
    assert body == {
        **numbered,
        "identifier": "session",
        "executionType": "Synchronous",
        "status": "Succeeded",
        "result": {**({"$id": "2"} if numbered else {}), "stdout": "hi\n", "stderr": "", "executionResult": 4},
    }
    assert response.headers.keys() >= TIMINGS
    again = await client.get(POOL + response.headers["operation-location"])
    assert again.status_code == 200
    assert again.json() == response.json()


async def test_every_response_names_the_versions_and_is_not_cached(client: httpx.AsyncClient) -> None:
    for response in [
        await client.get("/files", params=query(LATEST)),
        await client.get("/files", params=query("2023-01-01")),
        await client.get("/nothing"),
    ]:
        assert response.headers["api-supported-versions"] == ", ".join((*LEGACY, *CURRENT))
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert GUID.fullmatch(response.headers["x-ms-request-id"])


@pytest.mark.parametrize(
    ("execution", "result", "stderr"),
    [
        (Execution("1", "succeeded", outputs=(Output({"image/png": PNG}),)), "image", ""),
        (Execution("1", "succeeded", result="[1,\n 2]"), "[1,\n 2]", ""),
        (Execution("1", "succeeded", result="'text'"), "text", ""),
        (Execution("1", "failed", error=ExecutionError("NameError", "x", "Traceback\nNameError: x")), "", "NameError"),
        (Execution("1", "timed_out", error=ExecutionError("TimeoutError", "")), "", "Request timed out waiting"),
        (Execution("1", "failed", error=ExecutionError("MemoryError", "")), "", "Execution aborted"),
    ],
)
async def test_both_contracts_return_the_outcome_of_code(execution: Execution, result: Any, stderr: str) -> None:
    if result == "image":
        result = {"type": "image", "format": "png", "base64_data": PNG}
    backend = ScriptedBackend()
    backend.answer = execution
    async with served(backend) as client:
        legacy = await client.post("/code/execute", params=query(LEGACY[0]), json=inline("code"))
        later = await client.post("/executions", params=query(LATEST), json=current("code"))
    assert (legacy.status_code, later.status_code) == (200, 200)  # also where it failed
    properties, body = legacy.json()["properties"], later.json()
    assert properties["status"] == ("Success" if execution.succeeded else "Failure")
    assert body["status"] == ("Succeeded" if execution.succeeded else "Failed")
    assert properties["result"] == body["result"]["executionResult"] == result
    assert properties["stderr"] == body["result"]["stderr"]
    assert stderr in properties["stderr"]


async def test_fields_are_read_in_any_case_and_from_base64(client: httpx.AsyncClient) -> None:
    fields = {"codeInputType": "inlineBASE64", "executionType": "synchronous", "identifier": "another"}
    encoded = {**fields, "code": base64.b64encode(b"'caf\xc3\xa9'").decode()}
    response = await client.post("/executions", params=query(LATEST), json=encoded)
    assert response.json()["result"]["executionResult"] == "café"
    assert response.json()["identifier"] == "session"


async def test_the_time_limit_is_that_of_the_request() -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        for body in (inline("1"), inline("1", timeoutInSeconds=100), inline("1", timeoutInSeconds=1800)):
            assert (await client.post("/code/execute", params=query(LEGACY[0]), json=body)).status_code == 200
        late = await client.post("/code/execute", params=query(LEGACY[0]), json=inline("1", timeoutInSeconds=1801))
        assert (late.status_code, code_of(late)) == (400, "SessionRequestValidationFailed")
    assert backend.timeouts == [None, 100, 1800]
    async with served(ScriptedBackend(), strict=True) as client:
        late = await client.post("/code/execute", params=query(LEGACY[0]), json=inline("1", timeoutInSeconds=221))
        assert late.json()["error"]["target"] == "timeoutInSeconds"


async def test_streams_are_as_long_as_the_newest_version_asks_for() -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="x" * 5000, result="'y'")
    body = current("code", outputStreamsMaxLength=10, returnJupyterFormatExecutionResult=True)
    async with served(backend) as client:
        cut = await client.post("/executions", params=query(LATEST), json=body)
        whole = await client.post("/executions", params=query(LATEST), json=current("code"))
    async with served(backend, strict=True) as client:
        default = await client.post("/executions", params=query(LATEST), json=current("code"))
        unknown = await client.post("/executions", params=query(CURRENT[1]), json=body)
    assert cut.json()["result"]["executionResult"] == "'y'"
    lengths = [len(response.json()["result"]["stdout"]) for response in (cut, whole, default, unknown)]
    assert lengths == [10, 5000, 4096, 5000]


async def test_an_asynchronous_execution_is_polled_until_it_ends(client: httpx.AsyncClient) -> None:
    body = current("import time; time.sleep(0.2); print('done')", executionType="Asynchronous")
    response = await client.post("/executions", params=query(LATEST), json=body)
    assert response.status_code == 202
    begun = response.json()
    assert begun == {
        "id": response.headers["operation-id"],
        "identifier": "session",
        "executionType": "Asynchronous",
        "status": "Running",
    }
    location = response.headers["operation-location"]
    assert location == f"/executions/{begun['id']}?api-version={LATEST}&identifier=session"
    async with asyncio.timeout(60):
        while (ended := (await client.get(location)).json())["status"] == "Running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert ended["status"] == "Succeeded"
    assert ended["result"]["stdout"] == "done\n"
    elsewhere = await client.get(location.replace("identifier=session", "identifier=another"))
    assert (elsewhere.status_code, code_of(elsewhere)) == (404, "ExecutionNotFound")


async def test_the_legacy_contract_answers_an_asynchronous_execution_at_its_end(client: httpx.AsyncClient) -> None:
    body = inline("print('done')", executionType="asynchronous")
    response = await client.post("/code/execute", params=query(LEGACY[0]), json=body)
    assert (response.status_code, response.json()["properties"]["stdout"]) == (200, "done\n")


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize("filename", ["data.csv", "/mnt/data/data.csv"])
async def test_the_legacy_contract_keeps_files(client: httpx.AsyncClient, version: str, filename: str) -> None:
    upload = await client.post("/files/upload", params=query(version), files={"file": (filename, b"a,b\n")})
    assert upload.status_code == 200
    body = upload.json()
    assert TIME.fullmatch(body["value"][0]["properties"].pop("lastModifiedTime"))
    properties = {"$id": "3", "filename": "data.csv", "size": 4}
    assert body == {"$id": "1", "value": [{"$id": "2", "properties": properties}]}
    listed = (await client.get("/files", params=query(version))).json()
    assert listed["value"][0]["properties"]["filename"] == "data.csv"
    content = await client.get("/files/content/data.csv", params=query(version))
    assert (content.status_code, content.content) == (200, b"a,b\n")
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["content-length"] == "4"
    one = await client.get("/files/data.csv", params=query(version))
    assert one.json()["properties"]["size"] == 4
    assert (await client.delete("/files/data.csv", params=query(version))).status_code == 204
    gone = await client.get("/files/content/data.csv", params=query(version))
    assert (gone.status_code, code_of(gone)) == (404, "FileNotFound")


@pytest.mark.parametrize("version", CURRENT)
async def test_the_current_contract_keeps_files_in_directories(client: httpx.AsyncClient, version: str) -> None:
    there = query(version, path="sub/dir")
    upload = await client.post("/files", params=there, files={"file": ("data.csv", b"a,b\n")})
    assert upload.status_code == 200
    metadata = (await client.get("/files/data.csv", params=there)).json()
    assert TIME.fullmatch(metadata["lastModifiedAt"])
    described = {"name": "data.csv", "type": "file", "contentType": "text/csv; charset=utf-8", "sizeInBytes": 4}
    assert metadata.items() >= described.items()
    if version == CURRENT[0]:
        described |= {"type": "", "contentType": ""}  # as Azure answers an upload
    assert upload.json().items() >= described.items()
    (entry,) = (await client.get("/files", params=there)).json()["value"]
    assert entry["name"] == "data.csv"
    assert entry.get("directory") == ("" if version == LATEST else None)
    (parent,) = (await client.get("/files", params=query(version, path=""))).json()["value"]
    assert (parent["name"], parent["type"]) == ("sub", "directory")
    assert (await client.get("/files/data.csv/content", params=there)).content == b"a,b\n"
    assert (await client.get("/files/data.csv/content", params=query(version))).status_code == 404
    assert (await client.delete("/files/data.csv", params=there)).status_code == 204
    assert (await client.get("/files", params=there)).json()["value"] == []


async def test_the_newest_version_lists_all_that_is_below(client: httpx.AsyncClient) -> None:
    await put(client, "a.txt", b"1")
    await put(client, "b.txt", b"2", path="sub")
    listed = await client.get("/files", params=query(LATEST, recursive="true"))
    entries = {(entry["directory"], entry["name"]) for entry in listed.json()["value"]}
    assert entries == {("", "a.txt"), ("", "sub"), ("sub", "b.txt")}


@pytest.mark.parametrize("name", ["mit Leerzeichen.txt", "größe 数据.csv", "100%.txt", "a&b=c;d.txt", "+plus.txt"])
async def test_any_file_name_round_trips(client: httpx.AsyncClient, name: str) -> None:
    await put(client, name, b"x")
    (entry,) = (await client.get("/files", params=query(LATEST))).json()["value"]
    assert entry["name"] == name
    content = await client.get(f"/files/{quote(name, safe='')}/content", params=query(LATEST))
    assert content.content == b"x"


@pytest.mark.parametrize("name", ["a\nb.txt", "content", "a\n", "content\n"])
async def test_a_file_is_found_by_the_name_that_a_list_has(client: httpx.AsyncClient, name: str) -> None:
    code = f"with open({name!r}, 'w') as file:\n    _ = file.write('x')"
    assert (await client.post("/executions", params=query(LATEST), json=current(code))).json()["status"] == "Succeeded"
    (entry,) = (await client.get("/files", params=query(LATEST))).json()["value"]
    assert entry["name"] == name
    there = f"/files/{quote(name, safe='')}"
    assert (await client.get(there, params=query(LATEST))).json()["name"] == name
    assert (await client.get(f"{there}/content", params=query(LATEST))).content == b"x"
    assert (await client.delete(there, params=query(LATEST))).status_code == 204
    assert (await client.get("/files", params=query(LATEST))).json()["value"] == []


async def test_a_slash_in_a_name_is_not_the_end_of_it(client: httpx.AsyncClient) -> None:
    await put(client, "content", b"below", path="a")
    await put(client, "content", b"above")
    for undeclared in ("/files/a/content", "/files/content/content", "/files/content/a"):
        refused = await client.delete(undeclared, params=query(LATEST))
        assert (refused.status_code, code_of(refused)) == (400, "SessionRequestNotSupported")
    assert (await client.get("/files/content/content", params=query(LATEST))).content == b"above"
    assert (await client.get("/files/a%2Fcontent", params=query(LATEST))).json()["name"] == "content"
    assert (await client.get("/files/a%2Fcontent/content", params=query(LATEST))).content == b"below"
    assert (await client.delete("/files/a%2Fcontent", params=query(LATEST))).status_code == 204
    assert (await client.get("/files", params=query(LATEST, path="a"))).json()["value"] == []


async def test_sessions_are_read_listed_and_deleted(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/session", params=query(LATEST))
    assert (unknown.status_code, code_of(unknown)) == (404, "NoSessionFoundError")
    await client.post("/executions", params=query(LATEST), json=current("x = 1"))
    session = (await client.get("/session", params=query(LATEST))).json()
    assert session["identifier"] == "session"
    for field in ("expireAt", "createdAt", "lastAccessedAt"):
        assert TIME.fullmatch(session[field])
    assert datetime.fromisoformat(session["expireAt"]) > datetime.now(UTC)
    listed = (await client.get("/listSessions", params={"api-version": LATEST})).json()
    assert [entry["identifier"] for entry in listed["sessions"]] == ["session"]
    assert "nextLink" not in listed
    for _ in range(2):  # also where there is none
        deleted = await client.delete("/session", params=query(LATEST))
        assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.get("/listSessions", params={"api-version": LATEST})).json()["sessions"] == []
    fresh = await client.post("/executions", params=query(LATEST), json=current("'x' in globals()"))
    assert fresh.json()["result"]["executionResult"] is False


async def test_a_session_can_be_stopped_with_the_operation_of_custom_pools(client: httpx.AsyncClient) -> None:
    await client.post("/executions", params=query(LATEST), json=current("x = 1"))
    stopped = await client.post("/.management/stopSession", params=query(CURRENT[1]))
    assert (stopped.status_code, stopped.text) == (200, "Session session in session pool p stopped.")
    assert (await client.get("/session", params=query(LATEST))).status_code == 404


async def test_a_long_list_of_sessions_comes_in_pages() -> None:
    async with served(await memory_backend(max_concurrent_sessions=200)) as client:
        for number in range(101):
            await client.get("/files", params=query(LATEST, f"session-{number}"))
        first = (await client.get("/listSessions", params={"api-version": LATEST})).json()
        assert len(first["sessions"]) == 100
        second = (await client.get(first["nextLink"])).json()
        assert (len(second["sessions"]), "nextLink" in second) == (1, False)


async def test_a_page_links_to_the_next_by_the_url_that_clients_use() -> None:
    backend = await memory_backend(max_concurrent_sessions=200)
    async with served(backend, public_url="https://sessions.example.com:444") as client:
        for number in range(101):
            await client.get("/files", params=query(LATEST, f"session-{number}"))
        listed = (await client.get("/listSessions", params={"api-version": LATEST})).json()
        assert listed["nextLink"] == f"https://sessions.example.com:444/listSessions?api-version={LATEST}&skip=100"


async def test_the_metadata_describe_the_runtime(client: httpx.AsyncClient) -> None:
    first, second = await asyncio.gather(*(client.get("/metadata", params={"api-version": LATEST}) for _ in range(2)))
    body = first.json()
    assert body == second.json()  # asked of one sandbox
    assert body["runtimes"][0]["name"] == "python"
    assert {"pydantic", "starlette"} <= {package["name"] for package in body["preInstalledPackages"]}
    assert body["jupyterKernel"].keys() == {"name", "version", "projectUrl", "description"}
    assert TIME.fullmatch(body["createdAt"])
    assert (await client.get("/listSessions", params={"api-version": LATEST})).json()["sessions"] == []


@pytest.mark.parametrize(
    ("container_type", "runtime", "least", "kernel"), [("NodeLTS", "node", 22, "Node.js"), ("Shell", "bash", 4, "bash")]
)
async def test_the_metadata_of_a_pool_of_another_type_are_its_own(
    container_type: str, runtime: str, least: int, kernel: str
) -> None:
    with skipping_without("bubblewrap:"):
        backend = await open_backend("bubblewrap:", container_type=ContainerType(container_type))
    async with served(backend) as client:
        body = (await client.get("/metadata", params={"api-version": LATEST})).json()
    assert body["runtimes"][0]["name"] == runtime
    assert int(body["runtimes"][0]["version"].split(".")[0]) >= least
    assert body["jupyterKernel"]["name"] == kernel


async def test_an_unknown_version_is_refused_with_the_known_ones(client: httpx.AsyncClient) -> None:
    response = await client.get("/files", params=query("2023-08-01-preview"))
    assert (response.status_code, code_of(response)) == (400, "SessionRequestValidationFailed")
    assert response.json()["error"]["target"] == "api-version"
    assert LATEST in response.json()["error"]["message"]
    assert response.json()["error"]["traceId"] == response.headers["x-ms-request-id"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("PUT", "/files"), ("GET", "/code/execute"), ("POST", f"{POOL}/x/files")]
)
async def test_an_unknown_operation_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path, params=query(LATEST))
    assert (response.status_code, code_of(response)) == (400, "SessionRequestNotSupported")


@pytest.mark.parametrize("identifier", ["abc", "x" * 129, ""])
async def test_the_length_of_an_identifier_is_azures(client: httpx.AsyncClient, identifier: str) -> None:
    response = await client.post("/executions", params=query(LATEST, identifier), json=current("1"))
    assert response.status_code == 400
    expected = "InvalidLengthOfSessionIdentifier" if identifier else "SessionRequestValidationFailed"
    assert code_of(response) == expected


@pytest.mark.parametrize("identifier", ["with space", "tab\there", "umlaut-ä", "null\0byte"])
async def test_an_identifier_has_only_azures_characters(client: httpx.AsyncClient, identifier: str) -> None:
    response = await client.post("/executions", params=query(LATEST, identifier), json=current("1"))
    assert response.status_code == 400


async def test_similar_identifiers_are_different_sessions(client: httpx.AsyncClient) -> None:
    for identifier in ("a+b/c&d=e", "a-b/c&d=e", "A+b/c&d=e", "a%2Bb/c&d=e"):
        response = await client.post(
            "/executions",
            params=query(LATEST, identifier),
            json=current("'x' in globals(), globals().setdefault('x', 1)"),
        )
        assert response.json()["identifier"] == identifier
        assert response.json()["result"]["executionResult"] == "(False, 1)"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/identifier/victim%2Fcode/execute"),
        ("GET", "/identifier/victim%2ffiles/files"),
        ("DELETE", "/identifier/victim%2Ffiles/session"),
        ("DELETE", f"{POOL}%2Fidentifier%2Fvictim/session"),
    ],
)
async def test_an_identifier_with_a_slash_in_the_path_is_not_taken_for_a_shorter_one(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    await client.post("/executions", params=query(LATEST, "victim"), json=current("secret = 42"))
    response = await client.request(method, path, json=current("secret"))
    assert (response.status_code, response.json()["error"]["target"]) == (400, "identifier")
    assert (await client.get("/session", params=query(LATEST, "victim"))).status_code == 200


async def test_a_repeated_query_parameter_is_refused(client: httpx.AsyncClient) -> None:
    twice = await client.get(f"/files?api-version={LATEST}&identifier=mine&identifier=theirs")
    both = await client.get("/identifier/mine/files", params=query(LATEST, "theirs"))
    assert (twice.status_code, both.status_code) == (400, 400)
    assert twice.json()["error"]["target"] == both.json()["error"]["target"] == "identifier"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"code": 1}'])
async def test_a_body_of_another_form_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    for path, version in (("/executions", LATEST), ("/code/execute", LEGACY[0])):
        response = await client.post(path, params=query(version), content=content)
        assert response.status_code == 400
        assert code_of(response) in {"SessionRequestValidationFailed", "SessionPropertiesMissing"}


@pytest.mark.parametrize("name", ["..%2Fetc%2Fpasswd", "%2Fetc%2F..%2F..%2Fpasswd", "a%00b", "x" * 5000])
async def test_a_path_out_of_the_session_is_refused(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/files/{name}/content", params=query(LATEST))
    assert (response.status_code, code_of(response)) == (400, "FilePathInvalid")
    elsewhere = await client.get("/files", params=query(LATEST, path="../.."))
    assert (elsewhere.status_code, code_of(elsewhere)) == (400, "FilePathInvalid")


async def test_a_full_pool_responds_as_azure_does() -> None:
    async with served(await memory_backend(max_concurrent_sessions=1, acquire_timeout=0)) as client:
        await client.post("/executions", params=query(LATEST, "first"), json=current("1"))
        response = await client.post("/executions", params=query(LATEST, "second"), json=current("1"))
    assert (response.status_code, code_of(response)) == (429, "SessionsCountExceedsLimit")
    assert response.json().keys() == {"code", "message"}  # not wrapped
    assert int(response.headers["retry-after"]) > 0


async def test_a_lenient_server_accepts_bodies_and_versions_of_both_contracts(client: httpx.AsyncClient) -> None:
    for path, version, body, wrapped in [
        ("/executions", LATEST, inline("1"), False),
        ("/code/execute", LEGACY[0], current("1"), True),
        ("/code/execute", LATEST, inline("1"), True),
        ("/executions", LEGACY[0], current("1"), False),
        ("/execute", LATEST, current("1"), False),
        ("/execute", LEGACY[1], inline("1"), True),
        ("/executions/", LATEST, current("1"), False),
    ]:
        response = await client.post(path, params=query(version), json=body)
        assert response.status_code == 200, (path, version)
        assert ("properties" in response.json()) == wrapped
    without = await client.post("/executions", params={"identifier": "session"}, json=current("1"))
    assert without.status_code == 200


async def test_a_strict_server_accepts_only_the_contracts_own_bodies_and_versions(strict: httpx.AsyncClient) -> None:
    for method, path, params, body, code in [
        ("POST", "/executions", query(LATEST), inline("1"), "SessionPropertiesMissing"),
        ("POST", "/code/execute", query(LEGACY[0]), current("1"), "SessionPropertiesMissing"),
        ("POST", "/code/execute", query(LATEST), inline("1"), "SessionRequestNotSupported"),
        ("POST", "/executions", query(LEGACY[0]), current("1"), "SessionRequestNotSupported"),
        ("POST", "/executions", {"identifier": "session"}, current("1"), "SessionRequestValidationFailed"),
        ("POST", "/executions", query(CURRENT[0]), {"shellCommand": "ls"}, "SessionRequestNotSupported"),
        ("GET", "/session", query(CURRENT[0]), None, "SessionRequestNotSupported"),
        ("GET", "/metadata", query(CURRENT[0]), None, "SessionRequestNotSupported"),
        ("GET", "/files", query(CURRENT[1], recursive="true"), None, "SessionRequestNotSupported"),
        ("GET", "/files", query(CURRENT[1], path="a.b"), None, "FilePathInvalid"),
    ]:
        response = await strict.request(method, path, params=params, json=body)
        assert (response.status_code, code_of(response)) == (400, code), (method, path)
    for path, version, body in [("/executions", LATEST, current("1")), ("/code/execute", LEGACY[0], inline("1"))]:
        assert (await strict.post(path, params=query(version), json=body)).status_code == 200


@pytest.mark.parametrize(
    ("version", "body", "target"),
    [
        (CURRENT[0], {"code": "1", "codeInputType": "Inline"}, "executionType"),
        (CURRENT[1], {"code": "1"}, "codeInputType"),
        (CURRENT[1], current("1", timeoutInSeconds=1.5), "timeoutInSeconds"),
        (CURRENT[1], {"shellCommand": "true", "code": False}, "code"),
        (LATEST, current("1", executionType="Asynchronous", timeoutInSeconds=2**63 - 1), "timeoutInSeconds"),
        (LATEST, current("1", executionType="Asynchronous", timeoutInSeconds=2**31), "timeoutInSeconds"),
        (LATEST, current("1", timeoutInSeconds=None), "timeoutInSeconds"),
        (LATEST, current("1", useEmptyKernel="yes"), "useEmptyKernel"),
        (LATEST, current("1", useEmptyKernel=1), "useEmptyKernel"),
        (LATEST, current("1", stdin=5), "stdin"),
        (LATEST, current("1", outputStreamsMaxLength=2**31), "outputStreamsMaxLength"),
        (LATEST, {"shellCommand": "true", "code": False}, "code"),
        (LATEST, {"shellCommand": "true", "execCommandAndArgs": ["true"]}, "execCommandAndArgs"),
        (LATEST, current("1", execCommandAndArgs="true"), "execCommandAndArgs"),
        (LATEST, {"code": "1", "shellCommand": ["true"]}, "shellCommand"),
    ],
)
async def test_on_a_strict_server_fields_have_their_declared_types(
    strict: httpx.AsyncClient, version: str, body: dict[str, Any], target: str
) -> None:
    response = await strict.post("/executions", params=query(version), json=body)
    assert response.status_code == 400
    assert response.json()["error"]["target"] == target


async def test_on_a_strict_server_other_fields_can_have_any_value(strict: httpx.AsyncClient) -> None:
    for version, status in zip(CURRENT, [202, 200, 200], strict=True):
        body = current("1", another=[5], timeoutInSeconds=60.0)
        body |= {} if version == LATEST else {"useEmptyKernel": "yes", "stdin": 5}
        assert (await strict.post("/executions", params=query(version), json=body)).status_code == status


async def test_on_a_strict_server_a_name_is_one_path_segment(strict: httpx.AsyncClient) -> None:
    await put(strict, "content", b"x", path="a")
    for path in ("/files/a/content/content", "/files/a/b", "/files/content/content/content", "/executions/a/b"):
        response = await strict.get(path, params=query(LATEST))
        assert (response.status_code, code_of(response)) == (400, "SessionRequestNotSupported")


@pytest.mark.parametrize("value", ["banana", "", "1"])
async def test_a_boolean_of_the_query_is_true_or_false(client: httpx.AsyncClient, value: str) -> None:
    response = await client.get("/files", params=query(LATEST, recursive=value))
    assert (response.status_code, response.json()["error"]["target"]) == (400, "recursive")
    assert (await client.get("/files", params=query(LATEST, recursive="False"))).status_code == 200


@pytest.mark.parametrize("id", ["a%0Ab", "a%0A", "a%2Fb", "%00", "..%2F.."])
async def test_an_unknown_execution_is_not_found_whatever_its_id(client: httpx.AsyncClient, id: str) -> None:  # noqa: A002
    response = await client.get(f"/executions/{id}", params=query(LATEST))
    assert (response.status_code, code_of(response)) == (404, "ExecutionNotFound")


async def test_one_pool_serves_every_name_and_several_their_own() -> None:
    one, two = ScriptedBackend(), ScriptedBackend()
    two.answer = Execution("1", "succeeded", stdout="two")
    where = "/subscriptions/s/resourceGroups/g/sessionPools"
    async with served({"one": one, "two": two}) as client:
        second = await client.post(f"{where}/two/executions", params=query(LATEST), json=current("1"))
        assert second.json()["result"]["stdout"] == "two"
        default = await client.post("/executions", params=query(LATEST), json=current("1"))
        assert default.json()["result"]["stdout"] == "ran\n"
        third = await client.post(f"{where}/three/executions", params=query(LATEST), json=current("1"))
        assert (third.status_code, code_of(third)) == (404, "SessionPoolNotFound")
    assert (len(one.runs), len(two.runs)) == (1, 1)


async def test_health_needs_no_version_and_covers_the_pools() -> None:
    async with served() as client:
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    async with served(LostBackend()) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
    backend = await memory_backend()
    async with served(backend) as client:
        await backend.close()
        closed = await client.post("/executions", params=query(LATEST), json=current("1"))
        assert (closed.status_code, code_of(closed)) == (503, "ServiceUnavailable")
        assert (await client.get("/readyz")).status_code == 503


async def test_everything_that_the_specification_declares_is_accepted(client: httpx.AsyncClient) -> None:
    headers = {"operation-id": "a.b:c"}
    response = await client.post("/executions", params=query(LATEST), json=current("1"), headers=headers)
    assert response.json()["id"] == "a.b:c"
    location = response.headers["operation-location"]
    assert (await client.get(location)).json()["id"] == "a.b:c"
    skipped = await client.get("/listSessions", params={"api-version": LATEST, "skip": str(2**31 - 1)})
    assert skipped.json() == {"sessions": []}


async def test_a_long_shell_command_runs(client: httpx.AsyncClient) -> None:
    command = f"cat <<'END' | wc -c\n{'x' * 200_000}\nEND\necho done; read line || echo nothing to read"
    body = {"shellCommand": command, "executionType": "Synchronous"}
    answer = (await client.post("/executions", params=query(LATEST), json=body)).json()
    assert (answer["status"], answer["result"]["stdout"].split()) == ("0", ["200001", "done", "nothing", "to", "read"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("notes.md", "text/markdown; charset=utf-8"),
        ("run.log", "text/plain; charset=utf-8"),
        ("a.yaml", "application/yaml"),
        ("a.ipynb", "application/x-ipynb+json"),
        ("a.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.unknown", "application/octet-stream"),
    ],
)
async def test_the_type_of_a_file_is_that_of_its_name(client: httpx.AsyncClient, name: str, kind: str) -> None:
    await client.post("/files", params=query(LATEST), files={"file": (name, b"x")})
    [entry] = (await client.get("/files", params=query(LATEST))).json()["value"]
    assert entry["contentType"] == kind


async def test_the_root_introduces_the_server() -> None:
    async with served() as client:
        response = await client.get("/")
        assert response.status_code == 200
        assert response.json() == {
            "name": "greenroom",
            "version": importlib.metadata.version("greenroom"),
            "documentation": "https://learn.microsoft.com/azure/container-apps/sessions",
        }
        assert (await client.post("/")).status_code == 400
        assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 403
    async with served(strict=True) as client:
        assert (await client.get("/")).status_code == 400
