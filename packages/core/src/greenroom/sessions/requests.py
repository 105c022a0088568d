"""Requests to a custom container, and its responses. Methods that wait exist in a blocking form and as `a…`."""

from __future__ import annotations

import asyncio
import contextlib
import json as json_module
import math
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote, urlencode

from greenroom.backend import Backend, HttpRequest, HttpResponse, RawHeaders
from greenroom.errors import InvalidRequest, RequestFailed, ServiceFailed, in_units
from greenroom.sessions.open_pool import OpenPool
from greenroom.sessions.rules import check_timeout
from greenroom.untrusted import brief

Params: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]]
RequestHeaders: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
Content: TypeAlias = bytes | str | Iterable[bytes] | AsyncIterable[bytes]

# Not every codec that Python has: some take quadratic time.
_CHARSET = re.compile(r"""charset\s*=\s*["']?(us-ascii|iso-8859-1|iso-8859-15|windows-1252|utf-16)\b""", re.IGNORECASE)
_LONGEST_LINE = 1 << 20
_KEPT_AS_SENT = "/?%:@!$&'()*+,;=~-._[]"


class Headers(Mapping[str, str]):
    """The headers of a response; names are case-insensitive."""

    def __init__(self, raw: RawHeaders) -> None:
        self.raw = raw
        """The headers as they were sent, in order."""

    def __getitem__(self, name: str) -> str:
        found = self.get_list(name)
        if not found:
            raise KeyError(name)
        return ", ".join(found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1").lower() for name, _ in self.raw))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Headers({brief(dict(self))})"

    def get_list(self, name: str) -> list[str]:
        """The values of a header that can be repeated, such as `Set-Cookie`."""
        sought = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for each, value in self.raw if each.lower() == sought]


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """The response of a custom container."""

    status: int
    headers: Headers
    content: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    @property
    def text(self) -> str:
        """The content as text, in the encoding that the response names, otherwise in UTF-8."""
        return self.content.decode(_charset(self.headers), "replace")

    def json(self) -> Any:
        """The content, parsed as JSON.

        Raises:
            ServiceFailed: the content is not JSON.
        """
        try:
            return json_module.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise ServiceFailed(f"The container's response must be JSON, not {brief(self.text)}: {error}.") from None

    def raise_for_status(self) -> Self:
        """Return this response if its status is below 400.

        Raises:
            RequestFailed: the status is 400 or above.
        """
        if not self.ok:
            raise RequestFailed(f"The container responded with status {self.status}: {brief(self.text)}", self)
        return self

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.content):,} bytes>"


class StreamedResponse:
    """A response that is read as it arrives, in a context that sends the request: `with` or `async with`.

    Created by `Session.stream_request`.
    """

    status: int
    headers: Headers

    def __init__(self, pool: OpenPool, identifier: str, request: HttpRequest, timeout: float | None) -> None:
        self._pool = pool
        self._identifier = identifier
        self._request = request
        self._timeout = check_timeout(timeout, most=None)
        self._stack = contextlib.AsyncExitStack()
        self._response: HttpResponse | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    def iter_bytes(self) -> Generator[bytes, None, None]:
        """Yield the content in pieces."""
        while (piece := self._pool.run(self._next())) is not None:
            yield piece

    async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """Like `iter_bytes`."""
        while (piece := await self._pool.arun(self._next())) is not None:
            yield piece

    def iter_lines(self) -> Generator[str, None, None]:
        """Yield the content in lines without line endings, for example for server-sent events."""
        lines = _Lines(_charset(self.headers))
        for piece in self.iter_bytes():
            yield from lines.feed(piece)
        yield from lines.rest()

    async def aiter_lines(self) -> AsyncGenerator[str, None]:
        """Like `iter_lines`."""
        lines = _Lines(_charset(self.headers))
        async for piece in self.aiter_bytes():
            for line in lines.feed(piece):
                yield line
        for line in lines.rest():
            yield line

    def read(self) -> Response:
        """Return the whole response."""
        return self._pool.run(self._read())

    async def aread(self) -> Response:
        """Like `read`."""
        return await self._pool.arun(self._read())

    def raise_for_status(self) -> Self:
        """Return this response if its status is below 400.

        Raises:
            RequestFailed: the status is 400 or above.
        """
        if not self.ok:
            raise RequestFailed(f"The container responded with status {self.status}.", self)
        return self

    def __enter__(self) -> Self:
        self._pool.run(self._begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.run(self._stack.aclose())

    async def __aenter__(self) -> Self:
        await self._pool.arun(self._begin())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.arun(self._stack.aclose())

    async def _begin(self) -> None:
        if self._response is not None:
            raise InvalidRequest("A streamed response can be entered only once. Call stream_request() again.")
        entering = self._pool.backend.request(self._identifier, self._request, timeout=self._timeout)
        self._response = await self._stack.enter_async_context(entering)
        self.status, self.headers = self._response.status, Headers(self._response.headers)

    async def _next(self) -> bytes | None:
        return await anext(self._entered.content, None)

    async def _read(self) -> Response:
        content = await _read(self._entered, self._pool.backend.file_limit)
        return Response(self.status, self.headers, content)

    @property
    def _entered(self) -> HttpResponse:
        if self._response is None:
            raise InvalidRequest("A streamed response must be read within its context: with session.stream_request(…).")
        return self._response


_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BREAKS = re.compile(rb"[\r\n\0]")


class _Lines:
    """Turn pieces of text into lines."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._rest = b""

    def feed(self, piece: bytes) -> list[str]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise ServiceFailed(f"A line of the container's response must be at most {in_units(_LONGEST_LINE)}.")
        return [line.removesuffix(b"\r").decode(self._encoding, "replace") for line in lines]

    def rest(self) -> list[str]:
        return [self._rest.decode(self._encoding, "replace")] if self._rest else []


def request_of(
    method: str,
    path: str,
    *,
    params: Params | None,
    headers: RequestHeaders | None,
    content: Content | None,
    data: Params | bytes | None,
    json: Any,
) -> HttpRequest:
    """Return the request that the arguments of `Session.request` describe.

    Raises:
        InvalidRequest: an argument breaks a rule.
    """
    for name, value in (("method", method), ("path", path)):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(f"The {name} must be str, not {type(value).__name__}.")
    if not path.startswith("/"):
        raise InvalidRequest(f"The path must begin with a slash, not {brief(path)}.")
    if isinstance(data, bytes):
        if content is not None:
            raise InvalidRequest("A request must have only one of content, data and json, not content and data.")
        content, data = data, None
    given = [name for name, value in (("content", content), ("data", data), ("json", json)) if value is not None]
    if len(given) > 1:
        raise InvalidRequest(f"A request must have only one of content, data and json, not {' and '.join(given)}.")
    body: bytes | AsyncIterator[bytes] = b""
    kind = ""
    if json is not None:
        try:
            body, kind = json_module.dumps(json, allow_nan=False).encode(), "application/json"
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"The argument json must be JSON: {error}.") from None
    elif data is not None:
        body, kind = _fields(data, "data").encode(), "application/x-www-form-urlencoded"
    elif isinstance(content, str):
        body, kind = _encoded(content), "text/plain; charset=utf-8"
    elif content is not None:
        body = bytes(content) if isinstance(content, bytes | bytearray | memoryview) else _pieces(content)
    raw = _raw(headers)
    if kind and b"content-type" not in {name.lower() for name, _ in raw}:
        raw = (*raw, (b"Content-Type", kind.encode()))
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The path must be encodable as UTF-8: {error}.") from None
    target = quote(path.partition("#")[0], safe=_KEPT_AS_SENT)
    if params and (query := _fields(params, "params")):
        target += f"{'&' if '?' in target else '?'}{query}"
    return HttpRequest(method.upper(), target, raw, body)


async def whole_response(backend: Backend, identifier: str, request: HttpRequest, timeout: float | None) -> Response:
    """Send a request and read its response, both within the time limit."""
    timeout = check_timeout(timeout, most=None)
    try:
        # The pool's own limit applies until the response begins; this one also includes its content.
        async with asyncio.timeout(timeout):
            async with backend.request(identifier, request, timeout=math.inf if timeout else None) as response:
                content = await _read(response, backend.file_limit)
    except TimeoutError:
        raise ServiceFailed(
            f"The container did not respond within {timeout:g} seconds to {request.method} {request.target:.200}."
        ) from None
    return Response(response.status, Headers(response.headers), content)


async def _read(response: HttpResponse, limit: int) -> bytes:
    content = bytearray()
    async for piece in response.content:
        content += piece
        if len(content) > limit:
            raise ServiceFailed(
                f"The container's response must be at most {in_units(limit)} (the option file_limit). Read longer "
                "ones with stream_request()."
            )
    return bytes(content)


def _fields(fields: Params, name: str) -> str:
    try:
        return urlencode(fields, doseq=True)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The argument {name} must be a mapping or pairs: {error}.") from None


def _encoded(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The content must be encodable as UTF-8: {error}.") from None


def _raw(headers: RequestHeaders | None) -> RawHeaders:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
    try:
        raw = tuple((name.encode("ascii"), value.encode("utf-8")) for name, value in pairs)
    except (AttributeError, ValueError) as error:
        raise InvalidRequest(f"The names and values of headers must be str: {error}.") from None
    for name, value in raw:
        if not _FIELD_NAME.fullmatch(name) or _BREAKS.search(value):
            raise InvalidRequest(
                f"A header must have a valid HTTP name and a one-line value; {brief(name.decode('ascii'))} does not."
            )
    return raw


async def _pieces(content: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
        return
    try:
        pieces = iter(content)
    except TypeError:
        raise InvalidRequest(
            f"The content must be bytes, str or an iterable of bytes, not {type(content).__name__}."
        ) from None
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


def _charset(headers: Headers) -> str:
    found = _CHARSET.search(headers.get("content-type", ""))
    return found[1] if found else "utf-8"
