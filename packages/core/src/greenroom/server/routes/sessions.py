"""Operations on sessions and on the pool itself."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from greenroom.azure.codecs import current
from greenroom.azure.codecs.problems import SESSION_NOT_FOUND, BadRequest
from greenroom.azure.codecs.shared import MAX_INT32, Json, Malformed, mapping, text
from greenroom.backend import Backend, ShellCommand
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType, SessionInfo
from greenroom.server.in_sandbox import call, functions
from greenroom.server.responses import RequestRefused, json_response
from greenroom.server.routes.target import Target, url_of

_PAGE = 100
_SINCE = "2025-02-02-preview"
_INVENTORY_TIMEOUT = 60.0
_IPYTHON = {
    "name": "IPython",
    "projectUrl": "https://ipython.org",
    "description": "IPython's InteractiveShell, without a Jupyter kernel around it",
}
_NODE = {
    "name": "Node.js",
    "projectUrl": "https://nodejs.org",
    "description": "Cells with the displays of IJavascript, without a Jupyter kernel around them",
}
_BASH = {
    "name": "bash",
    "projectUrl": "https://www.gnu.org/software/bash/",
    "description": "A shell for each command, without a Jupyter kernel",
}


async def get_session(request: Request, target: Target) -> Response:
    """`GET session`, which does not create one."""
    del request
    target.require(since=_SINCE)
    session = await target.pool.backend.session(target.identifier)
    if session is None:
        raise RequestRefused(404, SESSION_NOT_FOUND, "The pool has no session with this identifier.")
    return json_response(_encode(session))


async def get_session_of_container(request: Request, target: Target) -> Response:
    """`.management/getSession`, whose status for a missing session is 400."""
    del request
    target.require(since=_SINCE)
    session = await target.pool.backend.session(target.identifier)
    if session is None:
        raise RequestRefused(400, "SessionWithIdentifierNotFound", "The pool has no session with this identifier.")
    return json_response(_encode(session))


async def delete_session(request: Request, target: Target) -> Response:
    """`DELETE session`, which also succeeds if there is none."""
    del request
    target.require(since=_SINCE)
    await _delete(target)
    return Response(status_code=204)


async def stop_session(request: Request, target: Target) -> Response:
    """`POST .management/stopSession`."""
    del request
    target.require(since=_SINCE)
    await _delete(target)
    return PlainTextResponse(f"Session {target.identifier} in session pool {target.pool.name} stopped.")


async def list_sessions(request: Request, target: Target) -> Response:
    """`GET listSessions`, in pages."""
    target.require(since=_SINCE)
    skip = target.query.get("skip", "0")
    if not (skip.isascii() and skip.isdecimal() and len(skip) <= 10 and int(skip) <= MAX_INT32):
        raise BadRequest(f"'skip' must be a whole number from 0 to {MAX_INT32}, not {skip!r:.50}.", target="skip")
    sessions = await target.pool.backend.sessions()
    end = int(skip) + _PAGE
    link = str(url_of(request).include_query_params(skip=end)) if end < len(sessions) else None
    return json_response(current.encode_sessions([_encode(session) for session in sessions[int(skip) : end]], link))


async def get_metadata(request: Request, target: Target) -> Response:
    """`GET metadata`, determined once, in a separate session."""
    del request
    target.require(since=_SINCE)
    pool = target.pool
    if pool.metadata is None:
        pool.metadata = asyncio.create_task(_take_inventory(pool.backend))
        pool.metadata.add_done_callback(pool.forget_failed_metadata)
    return json_response(await asyncio.shield(pool.metadata))


async def _delete(target: Target) -> None:
    identifier = target.identifier
    target.pool.records.cancel(identifier)
    await target.pool.backend.delete(identifier)


async def _take_inventory(backend: Backend) -> Json:
    runtime, kernel, packages = "bash", _BASH, dict[str, Json]()
    identifier = f"greenroom-metadata-{uuid.uuid4()}"
    try:
        if backend.container_type is ContainerType.SHELL:
            version = await _bash_version(backend, identifier)
        else:
            is_node = backend.container_type is ContainerType.NODE_LTS
            runtime, kernel = ("node", _NODE) if is_node else ("python", _IPYTHON)
            code = call.NODE_INVENTORY if is_node else call.program(functions.take_inventory)
            execution = await backend.execute(identifier, code, timeout=_INVENTORY_TIMEOUT, on_event=None)
            answer = mapping(call.result_of(execution))
            version, packages = text(answer.get(runtime)), mapping(answer.get("packages"))
            kernel = {**kernel, "version": text(answer.get("node" if is_node else "ipython"))}
    except Malformed:
        raise EngineUnavailable("A sandbox could not list its packages.") from None
    finally:
        await backend.delete(identifier)
    now = datetime.now(UTC)
    return current.encode_metadata(
        runtimes={runtime: version},
        packages={name: str(version) for name, version in packages.items()},
        created=now,
        updated=now,
        kernel={"version": version, **kernel},
    )


async def _bash_version(backend: Backend, identifier: str) -> str:
    command = ShellCommand("echo $BASH_VERSION")
    execution = await backend.shell(identifier, command, timeout=_INVENTORY_TIMEOUT, on_event=None)
    return execution.stdout.strip()


def _encode(session: SessionInfo) -> Json:
    changed = f"{session.identifier} {session.last_used:%Y-%m-%dT%H:%M:%S}"
    return current.encode_session(session, str(uuid.uuid5(uuid.NAMESPACE_URL, changed)))
