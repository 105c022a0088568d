"""What Microsoft's OpenAPI documents of the data plane declare, as documents with nothing else.

The originals are in the repository Azure/azure-rest-api-specs (Copyright (c) Microsoft Corporation, MIT licence):
`specification/app/data-plane/DynamicSessions/preview/<version>/DynamicSessions.json`, at commit c6de59f1ad53 for
2025-10-02-preview and ca2bc853bea8 for the others. Here are their operations, parameters, types and statuses, written
anew, without descriptions and examples. Commits differ in the status of an execution in 2024-10-02-preview: here it is
202, which was recorded. `make openapi DOCUMENTS=<folder>` reads originals instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

VERSIONS = ("2024-10-02-preview", "2025-02-02-preview", "2025-10-02-preview")

Schema: TypeAlias = dict[str, Any]


def load(version: str, folder: Path | None = None) -> Schema:
    """Return a version's document, with that version as the only value of `api-version`.

    Args:
        version: one of `VERSIONS`.
        folder: one like `preview` in Microsoft's repository.
    """
    if folder is None:
        return _document(version)
    document = json.loads((folder / version / "DynamicSessions.json").read_text())
    document["parameters"]["Azure.Core.Foundations.ApiVersionParameter"]["enum"] = [version]
    document.pop("security", None)  # the server has no authentication
    return document


TEXT: Schema = {"type": "string"}
INT32: Schema = {"type": "integer", "format": "int32"}
INT64: Schema = {"type": "integer", "format": "int64"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
ADDRESS: Schema = {"type": "string", "format": "uri"}
ANYTHING: Schema = {}
FILE: Schema = {"type": "file"}

IDENTIFIER = r"""^[a-zA-Z0-9_|}{\[\]\:\"\";'<>?\/.,@#$%\^&*()_\-+=!~`]{4,128}$"""


def _words(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _the(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _query(name: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, **schema}


def _segment(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "type": "string"}


def _operation(id: str, parameters: list[Schema], responses: Mapping[str, Schema], **more: Any) -> Schema:  # noqa: A002
    error_code = {"x-ms-error-code": TEXT}
    failed = {"description": "", "schema": _the("ErrorResponse"), "headers": error_code}
    answers = {status: {"description": "", **response} for status, response in responses.items()}
    return {"operationId": id, "parameters": parameters, "responses": {**answers, "default": failed}, **more}


_STATE = _words("NotStarted", "Running", "Succeeded", "Failed", "Canceled")
_EXECUTION_TYPE = _words("Synchronous", "Asynchronous")
_CODE = {
    "codeInputType": _words("Inline", "InlineBase64", "InlineText"),
    "executionType": _EXECUTION_TYPE,
    "code": TEXT,
}
_EXECUTED = {"Operation-Location": ADDRESS, "operation-id": TEXT, "x-ms-error-code": TEXT}


def _definitions(version: str) -> dict[str, Schema]:
    first, newest = version == VERSIONS[0], version == VERSIONS[-1]
    if newest:
        request = _object(
            {"timeoutInSeconds": INT32},
            {
                **_CODE,
                "outputStreamsMaxLength": INT32,
                "useEmptyKernel": FLAG,
                "returnJupyterFormatExecutionResult": FLAG,
                "shellCommand": TEXT,
                "execCommandAndArgs": _list_of(TEXT),
                "stdin": TEXT,
            },
        )
    else:
        request = _object({**_CODE, "timeoutInSeconds": INT32})
    kind = {"executionType": _EXECUTION_TYPE}
    definitions = {
        "Error": _object(
            {"code": TEXT, "message": TEXT},
            {"target": TEXT, "details": _list_of(_the("Error")), "innererror": _the("InnerError")},
        ),
        "InnerError": _object({}, {"code": TEXT, "innererror": _the("InnerError")}),
        "ErrorResponse": _object({"error": _the("Error")}),
        "Request": request,
        "Execution": _object(
            {"id": TEXT, "identifier": TEXT, "status": _STATE, **({} if newest else kind)},
            {**(kind if newest else {}), "error": _the("ErrorResponse"), "result": _the("Result")},
        ),
        "Result": _object(
            {}, {"stdout": TEXT, "stderr": TEXT, "executionResult": ANYTHING, "executionTimeInMilliseconds": INT64}
        ),
        "File": _object(
            {"name": TEXT, "type": TEXT, "lastModifiedAt": TIME},
            {"contentType": TEXT, "sizeInBytes": INT64, **({"directory": TEXT} if newest else {})},
        ),
        "Files": _object({"value": _list_of(_the("File"))}, {"nextLink": ADDRESS}),
    }
    if first:
        return definitions
    named = _object({"name": TEXT, "version": TEXT})
    return definitions | {
        "Session": _object(
            {"identifier": TEXT, "createdAt": TIME, "lastAccessedAt": TIME, "expireAt": TIME, "etag": TEXT}
        ),
        "Sessions": _object({"sessions": _list_of(_the("Session"))}, {"nextLink": ADDRESS}),
        "Metadata": _object(
            {
                "runtimes": _list_of(named),
                "preInstalledPackages": _list_of(named),
                "createdAt": TIME,
                "lastUpdatedAt": TIME,
                "jupyterKernel": _object({"name": TEXT, "version": TEXT, "projectUrl": ADDRESS, "description": TEXT}),
            }
        ),
    }


def _paths(version: str) -> dict[str, Schema]:
    first, newest = version == VERSIONS[0], version == VERSIONS[-1]
    api_version = _query("api-version", {"type": "string", "minLength": 1, "enum": [version]}, required=True)
    limits = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": IDENTIFIER}
    identifier = _query("identifier", limits, required=True)
    always, directory = [api_version, identifier], _query("path", TEXT)
    file = [*always, _segment("name"), directory]
    recursive = [_query("recursive", FLAG)] if newest else []
    operation_id = {"name": "operation-id", "in": "header", "required": False, "type": "string"}
    order = {"name": "codeExecutionRequest", "in": "body", "required": True, "schema": _the("Request")}
    upload = {"name": "file", "in": "formData", "required": True, "type": "file"}
    executed = {"schema": _the("Execution"), "headers": _EXECUTED}
    found = {"schema": _the("Execution"), "headers": {"x-ms-error-code": TEXT}}
    paths = {
        "/executions": {
            "post": _operation(
                "CodeExecution_Execute", [*always, operation_id, order], {"202" if first else "200": executed}
            )
        },
        "/executions/{executionId}": {
            "get": _operation("CodeExecution_Get", [*always, _segment("executionId")], {"200": found})
        },
        "/files": {
            "get": _operation(
                "SessionResourceFiles_List", [*always, directory, *recursive], {"200": {"schema": _the("Files")}}
            ),
            "post": _operation(
                "SessionResourceFiles_Upload",
                [*always, directory, upload],
                {"200": {"schema": _the("File")}},
                consumes=["multipart/form-data"],
            ),
        },
        "/files/{name}": {
            "get": _operation("SessionResourceFiles_Get", file, {"200": {"schema": _the("File")}}),
            "delete": _operation("SessionResourceFiles_Delete", file, {"204": {}}),
        },
        "/files/{name}/content": {
            "get": _operation(
                "SessionResourceFiles_GetContent",
                file,
                {"200": {"schema": FILE}},
                produces=["application/octet-stream", "application/json"],
            )
        },
    }
    if first:
        return paths
    paths |= {
        "/session": {
            "get": _operation("SessionManagement_Get", always, {"200": {"schema": _the("Session")}}),
            "delete": _operation("SessionManagement_Delete", always, {"204": {}}),
        },
        "/listSessions": {
            "get": _operation(
                "ListSessions_Get", [api_version, _query("skip", INT32)], {"200": {"schema": _the("Sessions")}}
            )
        },
        "/metadata": {
            "get": _operation("SessionPoolMetadata_Get", [api_version], {"200": {"schema": _the("Metadata")}})
        },
    }
    if newest:
        paths["/.management/stopSession"] = {
            "post": _operation("SessionPoolManagement_StopSession", always, {"200": {}})
        }
    return paths


def _document(version: str) -> Schema:
    return {
        "swagger": "2.0",
        "info": {"title": "Dynamic sessions", "version": version},
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": _paths(version),
        "definitions": _definitions(version),
    }
