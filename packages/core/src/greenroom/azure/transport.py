"""The interface between the client and an HTTP library: requests, and responses as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class TransportError(Exception):
    """An exchange failed; the message says how."""


class Unreachable(TransportError):
    """No connection was made, so nothing was sent."""


class Broken(TransportError):
    """The connection broke, timed out or did not speak HTTP; the request may have been received."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send. Times are in seconds and apply to each single read or write."""

    method: str
    url: str
    """Including the query, percent-encoded."""
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = field(default_factory=dict[str, str])
    content: bytes | AsyncIterator[bytes] | None = None
    """An iterator is read once, and sent in chunks."""
    connect_timeout: float = 10.0
    read_timeout: float = 10.0
    write_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Response:
    """The head of a response, and its body as it arrives."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case; the values of a repeated name are joined with commas."""
    chunks: AsyncIterator[bytes]
    """The body as received, not decompressed. Raises `Broken`."""
    close: Callable[[], Awaitable[None]]
    """Release the connection; must always be called."""
    raw_headers: Sequence[tuple[bytes, bytes]] = ()
    """All header fields as they were sent."""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Transport(Protocol):
    """Sends requests. Does not follow redirects, keep cookies or retry."""

    async def send(self, request: Request) -> Response:
        """Send a request, and return as soon as the head of the response has arrived.

        Raises:
            Unreachable: nothing was sent.
            Broken: there is no response.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
