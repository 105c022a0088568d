"""The codecs: bodies that Azure sent or documents, in both directions, and arbitrary other bodies."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom import Execution, ExecutionError, InvalidRequest, Output, RemoteFile
from greenroom.azure.codecs import current, legacy, shared
from greenroom.azure.codecs.problems import BadRequest, decode_problem, error_of
from greenroom.azure.codecs.requests import shell_request
from greenroom.azure.codecs.shared import CURRENT_VERSIONS, LATEST, ExecuteRequest, Malformed, Pending

GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "golden").glob("*.json"))}
MOMENT = datetime(2024, 11, 11, 9, 5, 2, 486529, tzinfo=UTC)


def body_of(name: str) -> Any:
    return GOLDEN[name]["response"]["body"]


def executed(codec: Any, body: Any) -> Execution:
    execution = codec.decode_execution(body, timeout=60)
    assert isinstance(execution, Execution)
    return execution


# Bodies of Azure


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_body_names_its_source(name: str) -> None:
    golden = GOLDEN[name]
    assert golden["provenance"] in {"recorded", "documented"}
    assert datetime.fromisoformat(golden["date"]).year >= 2024
    assert golden["source"]
    assert golden["version"] in shared.API_VERSIONS


@pytest.mark.parametrize(
    ("name", "codec", "stdout"),
    [
        ("current-execute", current, "Hello world\n"),
        ("current-execute-latest", current, "63\n"),
        ("legacy-execute", legacy, "hello world\n"),
    ],
)
def test_an_execution_is_read(name: str, codec: Any, stdout: str) -> None:
    execution = executed(codec, body_of(name))
    assert (execution.status, execution.stdout, execution.result, execution.error) == ("succeeded", stdout, None, None)
    assert 0 < execution.duration < 0.1


@pytest.mark.parametrize(
    ("name", "codec"), [("current-execute", current), ("current-execute-latest", current), ("legacy-execute", legacy)]
)
def test_an_execution_is_written_as_azure_writes_it(name: str, codec: Any) -> None:
    golden = GOLDEN[name]
    request = codec.decode_execute_request(golden["request"]["body"])
    body = body_of(name)
    execution = executed(codec, body)
    assert codec.encode_execution(execution, body.get("identifier"), request, golden["version"]) == body


@pytest.mark.parametrize(
    "name", ["current-execute", "current-execute-latest", "current-execute-asynchronous", "legacy-execute"]
)
def test_a_request_goes_both_ways(name: str) -> None:
    golden = GOLDEN[name]
    codec = legacy if name.startswith("legacy") else current
    request = codec.decode_execute_request(golden["request"]["body"])
    call = codec.encode_execute_request(request, golden["version"])
    assert (call.method, call.path) == (golden["request"]["method"], golden["request"]["path"])
    assert codec.decode_execute_request(call.body) == request


def test_an_asynchronous_execution_is_pending() -> None:
    assert current.decode_execution(body_of("current-execute-asynchronous"), timeout=60) == Pending("testExecutionId")


def test_a_shell_command_is_written_as_azure_writes_it() -> None:
    execution = Execution(id="1", status="succeeded", stdout="Hello world!\n", duration=0.001)
    with_id = {"id": "1", **body_of("current-shell")}  # which the specification requires, and its example lacks
    assert current.encode_shell_execution(execution, "testSessionIdentifier", 0) == with_id


def test_a_shell_command_is_read() -> None:
    read = current.decode_shell_execution(body_of("current-shell"), timeout=60)
    assert (read.status, read.exit_code, read.stdout, read.error) == ("succeeded", 0, "Hello world!\n", None)
    failed = Execution(id="1", status="failed", stderr="no", exit_code=3)
    read = current.decode_shell_execution(current.encode_shell_execution(failed, "session", 3), timeout=60)
    assert (read.status, read.exit_code, read.stderr, read.error and read.error.name) == ("failed", 3, "no", "ExitCode")
    read = current.decode_shell_execution(current.encode_shell_execution(failed, "session", -1), timeout=60)
    assert (read.status, read.exit_code, read.error and read.error.name) == ("timed_out", None, "TimeoutError")
    for status in ("", "Succeeded", "1" * 5000, None, 0, "1.5"):
        with pytest.raises(Malformed, match="is not an exit code"):
            current.decode_shell_execution({"status": status, "result": {}}, timeout=60)


@pytest.mark.parametrize(("command", "stdin"), [("ls", b""), ("cat", b"x"), (("ls", "-l"), b""), (("cat",), b"x")])
def test_a_shell_request_comes_back_as_it_was(command: str | tuple[str, ...], stdin: bytes) -> None:
    request = shell_request(command, stdin, LATEST, timeout=60, output_limit=5000)
    assert current.decode_execute_request(current.encode_execute_request(request, LATEST).body) == request
    with pytest.raises(InvalidRequest, match="Shell commands need api_version 2025-02-02-preview or later"):
        shell_request("ls", b"", "2024-10-02-preview", timeout=60, output_limit=5000)
    if stdin or not isinstance(command, str):
        with pytest.raises(InvalidRequest, match="A list of arguments and stdin need api_version 2025-10-02-preview"):
            shell_request(command, stdin, "2025-02-02-preview", timeout=60, output_limit=5000)
    with pytest.raises(InvalidRequest, match="stdin must be UTF-8"):
        shell_request("cat", b"\xff", LATEST, timeout=60, output_limit=5000)


def test_files_are_read() -> None:
    file = RemoteFile("/mnt/data/cert.txt", 7, MOMENT)
    assert current.decode_files(body_of("current-list"), "/mnt/data") == [file]
    assert current.decode_uploaded(body_of("current-upload"), "/mnt/data/cert.txt") == file
    assert [each.path for each in current.decode_files(body_of("current-list-latest"), "/mnt/data/sub")] == [
        "/mnt/data/sub/README2.md"
    ]
    (old,) = legacy.decode_files(body_of("legacy-list"), "/mnt/data")
    assert (old.path, old.size, old.modified.year) == ("/mnt/data/test1.txt", 16, 2024)


def test_files_are_written_as_azure_writes_them() -> None:
    def rounded(body: Any) -> str:  # .NET has one more digit of the second
        return json.dumps(body).replace("02.4865293Z", "02.4865290Z").replace("07.9922617Z", "07.9922610Z")

    (file,) = current.decode_files(body_of("current-list"), "/mnt/data")
    written = current.encode_files([file], "/mnt/data", "2024-10-02-preview")
    assert json.loads(rounded(body_of("current-list"))) == written
    assert json.loads(rounded(body_of("current-upload"))) == current.encode_uploaded(file, "2024-10-02-preview")
    files = legacy.decode_files(body_of("legacy-list"), "/mnt/data")
    assert json.loads(rounded(body_of("legacy-list"))) == legacy.encode_files(files, "/mnt/data", "2024-02-02-preview")


def test_a_session_is_read() -> None:
    session = current.decode_session(body_of("current-session"))
    assert (session.identifier, session.created.year) == ("testid1", 2025)


@pytest.mark.parametrize("name", ["error-nested", "error-pool-full"])
def test_an_error_is_read_wrapped_or_not(name: str) -> None:
    response = GOLDEN[name]["response"]
    problem = decode_problem(response["status"], {}, json.dumps(response["body"]).encode())
    fields = response["body"].get("error", response["body"])
    assert (problem.code, problem.message) == (fields["code"], fields["message"])
    azure = error_of(problem).azure
    assert azure is not None
    assert (azure.code, azure.trace_id) == (fields["code"], fields.get("traceId"))


# Outcomes both ways

ERROR = ExecutionError(
    "ValueError", "no", "-" * 75 + "\nValueError      Traceback (most recent call last)\n\nValueError: no"
)
CASES = {
    "text": Execution(id="1", status="succeeded", stdout="out\n", stderr="err\n", duration=0.5),
    "failed": Execution(id="1", status="failed", stdout="out\n", stderr="before\n", error=ERROR),
    "timed out": Execution(
        id="1",
        status="timed_out",
        error=ExecutionError("TimeoutError", "The code ran for longer than 60 s."),
        state_lost=True,
    ),
}


@pytest.mark.parametrize("version", shared.API_VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_an_outcome_round_trips_over_the_wire(case: str, version: str) -> None:
    codec: Any = legacy if shared.is_legacy(version) else current
    execution = CASES[case]
    body = json.loads(json.dumps(codec.encode_execution(execution, "abcd", ExecuteRequest("x"), version)))
    back = executed(codec, body)
    assert (back.status, back.stdout, back.stderr) == (execution.status, execution.stdout, execution.stderr)
    assert (back.error, back.state_lost, back.duration) == (execution.error, execution.state_lost, execution.duration)


@pytest.mark.parametrize("version", shared.API_VERSIONS)
def test_an_image_round_trips_over_the_wire(version: str) -> None:
    codec: Any = legacy if shared.is_legacy(version) else current
    execution = Execution(id="1", status="succeeded", outputs=(Output({"image/png": "iVBORw0KGgo="}),))
    body = codec.encode_execution(execution, "abcd", ExecuteRequest("x"), version)
    value = body["properties"]["result"] if codec is legacy else body["result"]["executionResult"]
    assert value == {"type": "image", "format": "png", "base64_data": "iVBORw0KGgo="}
    (image,) = executed(codec, body).images
    assert (image.mime, image.data) == ("image/png", b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ("4", 4),
        ("-1.5", -1.5),
        ("nan", "nan"),
        ("True", True),
        ("'nan'", "nan"),
        (r"'it\'s'", "it's"),
        ("[1, 2]", "[1, 2]"),
        (None, ""),
    ],
)
def test_a_primitive_result_is_returned_as_json(result: str | None, value: Any) -> None:
    """The examples of the specification, and LangChain's and AutoGen's tests."""
    execution = Execution(id="1", status="succeeded", result=result)
    for version in CURRENT_VERSIONS:
        body = current.encode_execution(execution, "abcd", ExecuteRequest("x"), version)
        assert body["result"]["executionResult"] == value


def test_the_jupyter_format_keeps_quotes() -> None:
    request = ExecuteRequest("x", jupyter_format=True)
    body = current.encode_execution(Execution(id="1", status="succeeded", result="'nan'"), "abcd", request, LATEST)
    assert body["result"]["executionResult"] == "'nan'"
    assert executed(current, body).result == "'nan'"


def test_streams_are_cut_where_the_request_says() -> None:
    execution = Execution(id="1", status="succeeded", stdout="x" * 100)
    body = current.encode_execution(execution, "abcd", ExecuteRequest("x", output_limit=10), LATEST)
    assert body["result"]["stdout"] == "x" * 10


def test_a_part_of_a_second_is_rounded_up() -> None:
    """The contract takes whole seconds, and 0 would be no time at all."""
    assert current.encode_execute_request(ExecuteRequest("x", timeout=0.2), LATEST).body["timeoutInSeconds"] == 1
    call = legacy.encode_execute_request(ExecuteRequest("x", timeout=1.5), "2024-02-02-preview")
    assert call.body["properties"]["timeoutInSeconds"] == 2


# Whatever else comes

WORDS = st.sampled_from(
    [
        "$id",
        "id",
        "identifier",
        "executionType",
        "status",
        "result",
        "properties",
        "stdout",
        "stderr",
        "executionResult",
        "value",
        "name",
        "filename",
        "size",
        "sizeInBytes",
        "lastModifiedAt",
        "lastModifiedTime",
        "type",
        "directory",
        "code",
        "codeInputType",
        "timeoutInSeconds",
        "shellCommand",
        "error",
        "message",
        "traceId",
        "sessions",
        "nextLink",
        "createdAt",
        "lastAccessedAt",
        "expireAt",
        "outputStreamsMaxLength",
        "base64_data",
        "format",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=6),
    max_leaves=20,
)
FIELDS = st.dictionaries(WORDS, JSON, max_size=12)


@given(body=JSON | FIELDS | FIELDS.map(lambda fields: {"properties": fields}))
def test_any_request_is_read_or_refused(body: Any) -> None:
    for codec in (legacy, current):
        with contextlib.suppress(BadRequest):
            assert isinstance(codec.decode_execute_request(body).code, str)


@given(body=JSON | FIELDS | FIELDS.map(lambda fields: {"properties": fields}))
def test_any_response_is_read_or_malformed(body: Any) -> None:
    for codec in (legacy, current):
        for decode in (
            lambda codec=codec: codec.decode_execution(body, timeout=1),
            lambda codec=codec: codec.decode_files(body, "/mnt/data"),
            lambda codec=codec: codec.decode_uploaded(body, "/mnt/data/a"),
            lambda codec=codec: codec.decode_file(body, "/mnt/data/a"),
            lambda: current.decode_sessions(body),
        ):
            with contextlib.suppress(Malformed):
                decode()


@given(status=st.integers(400, 599), content=st.binary(max_size=200) | JSON.map(lambda body: json.dumps(body).encode()))
def test_every_error_body_becomes_an_exception(status: int, content: bytes) -> None:
    error = error_of(decode_problem(status, {}, content), path="/mnt/data/a")
    assert error.azure is not None
    assert error.azure.status == status
    assert f"HTTP {status}" in str(error)


@given(directory=st.text(max_size=20), name=st.text(max_size=20))
def test_no_path_leaves_the_directory(directory: str, name: str) -> None:
    try:
        path = shared.session_path(directory, name)
    except InvalidRequest:
        return
    assert path == "/mnt/data" or path.startswith("/mnt/data/")
    assert ".." not in path.split("/")
