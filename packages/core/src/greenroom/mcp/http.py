"""The rules of the transport over HTTP: headers, statuses, and events. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from greenroom.mcp.protocol import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    OLDEST,
    PARSE_ERROR,
    PREFIX,
    STATELESS,
    UNSUPPORTED_VERSION,
    WITH_HANDSHAKE,
    Json,
    ProtocolError,
    Request,
    negotiated,
    unsupported,
)
from greenroom.untrusted import brief

EVENTS = "text/event-stream"
KEEP_ALIVE = b":\n\n"
VERSION_HEADER = "mcp-protocol-version"
SESSION_HEADER = "mcp-session-id"

_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""The parameter whose value is also in the header `Mcp-Name`, by method."""
_ENCODED = ("=?base64?", "?=")


def version_from(request: Request, headers: Mapping[str, str], known: str | None) -> str:
    """Return the version of a request, according to its headers; those of a stateless request must match its body.

    Args:
        request: the request.
        headers: by names in lower case.
        known: the version that the client negotiated, if known.

    Raises:
        ProtocolError: the version is unknown, or headers and body differ.
    """
    header = headers.get(VERSION_HEADER)
    if request.is_stateless:
        _check_mirrored(header, request.meta[f"{PREFIX}protocolVersion"], "MCP-Protocol-Version")
        if header == STATELESS:
            _check_mirrored(headers.get("mcp-method"), request.method, "Mcp-Method")
            if (parameter := _NAMED_BY.get(request.method)) is not None:
                _check_mirrored(_decoded(headers.get("mcp-name")), request.params.get(parameter), "Mcp-Name")
        return STATELESS
    if request.method == "initialize":
        return negotiated(request)
    return version_of_header(header, known)


def version_of_header(header: str | None, known: str | None) -> str:
    """Return the version of a message that does not name one itself.

    Raises:
        ProtocolError: the header names an unknown version, or one whose requests name it themselves.
    """
    if header == STATELESS:
        raise ProtocolError(
            INVALID_PARAMS, f"A request of version {STATELESS} must have '{PREFIX}protocolVersion' in its _meta."
        )
    if header is not None and header not in WITH_HANDSHAKE:
        raise unsupported(header)
    return header or known or OLDEST


def _check_mirrored(header: str | None, value: Json, name: str) -> None:
    if header is None or header != value:
        given = "is missing" if header is None else f"{brief(header)} does not match"
        raise ProtocolError(HEADER_MISMATCH, f"Header mismatch: {name} {given}: the body has {brief(value)}.")


def _decoded(header: str | None) -> str | None:
    begin, end = _ENCODED
    if header is None or not (header.startswith(begin) and header.endswith(end)):
        return header
    try:
        return base64.b64decode(header[len(begin) : -len(end)], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ProtocolError(HEADER_MISMATCH, "Header mismatch: Mcp-Name must be valid base64 of UTF-8.") from None


def status_of(message: Json, version: str) -> int:
    """Return the status of a response whose body is just this message."""
    if not isinstance(message, dict) or "error" not in message:
        return 200
    code: int = message["error"]["code"]  # pyright: ignore[reportUnknownVariableType]
    if code == METHOD_NOT_FOUND:  # earlier clients take 404 for the end of their session
        return 404 if version == STATELESS else 200
    return 400 if code in {PARSE_ERROR, INVALID_REQUEST, HEADER_MISMATCH, UNSUPPORTED_VERSION} else 200


def accepts(accept: str | None) -> tuple[bool, bool]:
    """Return whether a client accepts JSON, and whether it asks for events; without the header it accepts JSON."""
    types = {part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")}
    return bool(types & {"application/json", "application/*", "*/*"}), EVENTS in types


def event(line: bytes) -> bytes:
    """Return a message, given as a line of JSON, as a server-sent event."""
    return b"event: message\ndata: " + line + b"\n"
