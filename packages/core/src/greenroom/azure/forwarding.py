"""Requests to custom containers of a pool in Azure, or of `greenroom serve`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator

from greenroom.azure.codecs.shared import quote_segment
from greenroom.azure.http import MARGIN, Connection
from greenroom.azure.settings import AzureSettings
from greenroom.backend import HttpRequest, HttpResponse

_ONE_DAY = 86_400.0


class Forwarding:
    """The part of a remote pool that sends requests to custom containers. They are never sent twice."""

    _http: Connection
    _settings: AzureSettings

    @contextlib.asynccontextmanager
    async def request(
        self, identifier: str, request: HttpRequest, *, timeout: float | None
    ) -> AsyncGenerator[HttpResponse, None]:
        seconds = timeout or self._settings.timeout
        separator = "&" if "?" in request.target else "?"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
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

            raw = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items())
            async with contextlib.aclosing(content()) as pieces:
                yield HttpResponse(response.status, b"", raw, pieces)
