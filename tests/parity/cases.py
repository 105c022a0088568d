"""What Azure does, as far as it is known: each function checks one thing, and its docstring says which."""

from __future__ import annotations

import base64
import contextlib
import re
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx

from .azure import CASES, Azure, Evidence, case

__all__ = ["CASES"]

R: Evidence = "recorded"
D: Evidence = "documented"
C: Evidence = "client source"
M: Evidence = "measured by others"
I: Evidence = "inferred"  # noqa: E741

FIGURE = "import matplotlib.pyplot as plt; _ = plt.plot([1, 3, 2]); plt.show()"
BY_DEFAULT = "passes with `--strict`; by default "

# Executions

EXECUTIONS = "Executions"
RUN = "`POST code/execute`, `POST executions`"


@case(EXECUTIONS, RUN, [R, D, R, C, D])
def code_answers_with_its_output(azure: Azure) -> None:
    """The response has the output of the code. The status is 202 in 2024-10-02-preview and 200 in the others."""
    outcome = azure.run("import sys; print('out'); print('err', file=sys.stderr)")
    assert (outcome["stdout"], outcome["stderr"], outcome["result"]) == ("out\n", "err\n", "")
    assert outcome["status"] == ("Success" if azure.legacy else "Succeeded")
    assert outcome["executionTimeInMilliseconds"] >= 0


@case(EXECUTIONS, RUN, [C, D, D, C, C])
def variables_are_kept(azure: Azure) -> None:
    """Variables are kept between the calls of a session."""
    azure.run("x = 20")
    assert azure.run("x + 1")["result"] == 21


@case(EXECUTIONS, RUN, [C, I, D, D, D])
def the_value_is_json(azure: Azure) -> None:
    """The value of the last expression is JSON if it is a number, boolean or string; NaN is text."""
    assert azure.run("2 + 2")["result"] == 4
    assert azure.run("1 > 2")["result"] is False
    assert azure.run("'text'")["result"] == "text"
    assert azure.run("float('nan')")["result"] == "nan"


@case(EXECUTIONS, RUN, [C, I, I, I, I])
def other_values_are_text(azure: Azure) -> None:
    """Values of other types are returned as IPython's text."""
    assert azure.run("['a' * 60, 'b' * 60]")["result"] == f"['{'a' * 60}',\n '{'b' * 60}']"


@case(
    EXECUTIONS,
    RUN,
    [None, None, D, D, D],
    differs='IPython shows nothing for `None`, so the result is `""`, as without a value',
)
def none_is_null(azure: Azure) -> None:
    """If the last expression is `None`, the result is `null`."""
    assert azure.run("None")["result"] is None


@case(EXECUTIONS, RUN, [C, I, I, C, I])
def a_figure_is_an_image(azure: Azure) -> None:
    """A figure is returned as the value: an object with type, format and the image in base64."""
    image: Any = azure.run(FIGURE)["result"]
    assert (image["type"], image["format"]) == ("image", "png")
    assert base64.b64decode(image["base64_data"]).startswith(b"\x89PNG")


@case(EXECUTIONS, RUN, [C, I, I, C, M])
def code_that_fails_is_no_http_error(azure: Azure) -> None:
    """Failing code gets the same response as successful code, with another `status` and a traceback in `stderr`."""
    outcome = azure.run("print('before'); undefined")
    assert outcome["status"] == ("Failure" if azure.legacy else "Failed")
    assert outcome["stdout"] == "before\n"
    assert "NameError" in outcome["stderr"]


@case(EXECUTIONS, RUN, [I, I, I, I, M])
def code_that_takes_too_long_fails(azure: Azure) -> None:
    """Code that takes longer than `timeoutInSeconds` fails, and `stderr` says so."""
    outcome = azure.run("import time; time.sleep(30)", timeoutInSeconds=1)
    assert outcome["status"] == ("Failure" if azure.legacy else "Failed")
    assert outcome["stderr"].startswith("Request timed out waiting for code execution to complete")


@case(EXECUTIONS, RUN, [None, None, R, C, I])
def words_are_taken_in_any_case(azure: Azure) -> None:
    """`inline` and `synchronous` are case-insensitive; the response repeats the latter as it was sent."""
    body = azure.post_code("1", codeInputType="inline", executionType="synchronous").json()
    assert body["executionType"] == "synchronous"


@case(EXECUTIONS, RUN, [None, None, D, D, D])
def code_may_be_base64(azure: Azure) -> None:
    """With `codeInputType` `InlineBase64`, the code is in base64."""
    assert azure.run(base64.b64encode(b"6 * 7").decode(), codeInputType="InlineBase64")["result"] == 42


@case(EXECUTIONS, RUN, [R, I, R, D, D])
def an_execution_tells_its_times(azure: Azure) -> None:
    """The response has a breakdown of the time, in milliseconds, in `x-ms-` headers."""
    headers = azure.post_code("1").headers
    for part in ("overall-execution", "preparation", "allocation", "execution-request", "total-execution-service"):
        assert re.fullmatch(r"\d+(\.\d{1,4})?", headers[f"x-ms-{part}-time"]), headers
    assert headers["x-ms-session-guid"]


@case(EXECUTIONS, "`GET executions/{id}`", [None, None, D, D, D])
def an_execution_can_be_asked_for_again(azure: Azure) -> None:
    """An execution can be retrieved by its ID: the one that the client sent as `operation-id`, or the server's."""
    body = {"code": "6 * 7"}
    status = 202 if azure.version == "2024-10-02-preview" else 200
    answer = azure.call("POST", "executions", status, json=body, headers={"operation-id": "my-operation"})
    assert answer.headers["operation-id"] == answer.json()["id"] == "my-operation"
    assert azure.call("GET", "executions/my-operation").json() == answer.json()


@case(EXECUTIONS, "`POST executions`, `GET executions/{id}`", [None, None, D, D, D])
def an_execution_may_be_asynchronous(azure: Azure) -> None:
    """With `executionType` `Asynchronous`, the response comes immediately; `Operation-Location` is the URL to poll."""
    body = {"code": "import time; time.sleep(0.5); 6 * 7", "executionType": "Asynchronous"}
    answer = azure.call("POST", "executions", 202, json=body)
    assert answer.json()["status"] == "Running"
    location = urlsplit(answer.headers["operation-location"])
    assert location.path == f"/executions/{answer.json()['id']}"
    while (later := azure.client.get(f"{location.path}?{location.query}").json())["status"] == "Running":
        time.sleep(0.05)
    assert (later["status"], later["result"]["executionResult"]) == ("Succeeded", 42)


@case(EXECUTIONS, "`POST executions`", [None, None, None, None, D])
def streams_are_cut_at_a_length(azure: Azure) -> None:
    """`outputStreamsMaxLength` is the number of characters of each stream that are kept."""
    outcome = azure.run("import sys; print('abcdef'); print('ghijkl', file=sys.stderr)", outputStreamsMaxLength=4)
    assert (outcome["stdout"], outcome["stderr"]) == ("abcd", "ghij")


@case(
    EXECUTIONS,
    "`POST executions`",
    [None, None, None, None, D],
    server="strict",
    state=BY_DEFAULT + "everything is kept",
)
def streams_are_cut_at_4096_characters(azure: Azure) -> None:
    """Without `outputStreamsMaxLength`, 4,096 characters of each stream are kept."""
    assert azure.run("print('x' * 10_000)")["stdout"] == "x" * 4096


@case(EXECUTIONS, "`POST executions`", [None, None, None, None, D])
def the_value_may_be_as_jupyter_has_it(azure: Azure) -> None:
    """With `returnJupyterFormatExecutionResult`, the value is IPython's text, and `null` means no value."""
    assert azure.run("'text'", returnJupyterFormatExecutionResult=True)["result"] == "'text'"
    assert azure.run("x = 1", returnJupyterFormatExecutionResult=True)["result"] is None


@case(
    EXECUTIONS,
    "`POST executions`",
    [None, None, None, None, D],
    differs="not supported: the field is ignored, and code sees the session's variables",
)
def code_may_run_in_an_empty_kernel(azure: Azure) -> None:
    """With `useEmptyKernel`, code sees none of the session's variables."""
    azure.run("x = 1")
    assert "NameError" in azure.run("x", useEmptyKernel=True)["stderr"]


SHELL = "`POST executions` with `shellCommand`"


@case(EXECUTIONS, SHELL, [None, None, None, C, D])
def a_command_answers_with_its_exit_code(azure: Azure) -> None:
    """The response has the output of the command, and its exit code as text in `status`."""
    answer = azure.call("POST", "executions", json={"shellCommand": "echo out; echo err >&2; exit 3"}).json()
    assert answer["status"] == "3"
    assert answer["id"]
    assert (answer["result"]["stdout"], answer["result"]["stderr"]) == ("out\n", "err\n")


@case(EXECUTIONS, SHELL, [None, None, None, C, I])
def a_command_runs_in_the_data_directory(azure: Azure) -> None:
    """Commands run in `/mnt/data`, and each stream is silently truncated to 4,096 bytes."""
    answer = azure.call("POST", "executions", json={"shellCommand": "pwd; head -c 9000 /dev/zero"}).json()
    assert answer["result"]["stdout"] == "/mnt/data\n" + "\0" * 4086


@case(EXECUTIONS, SHELL, [None, None, None, I, I])
def a_command_that_takes_too_long_has_the_exit_code_minus_one(azure: Azure) -> None:
    """A command that takes longer than `timeoutInSeconds` has the status `-1`."""
    body = {"shellCommand": "sleep 30", "timeoutInSeconds": 1}
    assert azure.call("POST", "executions", json=body).json()["status"] == "-1"


@case(EXECUTIONS, SHELL, [None, None, None, None, D])
def a_command_may_have_standard_input(azure: Azure) -> None:
    """`stdin` is the standard input of the command."""
    answer = azure.call("POST", "executions", json={"shellCommand": "cat", "stdin": "words"}).json()
    assert answer["result"]["stdout"] == "words"


@case(
    EXECUTIONS,
    "`POST executions` with `execCommandAndArgs`",
    [None, None, None, None, D],
)
def a_command_may_be_a_list(azure: Azure) -> None:
    """A command can be a list of arguments, which no shell interprets."""
    answer = azure.call("POST", "executions", json={"execCommandAndArgs": ["echo", "$HOME"]}).json()
    assert (answer["status"], answer["result"]["stdout"]) == ("0", "$HOME\n")


# Files

FILES = "Files"


@case(FILES, "`POST files/upload`, `POST files`", [R, I, R, C, D])
def a_file_goes_up(azure: Azure) -> None:
    """The response to an upload describes the file: in a list in the older contract, by itself in the newer."""
    answer = azure.upload("sales.csv", b"a,b\n")
    if azure.legacy:
        (answer,) = (entry["properties"] for entry in answer["value"])
        assert (answer["filename"], answer["size"]) == ("sales.csv", 4)
        assert answer["lastModifiedTime"].endswith("Z")
    else:
        assert (answer["name"], answer["sizeInBytes"]) == ("sales.csv", 4)
        assert answer["lastModifiedAt"].endswith("Z")


@case(FILES, "`POST files/upload`", [C, C, None, None, None])
def a_name_may_begin_with_the_data_directory(azure: Azure) -> None:
    """The name of an uploaded file can begin with `/mnt/data/`."""
    azure.upload("/mnt/data/sales.csv", b"a,b\n")
    assert azure.names() == ["sales.csv"]


@case(FILES, "`GET files`", [R, D, R, C, D])
def files_are_listed(azure: Azure) -> None:
    """A list has the name, size and modification time of each file, in the newer contract also its type."""
    azure.upload("cert.txt", b"testing")
    (file,) = azure.call("GET", "files", query={} if azure.legacy else {"path": ""}).json()["value"]
    if azure.legacy:
        assert (file["properties"]["filename"], file["properties"]["size"]) == ("cert.txt", 7)
    else:
        assert (file["name"], file["sizeInBytes"], file["type"].lower()) == ("cert.txt", 7, "file")
        assert file["contentType"] == "text/plain; charset=utf-8"


@case(FILES, "`GET files/content/{name}`, `GET files/{name}/content`", [R, D, R, C, D])
def a_file_comes_down(azure: Azure) -> None:
    """A downloaded file equals the uploaded one, whatever permitted characters its name has."""
    for name in ("cert.txt", "a b-c_d.e@$&=;,%23^().bin", "größe.csv"):
        azure.upload(name, bytes(range(256)))
        assert azure.download(name.replace("%", "%25")) == bytes(range(256))


@case(FILES, "`GET files/{name}`", [R, D, C, D, D])
def one_file_can_be_asked_for(azure: Azure) -> None:
    """A single file is described as in a list."""
    azure.upload("sales.csv", b"a,b\n")
    (listed,) = azure.call("GET", "files").json()["value"]
    one = azure.call("GET", "files/sales.csv").json()
    assert {**one, "$id": None} == {**listed, "$id": None} if not azure.legacy else one["properties"]["size"] == 4


@case(FILES, "`DELETE files/{name}`", [R, D, C, D, D])
def a_file_can_be_deleted(azure: Azure) -> None:
    """Deleting a file returns 204."""
    azure.upload("sales.csv", b"a,b\n")
    azure.call("DELETE", "files/sales.csv", 204)
    assert azure.names() == []


@case(FILES, "`…?path=`", [None, None, D, D, D])
def files_have_directories(azure: Azure) -> None:
    """`path` is the directory of a file below `/mnt/data`; lists include directories, with their type."""
    azure.upload("inner.txt", b"inner", path="outer")
    assert azure.names() == ["outer"]
    assert azure.call("GET", "files").json()["value"][0]["type"].lower() == "directory"
    assert azure.names(path="outer") == azure.names(path="/mnt/data/outer") == ["inner.txt"]
    assert azure.download("inner.txt", path="outer") == b"inner"
    azure.call("DELETE", "files/inner.txt", 204, query={"path": "outer"})
    assert azure.names(path="outer") == []


@case(FILES, "`GET files?recursive=true`", [None, None, None, None, D])
def lists_may_be_recursive(azure: Azure) -> None:
    """A recursive list has the files in all directories, each with its `directory`."""
    azure.upload("inner.txt", b"inner", path="outer")
    files = azure.call("GET", "files", query={"recursive": "true"}).json()["value"]
    assert {file["name"]: file["directory"] for file in files}["inner.txt"] == "outer"


# Sessions and the pool

SESSIONS = "Sessions and the pool"


@case(SESSIONS, "`…/identifier/{identifier}/…`", [I, I, I, I, I])
def the_identifier_may_be_in_the_path(azure: Azure) -> None:
    """The identifier can be in the path instead of the query."""
    azure.upload("sales.csv", b"a,b\n")
    path = f"identifier/{azure.identifier}/files?api-version={azure.version}"
    assert len(azure.client.get(path).json()["value"]) == 1


@case(SESSIONS, "`GET session`", [None, None, None, D, D])
def a_session_can_be_asked_for(azure: Azure) -> None:
    """The response says when the session was created, was last used and will expire."""
    azure.run("1")
    session = azure.call("GET", "session").json()
    assert session["identifier"] == azure.identifier
    assert session["createdAt"] < session["lastAccessedAt"] < session["expireAt"]
    assert session["etag"]


@case(SESSIONS, "`DELETE session`", [None, None, None, D, C])
def a_session_can_be_deleted(azure: Azure) -> None:
    """Deleting a session returns 204; its identifier then names a new, empty session."""
    azure.upload("sales.csv", b"a,b\n")
    azure.call("DELETE", "session", 204)
    assert azure.names() == []
    azure.call("GET", "files/sales.csv/content", 404)


@case(SESSIONS, "`GET listSessions`", [None, None, None, D, D])
def sessions_are_listed(azure: Azure) -> None:
    """Listing sessions needs no identifier; `skip` leaves out the first ones."""
    azure.run("1")
    query = {"api-version": azure.version}
    sessions = azure.client.get("listSessions", params=query).json()["sessions"]
    assert azure.identifier in [session["identifier"] for session in sessions]
    assert azure.client.get("listSessions", params={**query, "skip": len(sessions)}).json()["sessions"] == []


@case(SESSIONS, "`GET metadata`", [None, None, None, D, D])
def a_pool_tells_what_is_installed(azure: Azure) -> None:
    """The pool's metadata list runtimes, packages and the kernel, with their versions."""
    metadata = azure.client.get("metadata", params={"api-version": azure.version}, timeout=60).json()
    assert [runtime["name"] for runtime in metadata["runtimes"]] == ["python"]
    assert "ipython" in [package["name"] for package in metadata["preInstalledPackages"]]
    assert metadata["jupyterKernel"].keys() == {"name", "version", "projectUrl", "description"}


@case(SESSIONS, "`POST .management/stopSession`", [None, None, None, C, D])
def a_session_can_be_stopped(azure: Azure) -> None:
    """Stopping a session returns a sentence as text."""
    azure.upload("sales.csv", b"a,b\n")
    text = azure.call("POST", ".management/stopSession").text
    assert re.fullmatch(f"Session {azure.identifier} in session pool .* stopped.", text)
    assert azure.names() == []


# Errors

ERRORS = "Errors"


def check_error(azure: Azure, status: int, code: str, method: str, path: str, **options: Any) -> None:
    answer = azure.call(method, path, status, **options)
    assert answer.headers["x-ms-error-code"] == answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]
    assert answer.json()["error"]["traceId"]


@case(ERRORS, "any", [I, I, I, I, M])
def an_identifier_has_a_length(azure: Azure) -> None:
    """An identifier that is too short or too long: 400, `InvalidLengthOfSessionIdentifier`."""
    for identifier in ("abc", "x" * 129):
        short = Azure(azure.client, azure.version, identifier)
        check_error(short, 400, "InvalidLengthOfSessionIdentifier", "GET", "files")


@case(ERRORS, "any", [I, I, I, I, M])
def an_operation_is_unknown(azure: Azure) -> None:
    """An unknown path or method: 400, `SessionRequestNotSupported`."""
    check_error(azure, 400, "SessionRequestNotSupported", "GET", "nothing")
    check_error(azure, 400, "SessionRequestNotSupported", "PUT", "files")


@case(ERRORS, "any", [None, None, None, None, M])
def a_version_is_unknown(azure: Azure) -> None:
    """An unknown version: 400, `SessionRequestValidationFailed`, with its `target`."""
    unknown = Azure(azure.client, "1999-01-01")
    check_error(unknown, 400, "SessionRequestValidationFailed", "GET", "files")


@case(ERRORS, RUN, [I, I, I, I, M], server="strict", state=BY_DEFAULT + "either form is accepted in any version")
def a_body_is_of_the_other_contract(azure: Azure) -> None:
    """A body in the other contract's form: 400, `SessionPropertiesMissing`."""
    body = {"code": "1"} if azure.legacy else {"properties": {"code": "1"}}
    check_error(
        azure, 400, "SessionPropertiesMissing", "POST", "code/execute" if azure.legacy else "executions", json=body
    )


@case(ERRORS, RUN, [I, I, I, I, I])
def the_code_is_missing(azure: Azure) -> None:
    """A body without code: 400, `SessionRequestValidationFailed`."""
    path = "code/execute" if azure.legacy else "executions"
    body = {"properties": {"codeInputType": "inline"}} if azure.legacy else {"codeInputType": "Inline"}
    check_error(azure, 400, "SessionRequestValidationFailed", "POST", path, json=body)


@case(
    ERRORS,
    RUN,
    [D, D, D, D, D],
    server="strict",
    state=BY_DEFAULT + "the limit is 1,800 seconds, and there is none for asynchronous executions",
)
def code_may_take_220_seconds(azure: Azure) -> None:
    """`timeoutInSeconds` over 220: 400, `SessionRequestValidationFailed`."""
    body: dict[str, Any] = {"code": "1", "timeoutInSeconds": 221}
    path, body = ("code/execute", {"properties": body}) if azure.legacy else ("executions", body)
    check_error(azure, 400, "SessionRequestValidationFailed", "POST", path, json=body)


@case(ERRORS, "`GET executions/{id}`", [None, None, I, I, I])
def an_execution_is_missing(azure: Azure) -> None:
    """An execution that does not exist: 404, `ExecutionNotFound`."""
    check_error(azure, 404, "ExecutionNotFound", "GET", "executions/nothing")


@case(ERRORS, "any request for files", [I, I, I, I, M])
def a_file_is_missing(azure: Azure) -> None:
    """A file that does not exist: 404, `FileNotFound`."""
    path = "files/content/nothing" if azure.legacy else "files/nothing/content"
    check_error(azure, 404, "FileNotFound", "GET", path)
    check_error(azure, 404, "FileNotFound", "DELETE", "files/nothing")


@case(ERRORS, "`…?path=`", [None, None, D, D, D], server="strict", state=BY_DEFAULT + "names with a `.` are accepted")
def a_path_is_invalid(azure: Azure) -> None:
    """A `path` with a `.`: 400, `FilePathInvalid`."""
    check_error(azure, 400, "FilePathInvalid", "GET", "files", query={"path": "some.directory"})


@case(ERRORS, "`GET session`", [None, None, None, I, I])
def a_session_is_missing(azure: Azure) -> None:
    """A session that does not exist: 404, `NoSessionFoundError`."""
    check_error(azure, 404, "NoSessionFoundError", "GET", "session")


@case(ERRORS, "`POST files/upload`, `POST files`", [D, D, D, D, M])
def an_upload_is_too_large(azure: Azure) -> None:
    """An upload over 128 MB: 413."""
    url = azure.client.base_url.join("files/upload" if azure.legacy else "files").copy_merge_params(
        {"identifier": azure.identifier, "api-version": azure.version}
    )
    connection = HTTPConnection(url.host, url.port)
    with contextlib.closing(connection):
        connection.putrequest("POST", url.raw_path.decode())
        connection.putheader("Authorization", azure.client.headers["Authorization"])
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", str(200 << 20))
        connection.endheaders()
        assert connection.getresponse().status == 413


@case(ERRORS, "any", [I, I, I, I, M], server="small")
def a_pool_is_full(azure: Azure) -> None:
    """A full pool: 429, `SessionsCountExceedsLimit`, in a body without `error`."""
    other = Azure(azure.client, azure.version)
    other.run("1")
    try:
        answer = azure.call("GET", "files", 429)
    finally:
        azure.client.delete("session", params={"identifier": other.identifier, "api-version": "2025-10-02-preview"})
    assert answer.json().keys() == {"code", "message"}
    assert answer.json()["code"] == "SessionsCountExceedsLimit"
    assert "maximum active sessions count is '1'" in answer.json()["message"]


@case(ERRORS, "any", [I, I, I, I, I], server="strict")
def credentials_are_missing(azure: Azure) -> None:
    """A request without credentials: 401, and `WWW-Authenticate`."""
    stranger = Azure(httpx.Client(base_url=azure.client.base_url, timeout=60), azure.version)
    with stranger.client:
        check_error(stranger, 401, "Unauthorized", "GET", "files")
        assert stranger.call("GET", "files", 401).headers["www-authenticate"] == "Bearer"
