"""Requests to one pool: credentials, time limits, and retries where nothing was dispatched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import parse_qsl, urljoin, urlsplit

from greenroom.azure.bodies import MIN_RATE, TimeBudget, TooSlow, received, sent
from greenroom.azure.codecs.problems import NO_SESSION, POOL_FULL, Problem, decode_problem, error_of
from greenroom.azure.codecs.shared import Call, Json, Malformed, quote_segment
from greenroom.azure.credentials import Tokens
from greenroom.azure.transport import Request, Response, Transport, TransportError, Unreachable
from greenroom.errors import GreenroomError, PoolClosed, ServiceFailed
from greenroom.runner.json_weight import TooDeep, weigh_json
from greenroom.telemetry import tracing
from greenroom.wire.problems import error_in
from greenroom.wire.values import WireError

T = TypeVar("T")


class ErrorOf(Protocol):
    """Returns the exception for an error response; `path` is the file of the request."""

    def __call__(self, problem: Problem, *, path: str | None) -> GreenroomError: ...


MARGIN = 60.0
"""Seconds for a response beyond the execution's time limit, as a pool can wait for a free session."""

_CONNECT_TIMEOUT = 10.0
_CONNECT_ATTEMPTS = 3
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 8.0
_MAX_BODY = 64 << 20
_MAX_PROBLEM = 64 << 10
_MAX_VALUES = 400_000
"""The maximum number of JSON values in a response: twice those of the longest accepted list, 20,000 files."""
_VALUE = 48  # bytes, as `weigh_json` counts them
_LARGE = 256 << 10
"""The size in bytes from which JSON is parsed in a thread."""
_MAX_LINK = 4 << 10
_USER_AGENT = f"greenroom/{version('greenroom')} (Language=Python)"

_REQUEST_ID = "x-ms-client-request-id"
_ERROR_CODE = "x-ms-error-code"

_OURS = ("api-version", "identifier")
"""Query parameters that the link to the next page must not change."""

# A response with one of these headers comes from a session, so the request was dispatched, whatever its status.
_OF_A_SESSION = ("operation-id", "operation-location", "x-ms-session-guid", "x-ms-container-execution-duration")


class Connection:
    """Sends requests to a pool's endpoint. Each method raises `AccessDenied`, `PoolFull`, `ServiceFailed` and so on."""

    def __init__(
        self,
        endpoint: str,
        tokens: Tokens,
        transport: Transport,
        *,
        retry_for: float,
        errors: ErrorOf = error_of,
    ) -> None:
        """
        Args:
            endpoint: the pool's endpoint, without a trailing slash.
            tokens: the credentials.
            transport: sends the requests; closed with the connection.
            retry_for: seconds for which a request is retried while the pool is full or too busy.
            errors: returns the exception for an error response.
        """
        self.endpoint = endpoint
        self._tokens = tokens
        self._transport = transport
        self._retry_for = retry_for
        self._errors = errors
        self._closed = False

    async def close(self) -> None:
        """Close the transport and the credentials."""
        self._closed = True
        await self._transport.close()
        await self._tokens.close()

    async def json(
        self,
        call: Call,
        decode: Callable[[Json], T],
        *,
        timeout: float,
        path: str | None = None,
        content: Any = None,
        on_headers: Callable[[Mapping[str, str]], None] | None = None,
    ) -> T:
        """Send a request, and return the response's JSON, decoded; a missing body is `None`.

        Args:
            call: the request, whose `query` has all parameters.
            decode: raises `Malformed` for an invalid body; runs in a thread if the body is large.
            timeout: seconds in which the endpoint must accept the request and start its response, and as many again to
                end it; a request's body gets more time by its size.
            path: the file that the request concerns, for errors.
            content: the body, unless `call` has one: bytes, or an iterator of them, which can be sent only once.
            on_headers: called with the headers of the response.
        """
        async with self.stream(call, timeout=timeout, path=path, content=content) as response:
            if on_headers is not None:
                on_headers(response.headers)
            return await read_json(response, decode, timeout=timeout)

    @contextlib.asynccontextmanager
    async def stream(
        self, call: Call, *, timeout: float, path: str | None = None, content: Any = None
    ) -> AsyncGenerator[Response, None]:
        """Send a request, and yield its successful response as it arrives; arguments as for `json`."""
        response = await self._send(call, timeout, path, content)
        try:
            yield response
        except (TransportError, TooSlow) as error:
            raise self._broken(call, error) from error
        except (Malformed, WireError) as error:
            raise ServiceFailed(f"The response from {self.endpoint} cannot be read: {error}.") from error
        finally:
            await response.close()

    @contextlib.asynccontextmanager
    async def forward(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], content: Any, *, timeout: float
    ) -> AsyncGenerator[Response, None]:
        """Send a request for a custom container once, and yield its response, whatever its status.

        Args:
            method, headers, content: as they are sent.
            target: the path below the endpoint, with a leading slash, and the query.
            timeout: seconds until the response starts.
        """
        if self._closed:
            raise PoolClosed("The pool was closed.")
        token = await self._tokens.get()
        own = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", _REQUEST_ID: str(uuid.uuid4())}
        own.update(tracing.headers())
        if token is not None:
            own["Authorization"] = f"Bearer {token}"
        given = {name.lower() for name, _ in headers}
        headers = [
            *((name, value) for name, value in own.items() if name == "Authorization" or name.lower() not in given),
            *((name, value) for name, value in headers if token is None or name.lower() != "authorization"),
        ]
        request = Request(
            method,
            f"{self.endpoint}{target}",
            headers,
            content,
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=timeout,
            write_timeout=timeout,
        )
        call = Call(method, target)
        try:
            response = await self._transport.send(request)
        except Unreachable as error:
            raise self._unreachable(call, error) from error
        except TransportError as error:
            raise self._broken(call, error) from error
        try:
            if not response.is_success and _ERROR_CODE in response.headers:  # the service's own, not the container's
                problem, whole = await _problem(request, response, MARGIN)
                raise whole or self._errors(problem, path=None)
            yield response
        except TransportError as error:
            raise self._broken(call, error) from error
        finally:
            await response.close()

    def download(self, response: Response, *, timeout: float, limit: int) -> AsyncGenerator[bytes, None]:
        """Yield the content of a response of `stream`, within its block.

        Args:
            response: the response.
            timeout: seconds to wait in total, not counting the time for its bytes.
            limit: the maximum size of the file in bytes; the caller counts them.
        """
        return received(response, TimeBudget(timeout), limit)

    def following(self, link: str, call: Call) -> Call:
        """Return the request for the next page of a list, from the link in the previous page.

        Raises:
            ServiceFailed: the link does not lead to a new page of this pool; no other address gets the token.
        """
        if len(link) > _MAX_LINK:
            raise ServiceFailed(f"The link to the next page must have at most {_MAX_LINK} characters, not {len(link)}.")
        try:
            address = urlsplit(urljoin(f"{self.endpoint}/{call.path}", link))
            query = dict(parse_qsl(address.query, keep_blank_values=True))
        except ValueError as error:
            raise ServiceFailed(f"The link to the next page must be a URL, not {link!r:.200}: {error}.") from None
        endpoint = urlsplit(self.endpoint)
        if (address.scheme, address.netloc) != (endpoint.scheme, endpoint.netloc):
            raise ServiceFailed(f"The link to the next page must be below {self.endpoint}, not {link!r:.200}.")
        ours = {name: value for name, value in call.query.items() if name in _OURS}
        query = {**call.query, **query, **ours}
        if query == call.query:
            raise ServiceFailed(f"The link to the next page must point to a new page, not repeat {link!r:.200}.")
        return replace(call, query=query)

    async def _send(self, call: Call, timeout: float, path: str | None, content: Any) -> Response:
        once = isinstance(content, AsyncIterator)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._retry_for
        attempt, refusals = 0, 0
        while True:
            if self._closed:
                raise PoolClosed("The pool was closed.")
            token = await self._tokens.get()
            wait: float | None = None
            error: GreenroomError
            try:
                request, response = await self._response(call, timeout, content, token)
            except Unreachable as failure:
                error = self._unreachable(call, failure)
                error.__cause__ = failure
                if attempt + 1 < _CONNECT_ATTEMPTS:
                    wait = _delay(attempt)
            except (TransportError, TooSlow) as failure:
                error = self._broken(call, failure)
                if call.method == "GET" and attempt + 1 < _CONNECT_ATTEMPTS:  # a GET dispatches nothing
                    wait = _delay(attempt)
            else:
                if response.is_success:
                    return response
                problem, whole = await _problem(request, response, timeout)
                error = whole or self._errors(problem, path=path)
                if problem.status == 401 and self._tokens.refused(token) and not refusals and not once:
                    refusals += 1
                    continue
                if not once and _was_not_dispatched(problem, response):
                    wait = (problem.retry_after or 0.0) + _delay(attempt)
            if wait is None or loop.time() + wait > deadline:
                raise error
            attempt += 1
            await asyncio.sleep(wait)

    async def _response(self, call: Call, timeout: float, content: Any, token: str | None) -> tuple[Request, Response]:
        """Send a request; return it and its response once the head has arrived.

        Raises:
            TransportError: there is no response.
            TooSlow: the endpoint took too long to accept the request or to respond. A transport limits the time of each
                read and write, but not their number.
        """
        limit = asyncio.timeout(None)
        if isinstance(content, AsyncIterator):
            content = sent(cast("AsyncIterator[bytes]", content), timeout, limit)
        request = self._request(call, timeout, content, token)
        size = len(request.content) if isinstance(request.content, bytes) else 0
        try:
            async with limit:
                limit.reschedule(asyncio.get_running_loop().time() + _CONNECT_TIMEOUT + timeout + size / MIN_RATE)
                return request, await self._transport.send(request)
        except TimeoutError:
            if limit.expired():
                raise TooSlow("the request must be accepted and answered in time") from None
            raise

    def _request(self, call: Call, timeout: float, content: Any, token: str | None) -> Request:
        headers = {
            "User-Agent": _USER_AGENT,
            "Accept-Encoding": "identity",  # a compressed body can be a bomb
            _REQUEST_ID: str(uuid.uuid4()),
            **tracing.headers(),
            **call.headers,
        }
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if call.body is not None:
            content = json.dumps(call.body).encode()
            headers["Content-Type"] = "application/json"
        size = len(content) if isinstance(content, bytes) else 0  # written at one time
        query = "&".join(f"{quote_segment(name)}={quote_segment(value)}" for name, value in call.query.items())
        return Request(
            call.method,
            f"{self.endpoint}/{call.path}?{query}" if query else f"{self.endpoint}/{call.path}",
            headers,
            content,
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=timeout,
            write_timeout=timeout + size / MIN_RATE,
        )

    def _unreachable(self, call: Call, error: Exception) -> ServiceFailed:
        nothing = " Nothing was run." if call.method != "GET" else ""
        return ServiceFailed(f"{self.endpoint} cannot be reached: {error}.{nothing}")

    def _broken(self, call: Call, error: Exception) -> ServiceFailed:
        unknown = " It is unknown whether the request was carried out." if call.method != "GET" else ""
        return ServiceFailed(f"The connection to {self.endpoint} broke: {error}.{unknown}")


async def read_json(response: Response, decode: Callable[[Json], T], *, timeout: float) -> T:
    """Read the JSON of a response of `stream`, within its block, and decode it as `json` does."""
    body = await _read(response, _MAX_BODY, timeout)
    if len(body) > _LARGE:
        return await asyncio.to_thread(_parse, body, decode)
    return _parse(body, decode)


def _was_not_dispatched(problem: Problem, response: Response) -> bool:
    full = problem.code == POOL_FULL  # observed with 429 and with 500
    return (full or problem.status in {429, 503}) and not any(name in response.headers for name in _OF_A_SESSION)


def _delay(attempt: int) -> float:
    """Return the seconds before the next attempt, with jitter, so that clients do not retry simultaneously."""
    return random.uniform(0.5, 1) * min(_FIRST_DELAY * 2**attempt, _LONGEST_DELAY)  # noqa: S311


def _parse(body: bytes, decode: Callable[[Json], T]) -> T:
    """Weigh, parse and decode JSON.

    Raises:
        Malformed: it is not JSON, has too many values, or `decode` refuses it.
    """
    if not body:
        return decode(None)
    most = len(body) + _VALUE * _MAX_VALUES
    try:
        if weigh_json(body, most) > most:
            raise Malformed(f"it must have at most {_MAX_VALUES} values")
        value = json.loads(body)
    except TooDeep as error:
        raise Malformed(f"{error}") from None
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed("it must be JSON; is the URL right?") from None
    return decode(value)


async def _problem(request: Request, response: Response, timeout: float) -> tuple[Problem, GreenroomError | None]:
    """Return the error in a response, and the exception, which only Greenroom servers send."""
    try:
        content = await _read(response, _MAX_PROBLEM, timeout)
    except (TransportError, TooSlow, Malformed):
        content = b""
    finally:
        await response.close()
    problem = decode_problem(response.status, response.headers, content)
    if not problem.request_id:
        problem = replace(problem, request_id=dict(request.headers)[_REQUEST_ID])
    try:
        return problem, error_in(json.loads(content))
    except (ValueError, RecursionError):
        return problem, None


async def _read(response: Response, limit: int, timeout: float) -> bytes:
    """Read the whole body.

    Raises:
        Malformed: it exceeds the limit, or its encoding is not accepted.
        TooSlow: it did not end in time.
    """
    content = bytearray()
    whole = asyncio.timeout(timeout)
    try:
        async with whole, contextlib.aclosing(received(response, TimeBudget(timeout), limit)) as pieces:
            async for piece in pieces:
                content += piece
                if len(content) > limit:
                    raise Malformed(f"its body must be at most {limit} bytes")
    except TimeoutError:
        if whole.expired():
            raise TooSlow(f"its body must end within {timeout:g} seconds") from None
        raise
    return bytes(content)


@contextlib.contextmanager
def no_session() -> Generator[None, None, None]:
    """Ignore the error that there is no such session."""
    try:
        yield
    except GreenroomError as error:
        if error.azure is None or error.azure.code not in NO_SESSION:
            raise
