"""The messages of the Model Context Protocol, and the differences between its versions. Pure.

Contract: modelcontextprotocol.io/specification, the pages of each version. Versions up to 2025-11-25 begin with
`initialize`; from 2026-07-28 on each request carries its version in `_meta`, without initialization.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NoReturn, TypeAlias, cast

from greenroom.runner.json_weight import TooDeep, weigh_json
from greenroom.untrusted import brief

Json: TypeAlias = Any

STATELESS = "2026-07-28"
"""The version in which each request is independent."""
WITH_HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26")
"""The versions that begin with `initialize`."""
OLDEST = WITH_HANDSHAKE[-1]
"""The version of a client that names none, and the only one with batches."""
VERSIONS = (STATELESS, *WITH_HANDSHAKE)

PREFIX = "io.modelcontextprotocol/"
"""The prefix of the protocol's own names in `_meta`."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
RESOURCE_NOT_FOUND = -32002  # up to 2025-11-25; later `INVALID_PARAMS`
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022
TOO_BUSY = 429  # applications can use numbers outside JSON-RPC's own range

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

CANCELLED = 499
MOST_IN_BATCH = 100
_CACHE_HINTS = frozenset(("ttlMs", "cacheScope"))
_MOST_VALUES = 10_000
_VALUE = 48  # bytes, as `weigh_json` counts them


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


class ProtocolError(Exception):
    """A request that cannot be answered with a result."""

    def __init__(self, code: int, message: str, data: Json = None, *, id: str | int | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.code = code
        self.data = data
        self.id = id
        """The request's id, if it could be read."""


@dataclass(frozen=True, slots=True)
class Request:
    """A message that expects an answer."""

    id: str | int
    method: str
    params: Mapping[str, Json]
    meta: Mapping[str, Json] = field(default_factory=dict[str, Json])
    """The `_meta` of its parameters."""

    @property
    def is_stateless(self) -> bool:
        """Whether it carries its version, as from 2026-07-28 on."""
        return f"{PREFIX}protocolVersion" in self.meta


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that expects no answer."""

    method: str
    params: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's response; this server sends no requests, so it belongs to none."""


Message: TypeAlias = Request | Notification | Answer


# Reading


def parse(content: bytes) -> Json:
    """Parse a message or a batch.

    Raises:
        ProtocolError: it is not JSON, or is nested more deeply or has more values than any request needs.
    """
    most = len(content) + _VALUE * _MOST_VALUES
    try:
        if weigh_json(content, most) > most:
            raise ProtocolError(INVALID_REQUEST, f"A message must have at most {_MOST_VALUES} values.")
        return json.loads(content, parse_constant=_not_a_constant)
    except TooDeep as error:
        raise ProtocolError(INVALID_REQUEST, f"A message must not be nested so deeply: {error}.") from None
    except (ValueError, RecursionError):
        raise ProtocolError(PARSE_ERROR, "A message must be JSON in UTF-8.") from None


def _not_a_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read(value: Json) -> Message:
    """Return one message.

    Raises:
        ProtocolError: it is not valid; the error has its id if that is valid.
    """
    if not isinstance(value, dict):
        raise ProtocolError(INVALID_REQUEST, f"A message must be an object, not {_kind(value)}.")
    fields = cast("dict[str, Json]", value)
    id_, method = fields.get("id"), fields.get("method")
    has_id = isinstance(id_, str | int) and not isinstance(id_, bool)
    known = id_ if has_id else None
    if fields.get("jsonrpc") != "2.0":
        raise ProtocolError(INVALID_REQUEST, "The field 'jsonrpc' of a message must be \"2.0\".", id=known)
    if "method" not in fields and has_id and ("result" in fields or "error" in fields):
        return Answer()
    if not isinstance(method, str):
        raise ProtocolError(INVALID_REQUEST, "A message must have a 'method' that is a string.", id=known)
    if "id" in fields and not has_id:
        raise ProtocolError(INVALID_REQUEST, f"The id of a request must be a string or an integer, not {_kind(id_)}.")
    params = _object(fields.get("params"), "The params of a message", known)
    if known is None:
        return Notification(method, params)
    return Request(known, method, params, _object(params.get("_meta"), "The _meta of a request", known))


def _object(value: Json, name: str, id_: str | int | None) -> dict[str, Json]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError(INVALID_PARAMS, f"{name} must be an object, not {_kind(value)}.", id=id_)
    return cast("dict[str, Json]", value)


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names[type(value)]


def read_batch(values: list[Json], version_: str) -> list[Message | ProtocolError]:
    """Return the messages of a batch, with an error in place of each invalid message.

    Raises:
        ProtocolError: this version has no batches, or the batch is empty or too long.
    """
    if version_ != OLDEST:
        raise ProtocolError(INVALID_REQUEST, f"A batch must use version {OLDEST}, not {version_}.")
    if not 1 <= len(values) <= MOST_IN_BATCH:
        raise ProtocolError(INVALID_REQUEST, f"A batch must have 1 to {MOST_IN_BATCH} messages, not {len(values)}.")
    messages = [_read_or_error(value) for value in values]
    ids = [message.id for message in messages if isinstance(message, Request)]
    if len(set(ids)) < len(ids):
        raise ProtocolError(INVALID_REQUEST, "The requests of a batch must have different ids.")
    return messages


def _read_or_error(value: Json) -> Message | ProtocolError:
    try:
        message = read(value)
    except ProtocolError as error:
        return error
    if isinstance(message, Request) and message.method == "initialize":
        return ProtocolError(INVALID_REQUEST, "The request 'initialize' must not be in a batch.", id=message.id)
    return message


# Versions


def version_of(request: Request) -> str:
    """Return the version that a stateless request names.

    Raises:
        ProtocolError: the server does not support it, or the request lacks a field that it requires.
    """
    named = request.meta[f"{PREFIX}protocolVersion"]
    if not isinstance(named, str):
        raise ProtocolError(INVALID_PARAMS, f"The protocolVersion must be a string, not {_kind(named)}.")
    if named != STATELESS:
        raise unsupported(named)
    if not isinstance(request.meta.get(f"{PREFIX}clientCapabilities"), dict):
        raise ProtocolError(
            INVALID_PARAMS, f"The _meta of a request must have the object '{PREFIX}clientCapabilities'."
        )
    return named


def negotiated(request: Request) -> str:
    """Return the version for a client that begins with `initialize`: its own, or else the latest of that kind.

    A client that names none gets 2025-03-26, as from Azure.
    """
    named = request.params.get("protocolVersion")
    if named is None:
        return OLDEST
    return named if named in WITH_HANDSHAKE else WITH_HANDSHAKE[0]


def unsupported(named: str) -> ProtocolError:
    """Return the error about a version that this server does not support."""
    return ProtocolError(
        UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": list(VERSIONS), "requested": named[:100]}
    )


def log_level(value: Json) -> str:
    """Return a level of `LEVELS`.

    Raises:
        ProtocolError: the value is not one of them.
    """
    if value not in LEVELS:
        raise ProtocolError(INVALID_PARAMS, f"The level must be one of {', '.join(LEVELS)}, not {brief(value)}.")
    return value


# Writing


def server_info() -> Json:
    return {"name": "greenroom", "title": "Greenroom", "version": version("greenroom")}


def result_message(request: Request, result: Mapping[str, Json], version_: str) -> Json:
    """Return the response to a request, with the fields that only its version has."""
    if version_ == STATELESS:
        meta = {f"{PREFIX}serverInfo": server_info(), **result.get("_meta", {})}
        return {"jsonrpc": "2.0", "id": request.id, "result": {"resultType": "complete", **result, "_meta": meta}}
    older = {name: value for name, value in result.items() if name not in _CACHE_HINTS}
    return {"jsonrpc": "2.0", "id": request.id, "result": older}


def error_message(error: ProtocolError, id_: str | int | None = None) -> Json:
    """Return the error response to a request, or to a message whose id could not be read.

    In that case it has no id: unlike in JSON-RPC, the protocol's schema does not allow `null`.
    """
    known = error.id if id_ is None else id_
    body: dict[str, Json] = {"code": error.code, "message": str(error)}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", **({} if known is None else {"id": known}), "error": body}


def notification(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}
