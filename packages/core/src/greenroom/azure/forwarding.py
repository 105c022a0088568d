"""Requests to custom containers of a pool in Azure, or of `greenroom serve`."""

from __future__ import annotations

from typing import NoReturn

from greenroom.backend import HttpRequest
from greenroom.errors import InvalidRequest


class Forwarding:
    """The part of `AzurePool` that sends requests to custom containers."""

    def request(self, identifier: str, request: HttpRequest, *, timeout: float | None) -> NoReturn:
        raise InvalidRequest("A pool in Azure cannot be used with request() yet.")
