"""HTTP with httpx. No other module imports httpx, and its types and errors do not leave this module."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Mapping
from contextlib import AbstractContextManager
from http.cookiejar import CookieJar
from typing import Any, Final, Self, cast

import httpx

from greenroom.azure.transport import Broken, Request, Response, Unreachable
from greenroom.errors import InvalidRequest

KEPT: Final[dict[str, Any]] = {"max_connections": None, "max_keepalive_connections": 100, "keepalive_expiry": 15}
"""How many connections a transport has and keeps, and for how many seconds."""


class HttpxTransport:
    """A `Transport` with a pool of connections."""

    def __init__(self, url: str, *, proxy: str | None = None, ssl_context: ssl.SSLContext | None = None) -> None:
        """
        Args:
            url: the beginning of all request URLs.
            proxy: the URL of an HTTP proxy, used for every request; by default the environment decides (`HTTPS_PROXY`,
                `NO_PROXY`), and plain HTTP, which stays on this machine, uses none.
            ssl_context: decides which certificates are trusted, the proxy's included; by default the usual
                authorities, or those of `SSL_CERT_FILE`.

        Raises:
            InvalidRequest: the URL's host is not a valid name.
        """
        checked_url(url)
        verify: ssl.SSLContext | bool = True if ssl_context is None else ssl_context
        if verify is True and url.startswith("http:"):
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no authorities, as loading them takes 50 ms
        self._client = httpx.AsyncClient(
            proxy=None if proxy is None else _proxy(proxy, ssl_context),
            verify=verify,
            trust_env=not url.startswith("http:"),
            follow_redirects=False,  # only the endpoint may get the token
            limits=httpx.Limits(**KEPT),
            cookies=_NoCookies(),
        )

    async def send(self, request: Request) -> Response:
        with _own_errors():
            response = await self._client.send(
                self._client.build_request(
                    request.method,
                    request.url,
                    content=request.content,
                    headers=dict(request.headers) if isinstance(request.headers, Mapping) else [*request.headers],
                    timeout=httpx.Timeout(
                        connect=request.connect_timeout,
                        read=request.read_timeout,
                        write=request.write_timeout,
                        pool=None,
                    ),
                ),
                stream=True,
            )
        headers, raw = dict(response.headers.items()), response.headers.raw
        return Response(response.status_code, headers, Chunks(response.stream, _own_errors), response.aclose, raw)

    async def close(self) -> None:
        await self._client.aclose()


class Chunks:
    """The body of a response; httpx's own iterators would decompress it without a limit."""

    def __init__(self, stream: object, own_errors: Callable[[], AbstractContextManager[None]]) -> None:
        """
        Args:
            stream: the stream of a response.
            own_errors: turns the library's errors into those of a `Transport`.
        """
        assert isinstance(stream, AsyncIterable)  # noqa: S101  an asynchronous client's always is
        self._chunks: AsyncIterator[bytes] = aiter(cast("AsyncIterable[bytes]", stream))
        self._own_errors = own_errors

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with self._own_errors():
            return await anext(self._chunks)


class _NoCookies(CookieJar):
    """Keeps no cookies: the API has none, and an endpoint could fill the memory with them."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        del response, request


def checked_url(url: str) -> httpx.URL:
    """Return a parsed URL if its host is valid.

    Raises:
        InvalidRequest: it is not a valid name.
    """
    try:
        parsed = httpx.URL(url)
        _ = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: an invalid international label
        raise InvalidRequest(f"The host of a URL must be a valid name, not that of {url!r:.200}: {error}.") from None
    return parsed


def reason(error: Exception) -> str:
    """Return the message of an error, truncated, or its type."""
    return f"{error!s:.500}" or type(error).__name__


def _proxy(url: str, ssl_context: ssl.SSLContext | None) -> httpx.Proxy:
    return httpx.Proxy(url, ssl_context=ssl_context if url.startswith("https:") else None)


@contextlib.contextmanager
def _own_errors() -> Generator[None, None, None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(reason(error)) from None
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:  # InvalidURL: from a redirect
        raise Broken(reason(error)) from None
