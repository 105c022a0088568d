"""Exceptions as JSON, so that callers get the same exception that the server's pool raised."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, cast

from greenroom import errors
from greenroom.errors import AzureDetails, ExecutionFailed, GreenroomError, PoolFull, RequestFailed
from greenroom.models import Execution
from greenroom.wire.values import Json, WireError, check_number, decode, decode_as, encode

ERROR_KEY = "greenroom"
"""The member of an error response with the exception, in addition to Azure's description."""

_KNOWN = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, GreenroomError) and kind is not RequestFailed  # raised by callers
}


def encode_error(error: GreenroomError) -> Json:
    """Return an exception as JSON: its class, or the nearest one in `greenroom.errors`, and its fields."""
    kind = next(each.__name__ for each in type(error).__mro__ if _KNOWN.get(each.__name__) is each)
    fields: dict[str, Json] = {"type": kind, "message": str(error)}
    if isinstance(error, OSError) and error.errno is not None:
        fields["errno"] = errno.errorcode.get(error.errno, error.errno)  # numbers differ between systems
        fields |= {"message": error.strerror, "filename": error.filename}
    if isinstance(error, PoolFull):
        fields |= {"sessions": error.sessions, "retry_after": error.retry_after}
        fields |= {"memory": True} if error.memory else {}
    if isinstance(error, ExecutionFailed):
        fields["execution"] = encode(error.execution)
    if error.azure is not None:
        fields["azure"] = encode(error.azure)
    return fields


def decode_error(value: Json) -> GreenroomError:
    """Return the exception; the inverse of `encode_error`.

    Raises:
        WireError: the JSON has another form, or the class is unknown.
    """
    fields = decode_as(Mapping[str, Any], value, "error")
    name, message = decode_as(str, fields.get("type"), "type"), decode_as(str, fields.get("message"), "message")
    kind = _KNOWN.get(name)
    if kind is None:
        raise WireError(f"the class of an error must be one of {', '.join(_KNOWN)}, not {name!r:.100}")
    error = _error(kind, message, fields)
    if fields.get("azure") is not None:
        error.azure = decode(AzureDetails, fields["azure"])
    return error


def _error(kind: type[GreenroomError], message: str, fields: Mapping[str, Json]) -> GreenroomError:
    if issubclass(kind, PoolFull):
        sessions = decode_as(int, fields.get("sessions"), "sessions")
        wait = decode_as(float | None, fields.get("retry_after"), "retry_after")
        check_number(sessions, "sessions")
        check_number(wait or 0, "retry_after")
        memory = fields.get("memory") is True
        return kind(message, sessions=sessions, retry_after=wait, memory=memory)
    if issubclass(kind, ExecutionFailed):
        return kind(decode(Execution, fields.get("execution")))
    code = fields.get("errno")
    if issubclass(kind, OSError) and code is not None:
        number = getattr(errno, code, None) if isinstance(code, str) else code
        filename = decode_as(str | None, fields.get("filename"), "filename")
        return kind(decode_as(int, number, "errno"), message, *([] if filename is None else [filename]))
    return kind(message)


def error_in(body: Json) -> GreenroomError | None:
    """Return the exception in the body of an error response, if it has one."""
    fields: Json = cast("dict[str, Json]", body).get(ERROR_KEY) if isinstance(body, dict) else None
    try:
        return None if fields is None else decode_error(fields)
    except WireError:
        return None
