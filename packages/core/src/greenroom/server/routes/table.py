"""The operations on pools: methods, paths, and the contracts that have them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from greenroom import wire
from greenroom.server.routes import executions, files, mcp, native, sessions
from greenroom.server.routes.target import ContractName, Target

Operation: TypeAlias = Callable[[Request, Target], Awaitable[Response]]

POOL_PATH = "/subscriptions/{subscription}/resourceGroups/{group}/sessionPools/{pool}"

MCP: Mapping[str, Operation] = {
    "POST": mcp.post,
    "GET": mcp.refuse_method,
    "PUT": mcp.refuse_method,
    "PATCH": mcp.refuse_method,
    "DELETE": mcp.forget_peer,
}
"""The methods of an MCP endpoint."""

_NATIVE: Sequence[tuple[str, str, Operation]] = [
    ("POST", "/executions", native.execute),
    ("GET", "/executions/{id}", native.attach),
    ("DELETE", "/executions/{id}", native.cancel),
    ("POST", "/executions/{id}/answers", native.answer),
    ("GET", "/files", native.list_files),
    ("GET", "/file", native.get_file),
    ("PUT", "/file", native.upload),
    ("DELETE", "/file", native.delete_file),
    ("GET", "/content", native.download),
    ("GET", "/session", native.get_session),
    ("DELETE", "/session", native.delete_session),
    ("GET", "/sessions", native.list_sessions),
    ("GET", "/status", native.get_status),
    ("GET", "/usage", native.get_usage),
    ("GET", "/pool-usage", native.get_pool_usage),
]


def operations(*, strict: bool) -> Sequence[tuple[str, str, Operation, ContractName | None]]:
    """Return method, path, operation and contract of each, in the order of matching; `None` means both of Azure's.

    Unless strict, a name can be the path of a file, except to delete it: `files/a/content` would be the content of `a`.
    """
    name = "{name}" if strict else "{name:path}"
    return [
        # Each route is tried in turn, so those of our own client, which are used most, come first.
        *((method, f"/{wire.VERSION}{path}", operation, "greenroom") for method, path, operation in _NATIVE),
        ("POST", "/code/execute", executions.execute, "legacy"),
        ("POST", "/execute", executions.execute, None),
        ("POST", "/executions", executions.execute, "current"),
        ("GET", "/executions/{id}", executions.get_execution, "current"),
        ("POST", "/files/upload", files.upload_files, "legacy"),
        ("POST", "/files", files.upload_files, None),
        ("GET", "/files", files.list_files, None),
        ("GET", "/files/content/content", files.download_file, None),
        ("GET", f"/files/content/{name}", files.download_file, "legacy"),
        ("GET", f"/files/{name}/content", files.download_file, "current"),
        ("GET", f"/files/{name}", files.get_file, None),
        ("DELETE", "/files/{name}", files.delete_file, None),
        ("GET", "/session", sessions.get_session, "current"),
        ("DELETE", "/session", sessions.delete_session, "current"),
        ("GET", "/listSessions", sessions.list_sessions, "current"),
        ("GET", "/metadata", sessions.get_metadata, "current"),
        ("POST", "/.management/stopSession", sessions.stop_session, "current"),
        ("GET", "/.management/getSession", sessions.get_session_of_container, "current"),
        ("POST", "/.management/getSession", sessions.get_session_of_container, "current"),
        ("GET", "/.management/listSessions", sessions.list_sessions, "current"),
        ("POST", "/.management/listSessions", sessions.list_sessions, "current"),
        ("GET", "/greenroom", native.get_versions, "greenroom"),
    ]
