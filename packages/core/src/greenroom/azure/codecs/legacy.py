"""The contract of 2024-02-02-preview and 2024-08-02-preview.

It has one directory, `/mnt/data`. `$id` numbers the objects of a body, as .NET's serializer does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from greenroom.azure.codecs.problems import PROPERTIES_MISSING, BadRequest
from greenroom.azure.codecs.requests import decode_fields
from greenroom.azure.codecs.results import decode_result, encode_result
from greenroom.azure.codecs.shared import (
    Call,
    ExecuteRequest,
    Json,
    Malformed,
    Pending,
    decode_time,
    encode_time,
    fields_of,
    mapping,
    number,
    quote_segment,
    sequence,
    session_path,
    split_path,
    text,
)
from greenroom.errors import InvalidRequest
from greenroom.models import Execution, RemoteFile

# Executions


def encode_execute_request(request: ExecuteRequest, version: str) -> Call:
    """`POST code/execute`."""
    del version  # no difference is documented
    properties: dict[str, Json] = {
        "codeInputType": "inline",
        "executionType": request.execution_type.lower(),
        "code": request.code,
    }
    if request.timeout is not None:
        properties["timeoutInSeconds"] = math.ceil(request.timeout)
    return Call("POST", "code/execute", body={"properties": properties})


def decode_execute_request(body: Json) -> ExecuteRequest:
    """Read a request.

    Raises:
        BadRequest: the body does not have this contract's form.
    """
    properties = fields_of(body).get("properties")
    if not isinstance(properties, dict):
        raise BadRequest(
            "The request's body must have an object 'properties'.", code=PROPERTIES_MISSING, target="properties"
        )
    return decode_fields(mapping(properties))


def encode_execution(execution: Execution, identifier: str, request: ExecuteRequest, version: str) -> Json:
    """Write the response."""
    del identifier, version
    status = "Success" if execution.succeeded else "Failure"
    return {
        "$id": "1",
        "properties": {"$id": "2", "status": status, **encode_result(execution, request, value_name="result")},
    }


def decode_execution(body: Json, *, timeout: float | None) -> Execution | Pending:
    """Read a response; `timeout` is what was requested.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    properties = mapping(mapping(body).get("properties"))
    # Microsoft's published container image uses the later contract's name.
    name = "result" if "result" in properties else "executionResult"
    return decode_result("", properties.get("status"), properties, value_name=name, timeout=timeout)


# Files


def list_files(directory: str, *, recursive: bool = False) -> Call:
    """`GET files`; `directory` is `/mnt/data`."""
    del recursive  # there are no subdirectories
    _check_no_directory(directory)
    return Call("GET", "files")


def upload_file(path: str) -> tuple[Call, str]:
    """`POST files/upload`, and the file name for its part."""
    return Call("POST", "files/upload"), _name(path)


def get_file(path: str) -> Call:
    """`GET files/{name}`."""
    return Call("GET", f"files/{quote_segment(_name(path))}")


def download_file(path: str) -> Call:
    """`GET files/content/{name}`."""
    return Call("GET", f"files/content/{quote_segment(_name(path))}")


def delete_file(path: str) -> Call:
    """`DELETE files/{name}`."""
    return Call("DELETE", f"files/{quote_segment(_name(path))}")


def encode_files(files: Sequence[RemoteFile], directory: str, version: str) -> Json:
    """Write a list, without directories."""
    del directory, version
    plain = [file for file in files if not file.is_directory]
    entries = [_encode_entry(file, 2 * index + 2) for index, file in enumerate(plain)]
    return {"$id": "1", "value": entries}


def decode_files(body: Json, directory: str) -> list[RemoteFile]:
    """Read a list, in its order.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    del directory
    return [_decode_entry(entry) for entry in sequence(mapping(body).get("value"))]


def encode_uploaded(file: RemoteFile, version: str) -> Json:
    """Write the response to an upload: a list of one."""
    return encode_files([file], "", version)


def decode_uploaded(body: Json, path: str) -> RemoteFile:
    """Read the response to an upload to the path.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    files = decode_files(body, "")
    if not files:
        raise Malformed("the list of uploaded files must not be empty")
    return next((file for file in files if file.path == path), files[0])


def encode_file(file: RemoteFile, version: str) -> Json:
    """Write the metadata of one file."""
    del version
    return _encode_entry(file, 1)


def decode_file(body: Json, path: str) -> RemoteFile:
    """Read the metadata of the file at the path.

    Raises:
        Malformed: the body does not have this contract's form.
    """
    del path
    return _decode_entry(body)


def _encode_entry(file: RemoteFile, serial: int) -> Json:
    properties = {
        "$id": str(serial + 1),
        "filename": split_path(file.path)[1],
        "size": file.size,
        "lastModifiedTime": encode_time(file.modified),
    }
    return {"$id": str(serial), "properties": properties}


def _decode_entry(entry: Json) -> RemoteFile:
    fields = mapping(mapping(entry).get("properties"))
    try:
        path = session_path("", text(fields.get("filename")))
    except InvalidRequest as error:
        raise Malformed(str(error)) from None
    return RemoteFile(path, int(number(fields.get("size"))), decode_time(fields.get("lastModifiedTime")))


def _name(path: str) -> str:
    directory, name = split_path(path)
    _check_no_directory(directory)
    return name


def _check_no_directory(directory: str) -> None:
    if session_path(directory) != session_path():
        raise InvalidRequest(
            f"In this API version a file must be directly in /mnt/data, not in {directory!r:.200}. Use api_version "
            "2024-10-02-preview or later."
        )
