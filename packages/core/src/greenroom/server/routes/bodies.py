"""Bodies of requests."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import Request

from greenroom.azure.codecs.problems import BadRequest
from greenroom.azure.codecs.shared import Json
from greenroom.runner.json_weight import TooDeep, weigh_json
from greenroom.server.budget import Share
from greenroom.server.responses import CLOSE, no_room, too_large

_MAX_VALUES = 10_000
_VALUE = 48  # bytes, as `weigh_json` counts them
_LARGE = 256 << 10
"""Bytes from which JSON is parsed in a thread."""


async def read_json(request: Request, held: Share, limit: int) -> Json:
    """Read the body of a request.

    Args:
        request: the request.
        held: the memory reserved for the request.
        limit: the maximum size of the body in bytes.

    Raises:
        RequestRefused: the body exceeds its limit or the remaining memory.
        BadRequest: the body is not JSON, or has too many values.
    """
    body = await read_body(request, held, limit)
    return await asyncio.to_thread(_parse, body) if len(body) > _LARGE else _parse(body)


async def read_body(request: Request, held: Share, limit: int) -> bytes:
    """Read the body of a request as bytes.

    Args:
        request: the request.
        held: the memory reserved for the request.
        limit: the maximum size of the body in bytes.

    Raises:
        RequestRefused: the body exceeds its limit or the remaining memory.
    """
    content = bytearray()
    async for chunk in request.stream():
        if len(content) + len(chunk) > limit:
            raise too_large(f"The request's body must have at most {limit} bytes.")
        if not held.add(len(chunk)):
            raise no_room("The server's memory for requests is too full to receive this body. Try again.", CLOSE)
        content += chunk
    return bytes(content)


def _parse(body: bytes) -> Json:
    """Estimate the memory of JSON, then parse it: a few bytes can become many values.

    Raises:
        BadRequest: it is not JSON, or has more values than any request needs.
    """
    most = len(body) + _VALUE * _MAX_VALUES
    try:
        if weigh_json(body, most) > most:
            raise BadRequest(f"The request's body must have at most {_MAX_VALUES} values.")
        return json.loads(body)
    except TooDeep as error:
        raise BadRequest(f"The request's body must not be nested so deeply: {error}.") from None
    except BadRequest:
        raise
    except (ValueError, RecursionError):
        raise BadRequest("The request's body must be JSON.") from None
