"""The contract of 2024-10-02-preview and later."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from greenroom.azure.codecs.problems import PROPERTIES_MISSING, BadRequest
from greenroom.azure.codecs.requests import decode_fields
from greenroom.azure.codecs.results import decode_result, encode_result
from greenroom.azure.codecs.shared import (
    DEFAULT_OUTPUT_LIMIT,
    LATEST,
    Call,
    ExecuteRequest,
    Json,
    Malformed,
    Pending,
    content_type,
    decode_time,
    encode_time,
    mapping,
    number,
    quote_segment,
    sequence,
    session_path,
    split_path,
    text,
)
from greenroom.errors import InvalidRequest
from greenroom.models import DATA_DIR, Execution, ExecutionError, RemoteFile, SessionInfo, Status

EXECUTED: Mapping[str, int] = {
    "2024-10-02-preview": 202,  # recorded
    "2025-02-02-preview": 200,
    "2025-10-02-preview": 200,
}
"""The HTTP status of the response to an execution, by version."""

_STATUS: Mapping[Status, str] = {
    "succeeded": "Succeeded",
    "failed": "Failed",
    "timed_out": "Failed",
    "cancelled": "Canceled",
}
_MAX_STATUS = 9
"""The maximum length of an exit code as text."""
_NUMBERED = "2024-10-02-preview"  # its bodies have .NET's `$id`, as recorded

# Executions


def encode_execute_request(request: ExecuteRequest, version: str) -> Call:
    """`POST executions`, without fields that the version does not have."""
    if request.shell:
        command = (
            {"execCommandAndArgs": list(request.arguments)} if request.arguments else {"shellCommand": request.code}
        )
        body: dict[str, Json] = {**command, "stdin": request.stdin} if request.stdin else command
    else:
        body = {"codeInputType": "Inline", "executionType": request.execution_type, "code": request.code}
    if request.timeout is not None:
        body["timeoutInSeconds"] = math.ceil(request.timeout)
    if version == LATEST and request.output_limit is not None:
        body["outputStreamsMaxLength"] = request.output_limit
    if version == LATEST and request.jupyter_format:
        body["returnJupyterFormatExecutionResult"] = True
    return Call("POST", "executions", body=body)


def decode_execute_request(body: Json) -> ExecuteRequest:
    """Read a request.

    Raises:
        BadRequest: the body does not have this contract's form.
    """
    if not isinstance(body, dict):
        raise BadRequest(f"The request's body must be a JSON object, not {type(body).__name__}.")
    fields = mapping(body)
    if "properties" in fields:
        raise BadRequest(
            "The request's body cannot have 'properties' in this API version.",
            code=PROPERTIES_MISSING,
            target="properties",
        )
    return decode_fields(fields)


def get_execution(id: str) -> Call:  # noqa: A002  the model's name
    """`GET executions/{id}`."""
    return Call("GET", f"executions/{quote_segment(id)}")


def operation_location(id: str, identifier: str, version: str) -> str:  # noqa: A002
    """Return the header `Operation-Location`: the address of an execution, below the pool's endpoint."""
    return f"/executions/{quote_segment(id)}?{urlencode({'api-version': version, 'identifier': identifier})}"


def encode_execution(execution: Execution, identifier: str, request: ExecuteRequest, version: str) -> Json:
    """Write the response to an execution that has ended."""
    body = _resource(execution.id, identifier, request, version, _STATUS[execution.status])
    result = encode_result(execution, request, value_name="executionResult")
    return {**body, "result": {"$id": "2", **result} if version == _NUMBERED else result}


def encode_pending(pending: Pending, identifier: str, request: ExecuteRequest, version: str) -> Json:
    """Write the response to an execution that is running or waiting."""
    return _resource(pending.id, identifier, request, version, "Running" if pending.running else "NotStarted")


def _resource(id: str, identifier: str, request: ExecuteRequest, version: str, status: str) -> dict[str, Json]:  # noqa: A002
    fields: dict[str, Json] = {"$id": "1"} if version == _NUMBERED else {}
    return {
        **fields,
        "id": id,
        "identifier": identifier,
        "executionType": request.execution_type,
        "status": status,
    }


def decode_execution(body: Json, *, timeout: float | None) -> Execution | Pending:
    """Read a response; `timeout` is what was requested.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    fields = mapping(body)
    return decode_result(
        text(fields.get("id")),
        fields.get("status"),
        fields.get("result"),
        value_name="executionResult",
        timeout=timeout,
        error=fields.get("error"),
    )


def encode_shell_execution(
    execution: Execution, identifier: str, exit_code: int, *, limit: int = DEFAULT_OUTPUT_LIMIT
) -> Json:
    """Write the response to a shell command.

    The status is the exit code as text; each stream is truncated at `limit` bytes without a notice.
    """

    def cut(stream: str) -> str:
        return stream.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")

    return {
        "id": execution.id,
        "identifier": identifier,
        "status": str(exit_code),
        "result": {
            "stdout": cut(execution.stdout),
            "stderr": cut(execution.stderr),
            "executionTimeInMilliseconds": int(execution.duration * 1000),
        },
    }


def decode_shell_execution(body: Json, *, timeout: float) -> Execution:
    """Read the response to a shell command; `timeout` is what was requested.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    fields = mapping(body)
    status, result = text(fields.get("status")), mapping(fields.get("result"))
    try:
        exit_code = int(status) if len(status) <= _MAX_STATUS else None
    except ValueError:
        exit_code = None
    if exit_code is None:
        raise Malformed(f"{status!r:.100} is not an exit code")
    error = None
    if exit_code < 0:
        error = ExecutionError("TimeoutError", f"The command did not end within {timeout:g} seconds, or was not run.")
    elif exit_code:
        error = ExecutionError("ExitCode", f"The command failed with exit code {exit_code}.")
    return Execution(
        id=text(fields.get("id")) or uuid.uuid4().hex,
        status="succeeded" if error is None else "failed" if exit_code > 0 else "timed_out",
        stdout=text(result.get("stdout")),
        stderr=text(result.get("stderr")),
        error=error,
        duration=number(result.get("executionTimeInMilliseconds")) / 1000,
        exit_code=None if exit_code < 0 else exit_code,
    )


# Files


def list_files(directory: str, *, recursive: bool = False) -> Call:
    """`GET files`; `directory` is absolute. `recursive` is for 2025-10-02-preview."""
    query = _in(_relative(directory))
    return Call("GET", "files", {**query, "recursive": "true"} if recursive else query)


def upload_file(path: str) -> tuple[Call, str]:
    """`POST files`, and the file name for its part."""
    directory, name = split_path(path)
    return Call("POST", "files", _in(directory)), name


def get_file(path: str) -> Call:
    """`GET files/{name}`."""
    return _file_call("GET", path)


def download_file(path: str) -> Call:
    """`GET files/{name}/content`."""
    return _file_call("GET", path, "/content")


def delete_file(path: str) -> Call:
    """`DELETE files/{name}`."""
    return _file_call("DELETE", path)


def _file_call(method: str, path: str, action: str = "") -> Call:
    directory, name = split_path(path)
    return Call(method, f"files/{quote_segment(name)}{action}", _in(directory))


def _in(directory: str) -> dict[str, str]:
    return {"path": directory} if directory else {}


def encode_files(files: Sequence[RemoteFile], directory: str, version: str) -> Json:
    """Write a list; the directories of files are relative to the listed one."""
    body: dict[str, Json] = {"$id": "1"} if version == _NUMBERED else {}
    entries = [_encode_entry(file, version, directory) for file in files]
    if version == _NUMBERED:
        entries = [{"$id": str(number), **entry} for number, entry in enumerate(entries, 2)]
    return {**body, "value": entries}


def decode_files(body: Json, directory: str) -> list[RemoteFile]:
    """Read a list, in its order.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    # Microsoft's published container image sends the array alone.
    entries = sequence(body if isinstance(body, list) else mapping(body).get("value"))
    return [_decode_entry(entry, directory) for entry in entries]


def next_link(body: Json) -> str | None:
    """Return the link to the next page of a list, if there is one."""
    link = mapping(body).get("nextLink") if isinstance(body, dict) else None
    return link if isinstance(link, str) and link else None


def encode_uploaded(file: RemoteFile, version: str) -> Json:
    """Write the response to an upload."""
    body = encode_file(file, version)
    return {**body, "type": "", "contentType": ""} if version == _NUMBERED else body


def decode_uploaded(body: Json, path: str) -> RemoteFile:
    """Read the response to an upload to the path.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    return decode_file(sequence(body)[0] if isinstance(body, list) and body else body, path)


def encode_file(file: RemoteFile, version: str) -> Json:
    """Write the metadata of one file."""
    directory = session_path(split_path(file.path)[0])
    fields = {"$id": "1"} if version == _NUMBERED else {}
    return {**fields, **_encode_entry(file, version, directory)}


def decode_file(body: Json, path: str) -> RemoteFile:
    """Read the metadata of the file at the path.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    entry = {**mapping(body), "directory": None}
    return _decode_entry(entry, session_path(split_path(path)[0]))


def _encode_entry(file: RemoteFile, version: str, listed: str) -> dict[str, Json]:
    directory, name = split_path(file.path)
    entry: dict[str, Json] = {
        "name": name,
        "type": "directory" if file.is_directory else "file",
        "contentType": content_type(name, is_directory=file.is_directory),
        "sizeInBytes": file.size,
        "lastModifiedAt": encode_time(file.modified),
    }
    if version == LATEST:
        entry["directory"] = session_path(directory).removeprefix(listed).strip("/")
    return entry


def _decode_entry(entry: Json, listed: str) -> RemoteFile:
    fields = mapping(entry)
    name = text(fields.get("name"))
    if name in {"", ".", ".."} or "/" in name:
        raise Malformed(f"{name!r:.100} is not a valid file name")
    try:
        path = session_path(f"{_relative(listed)}/{text(fields.get('directory'))}", name)
    except InvalidRequest as error:
        raise Malformed(str(error)) from None
    return RemoteFile(
        path=path,
        size=int(number(fields.get("sizeInBytes"))),
        modified=decode_time(fields.get("lastModifiedAt")),
        is_directory=text(fields.get("type")).lower() == "directory",
    )


def _relative(path: str) -> str:
    return path.removeprefix(DATA_DIR).strip("/")


# Sessions and the pool


def get_session(*, of_container: bool = False) -> Call:
    """`GET session`, or `GET .management/getSession` for a custom container, which gets all other paths."""
    return Call("GET", ".management/getSession" if of_container else "session")


def delete_session(*, of_container: bool = False) -> Call:
    """`DELETE session`, or `POST .management/stopSession` for a custom container."""
    return Call("POST", ".management/stopSession") if of_container else Call("DELETE", "session")


def list_sessions(skip: int = 0, *, of_containers: bool = False) -> Call:
    """`GET listSessions`, which takes no identifier, or `GET .management/listSessions` for custom containers."""
    path = ".management/listSessions" if of_containers else "listSessions"
    return Call("GET", path, {"skip": str(skip)} if skip else {})


def encode_session(session: SessionInfo, etag: str) -> Json:
    """Write one session; a busy session has no expiry time."""
    return {
        "identifier": session.identifier,
        **({} if session.expires is None else {"expireAt": encode_time(session.expires)}),
        "createdAt": encode_time(session.created),
        "lastAccessedAt": encode_time(session.last_used),
        "etag": etag,
    }


def decode_session(body: Json) -> SessionInfo:
    """Read one session.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    fields = mapping(body)
    expires = fields.get("expireAt")
    return SessionInfo(
        identifier=text(fields.get("identifier")),
        created=decode_time(fields.get("createdAt")),
        last_used=decode_time(fields.get("lastAccessedAt")),
        expires=None if expires is None else decode_time(expires),
    )


def encode_sessions(sessions: Sequence[Json], link: str | None = None) -> Json:
    """Write a page of sessions, each as `encode_session` returns it."""
    return {"sessions": list(sessions), **({} if link is None else {"nextLink": link})}


def decode_sessions(body: Json) -> list[SessionInfo]:
    """Read a page of sessions; `next_link` returns the link to the next.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    return [decode_session(session) for session in sequence(mapping(body).get("sessions"))]


def get_metadata() -> Call:
    """`GET metadata`, which takes no identifier."""
    return Call("GET", "metadata")


def encode_metadata(
    *,
    runtimes: Mapping[str, str],
    packages: Mapping[str, str],
    created: datetime,
    updated: datetime,
    kernel: Mapping[str, str],
) -> Json:
    """Write the metadata of a pool: the versions of its runtimes and packages, by name.

    `kernel` has `name`, `version`, `projectUrl` and `description`.
    """

    def named(versions: Mapping[str, str]) -> list[Json]:
        return [{"name": name, "version": version} for name, version in versions.items()]

    return {
        "runtimes": named(runtimes),
        "preInstalledPackages": named(packages),
        "createdAt": encode_time(created),
        "lastUpdatedAt": encode_time(updated),
        "jupyterKernel": dict(kernel),
    }
