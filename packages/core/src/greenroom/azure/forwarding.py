"""Requests to custom containers of a pool in Azure or on a `greenroom serve`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator
from urllib.parse import parse_qsl, unquote

from greenroom.azure.codecs.shared import quote_segment
from greenroom.azure.http import MARGIN, Connection
from greenroom.azure.settings import AzureSettings
from greenroom.backend import HttpRequest, HttpResponse
from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

_ONE_DAY = 86_400.0


class Forwarding:
    """The part of a remote pool that sends requests to custom containers. They are never sent twice."""

    _http: Connection
    _settings: AzureSettings

    @contextlib.asynccontextmanager
    async def request(
        self, identifier: str, request: HttpRequest, *, timeout: float | None
    ) -> AsyncGenerator[HttpResponse, None]:
        _check_target(request.target)
        seconds = timeout or self._settings.timeout
        separator = "&" if "?" in request.target else "?"
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
        async with self._http.forward(
            request.method,
            f"{request.target}{separator}identifier={quote_segment(identifier)}",
            headers,
            request.content,
            timeout=_ONE_DAY if math.isinf(seconds) else MARGIN + seconds,
        ) as response:

            async def content() -> AsyncGenerator[bytes, None]:
                async for piece in response.chunks:
                    yield piece

            async with contextlib.aclosing(content()) as pieces:
                yield HttpResponse(response.status, b"", tuple(response.raw_headers), pieces)


def _check_target(target: str) -> None:
    """Refuse a path that the service would resolve outside of the session.

    Raises:
        InvalidRequest: it has a segment of dots, is a path of the pool itself, or names a session.
    """
    path, _, query = target.partition("?")
    segments = unquote(path).split("/")
    if {".", ".."} & set(segments):
        raise InvalidRequest(f"The path must not contain the segments . and .., as {brief(path)} does.")
    if segments[1] == ".management":
        raise InvalidRequest(f"The path must not be one that the pool itself serves, as {brief(path)} is.")
    if any(name == "identifier" for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise InvalidRequest("The query must not have an identifier: it names the session and is added automatically.")
