"""Handles requests: the methods of each version, and their results."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import TypeAlias, cast

from greenroom.adapters.files import DOWNLOAD_LIMIT
from greenroom.backend import Backend
from greenroom.errors import GreenroomError, InvalidRequest
from greenroom.mcp import resources
from greenroom.mcp.calls import Context, Execute, Sessions, call, download, execute_directly
from greenroom.mcp.feed import ClientGone
from greenroom.mcp.handles import Handles, UnknownHandle
from greenroom.mcp.protocol import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PREFIX,
    RESOURCE_NOT_FOUND,
    STATELESS,
    TOO_BUSY,
    VERSIONS,
    Json,
    ProtocolError,
    Request,
    error_message,
    log_level,
    negotiated,
    result_message,
    server_info,
    version_of,
)
from greenroom.mcp.tools import Tool, tools_of
from greenroom.models import DATA_DIR, ContainerType
from greenroom.sessions.rules import check_file_path
from greenroom.untrusted import brief

logger = logging.getLogger("greenroom.mcp")

_LONGEST_TOKEN = 1000  # it is repeated in each notification
_FRESH = 300_000
"""Milliseconds for which lists that are the same for every caller can be cached."""
_LIST_TIMEOUT = 5.0
"""Seconds for one session to list its files."""
_MOST_RESOURCES = 1000
_COPIES = 4
"""Memory per byte of a file that is being returned: as bytes, as text, and twice as JSON."""
_GROWTH = 64 << 10
"""Bytes by which a file can grow while it is read."""
_DEFAULT_LEVEL = "info"

_INSTRUCTIONS = (
    "Runs code and commands in isolated sandboxes. Each tool result includes a session_id: pass it to later calls to "
    "keep variables and files. Files are stored in /mnt/data and are available as resources: {template}"
)


@dataclass(eq=False, slots=True)
class Peer:
    """The state of a client that sent a handshake, or of the process at the other end of stdio."""

    version: str | None = None
    """The negotiated version; `None` before that."""
    level: str = _DEFAULT_LEVEL
    running: dict[str | int, asyncio.Task[object]] = field(default_factory=dict[str | int, asyncio.Task[object]])
    """The tasks that handle its requests, by id."""

    def begin(self, request: Request, task: asyncio.Task[object]) -> None:
        """Register the task that handles a request.

        Raises:
            ProtocolError: another request with this id is running.
        """
        if request.id in self.running:
            raise ProtocolError(INVALID_REQUEST, "The id of a request must not be that of a running request.")
        self.running[request.id] = task

    def end(self, request: Request) -> None:
        self.running.pop(request.id, None)

    def cancel(self, params: Mapping[str, Json]) -> None:
        """Handle `notifications/cancelled`, which may name a request that has ended or never existed."""
        id_ = params.get("requestId")
        if isinstance(id_, str | int) and not isinstance(id_, bool) and (task := self.running.get(id_)) is not None:
            _cancel(task)


def _cancel(task: asyncio.Task[object]) -> None:
    """Cancel a task only once: a second time would interrupt its clean-up, such as ending a session."""
    if not task.cancelling():
        task.cancel()


class Peers:
    """The clients that sent a handshake over HTTP, by the id that each received.

    If there are too many, the least recently used one of the caller with the most is forgotten, so that no caller
    evicts another's. A forgotten client can simply continue.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._count = 0
        self._peers: dict[str | None, dict[str, Peer]] = {}

    def add(self, caller: str | None, peer: Peer) -> str:
        """Add a client, and return its id."""
        if self._count >= self._most:
            largest = max(self._peers, key=lambda each: len(self._peers[each]))
            self._pop(largest, next(iter(self._peers[largest])))
        id_ = secrets.token_urlsafe(16)
        self._put(caller, id_, peer)
        return id_

    def find(self, caller: str | None, id_: str | None) -> Peer:
        """Return a client, or a new one if it is unknown."""
        peer = self._pop(caller, id_)
        if peer is None or id_ is None:
            return Peer()
        self._put(caller, id_, peer)  # as the most recently used
        return peer

    def remove(self, caller: str | None, id_: str | None) -> None:
        """Remove a client, and cancel its requests."""
        peer = self._pop(caller, id_)
        for task in peer.running.values() if peer is not None else ():
            _cancel(task)

    def _put(self, caller: str | None, id_: str, peer: Peer) -> None:
        self._peers.setdefault(caller, {})[id_] = peer
        self._count += 1

    def _pop(self, caller: str | None, id_: str | None) -> Peer | None:
        own = self._peers.get(caller, {})
        peer = own.pop(id_, None) if id_ is not None else None
        if peer is not None:
            self._count -= 1
            if not own:
                del self._peers[caller]
        return peer


class Endpoint:
    """The methods of the protocol over one pool."""

    def __init__(self, backend: Backend, execute: Execute = execute_directly) -> None:
        """
        Args:
            backend: the pool's backend, on the running event loop; the caller closes it.
            execute: carries out executions.
        """
        self.container_type = backend.container_type
        self.sessions = Sessions(backend, Handles(backend), execute)

    async def exchange(self, request: Request, peer: Peer, context: Context) -> Json | None:
        """Return the message that answers a request, or `None` if the client cancelled the request.

        Cancelling this cancels the request.

        Raises:
            ClientGone: a notification could not be sent.
        """
        task = asyncio.create_task(self._respond(request, peer, context))
        try:
            peer.begin(request, task)
        except ProtocolError as error:
            task.cancel()
            return error_message(error, request.id)
        try:
            await asyncio.wait([task])
        finally:
            _cancel(task)
            peer.end(request)
            await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    async def _respond(self, request: Request, peer: Peer, context: Context) -> Json:
        try:
            return result_message(request, await self.answer(request, peer, context), context.version)
        except ProtocolError as error:
            return error_message(error, request.id)
        except GreenroomError as error:
            return error_message(ProtocolError(INTERNAL_ERROR, str(error)), request.id)
        except ClientGone:
            raise
        except Exception as error:  # no details are sent to the client
            logger.error("the request %s failed", brief(request.method), exc_info=error)
            message = "The server failed. Its log has the details."
            return error_message(ProtocolError(INTERNAL_ERROR, message), request.id)

    async def answer(self, request: Request, peer: Peer, context: Context) -> Json:
        """Return the result of a request.

        Raises:
            ProtocolError: the request fails.
        """
        if self.container_type is ContainerType.CUSTOM_CONTAINER:
            try:
                tools_of(self.container_type, lists_sessions=False, azures=False)
            except InvalidRequest as error:
                raise ProtocolError(INVALID_REQUEST, str(error)) from None
        methods = _STATELESS if context.version == STATELESS else _WITH_HANDSHAKE
        method = methods.get(request.method)
        if method is None:
            raise ProtocolError(
                METHOD_NOT_FOUND, f"Version {context.version} has no method {brief(request.method)} on this server."
            )
        return await method(self, request, peer, context)

    # Initialization

    async def initialize(self, request: Request, peer: Peer, context: Context) -> Json:
        del context
        peer.version = negotiated(request)
        # As Azure answers a client that names no version; others only check whether these are present.
        tools: Json = {"call": True, "list": True} if "protocolVersion" not in request.params else {}
        return {
            "protocolVersion": peer.version,
            "capabilities": {"logging": {}, "resources": {}, "tools": tools},
            "serverInfo": server_info(),
            "instructions": _INSTRUCTIONS.format(template=resources.TEMPLATE),
        }

    async def discover(self, request: Request, peer: Peer, context: Context) -> Json:
        del request, peer, context
        return {
            "supportedVersions": list(VERSIONS),
            "capabilities": {"logging": {}, "resources": {}, "tools": {}},
            "instructions": _INSTRUCTIONS.format(template=resources.TEMPLATE),
            **_public(),
        }

    async def ping(self, request: Request, peer: Peer, context: Context) -> Json:
        del request, peer, context
        return {}

    async def set_level(self, request: Request, peer: Peer, context: Context) -> Json:
        del context
        peer.level = log_level(request.params.get("level"))
        return {}

    async def listen(self, request: Request, peer: Peer, context: Context) -> Json:
        """End a subscription as soon as it begins: nothing that can be subscribed to ever changes here."""
        del peer
        meta = {f"{PREFIX}subscriptionId": request.id}
        if context.notify is not None:
            await context.notify("notifications/subscriptions/acknowledged", {"_meta": meta, "notifications": {}})
        return {"_meta": meta}

    # Tools

    async def list_tools(self, request: Request, peer: Peer, context: Context) -> Json:
        del peer
        _check_cursor(request)
        tools = [tool.definition for tool in self._tools(context).values()]
        return {"tools": tools, **(_private() if context.lists else _public())}

    async def call_tool(self, request: Request, peer: Peer, context: Context) -> Json:
        del peer
        name, arguments = request.params.get("name"), request.params.get("arguments")
        tool = self._tools(context).get(name) if isinstance(name, str) else None
        if tool is None:
            raise ProtocolError(INVALID_PARAMS, f"Unknown tool: {brief(name)}.")
        if not isinstance(arguments, dict | None):
            raise ProtocolError(INVALID_PARAMS, "The arguments of a tool must be an object.")
        return await call(self.sessions, context, tool, cast("Mapping[str, Json]", arguments or {}))

    def _tools(self, context: Context) -> Mapping[str, Tool]:
        return _tools(self.container_type, context.lists, context.azures_tools)

    # Resources

    async def list_resources(self, request: Request, peer: Peer, context: Context) -> Json:
        del peer
        _check_cursor(request)
        found: list[Json] = []
        for handle in await self.sessions.handles.of(context.caller) if context.lists else ():
            with suppress(GreenroomError, TimeoutError):  # it has just ended, or is too busy
                async with asyncio.timeout(_LIST_TIMEOUT), self.sessions.handles.using(handle) as identifier:
                    files = await self.sessions.backend.files(identifier, DATA_DIR, recursive=True)
                found += [resources.resource_of(handle.value, file) for file in files if not file.is_directory]
            if len(found) >= _MOST_RESOURCES:
                break
        return {"resources": found[:_MOST_RESOURCES], **_private()}

    async def list_templates(self, request: Request, peer: Peer, context: Context) -> Json:
        del peer, context
        _check_cursor(request)
        return {"resourceTemplates": [resources.template()], **_public()}

    async def read_resource(self, request: Request, peer: Peer, context: Context) -> Json:
        del peer
        uri = request.params.get("uri")
        if not isinstance(uri, str):
            raise ProtocolError(INVALID_PARAMS, "The uri of a resource must be a string.")
        backend, parsed = self.sessions.backend, resources.parse_uri(uri)
        try:
            if parsed is None:
                raise InvalidRequest(f"The uri must be of the form {resources.TEMPLATE}, not {brief(uri)}.")
            path = check_file_path(parsed[1])
            handle = await self.sessions.handles.find(parsed[0], context.caller)
            async with self.sessions.handles.using(handle) as identifier:
                file = await backend.file(identifier, path)
                if context.reserve is not None and not context.reserve(_COPIES * file.size):
                    raise ProtocolError(TOO_BUSY, "The server's memory for requests is full. Try again.", {"uri": uri})
                limit = min(file.size + _GROWTH, DOWNLOAD_LIMIT, backend.file_limit)
                content = await download(backend, identifier, path, limit)
        except (UnknownHandle, FileNotFoundError, InvalidRequest) as error:
            code = INVALID_PARAMS if context.version == STATELESS else RESOURCE_NOT_FOUND
            raise ProtocolError(code, str(error) or "The session has ended or is not yours.", {"uri": uri}) from None
        except GreenroomError as error:
            raise ProtocolError(INTERNAL_ERROR, str(error), {"uri": uri}) from None
        return {"contents": [await asyncio.to_thread(resources.contents_of, uri, file, content)], **_private()}


@cache
def _tools(container_type: ContainerType, lists_sessions: bool, azures: bool) -> Mapping[str, Tool]:
    return tools_of(container_type, lists_sessions=lists_sessions, azures=azures)


def _check_cursor(request: Request) -> None:
    if (cursor := request.params.get("cursor")) is not None:
        raise ProtocolError(INVALID_PARAMS, f"The cursor must be one that this server returned, not {brief(cursor)}.")


def _public() -> Json:
    """The caching hints of a result that is the same for every caller."""
    return {"ttlMs": _FRESH, "cacheScope": "public"}


def _private() -> Json:
    return {"ttlMs": 0, "cacheScope": "private"}


_Method: TypeAlias = Callable[[Endpoint, Request, Peer, Context], Awaitable[Json]]

_IN_ALL: Mapping[str, _Method] = {
    "tools/list": Endpoint.list_tools,
    "tools/call": Endpoint.call_tool,
    "resources/list": Endpoint.list_resources,
    "resources/read": Endpoint.read_resource,
    "resources/templates/list": Endpoint.list_templates,
}
_WITH_HANDSHAKE: Mapping[str, _Method] = MappingProxyType(
    {
        **_IN_ALL,
        "initialize": Endpoint.initialize,
        "ping": Endpoint.ping,
        "logging/setLevel": Endpoint.set_level,
    }
)
_STATELESS: Mapping[str, _Method] = MappingProxyType(
    {**_IN_ALL, "server/discover": Endpoint.discover, "subscriptions/listen": Endpoint.listen}
)


def context_of(request: Request, peer: Peer, context: Context) -> Context:
    """Return the context of a request: its version, and which notifications it asks for.

    Args:
        request: the request.
        peer: the client that sent it.
        context: the transport's part, including the version for a request that names none.

    Raises:
        ProtocolError: the request's version is unknown, or it lacks a field that its version requires.
    """
    token = request.meta.get("progressToken")
    if not isinstance(token, str | int) or isinstance(token, bool) or len(str(token)) > _LONGEST_TOKEN:
        token = None
    if not request.is_stateless:
        level = peer.level if peer.version is not None else None
        return replace(context, progress_token=token, level=level)
    version = version_of(request)
    wanted = request.meta.get(f"{PREFIX}logLevel")
    level = None if wanted is None else log_level(wanted)
    return replace(context, version=version, progress_token=token, level=level)
