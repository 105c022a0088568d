"""Requests to one pool: credentials, time limits, and another try where nothing was dispatched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from greenroom.azure.credentials import Tokens
from greenroom.azure.problems import POOL_FULL, Problem, decode_problem, error_of
from greenroom.azure.wire import Call, Json, Malformed, quote_segment
from greenroom.errors import GreenroomError, InvalidRequest, PoolClosed, ServiceFailed

MARGIN = 60.0
"""Seconds that an answer may take beyond the execution's own time: a pool may wait for a free session."""

_CONNECT_TIMEOUT = 10.0
_CONNECT_ATTEMPTS = 3
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 8.0
_MAX_BODY = 64 << 20
_MAX_PROBLEM = 64 << 10
_MAX_LINK = 16 << 10
_USER_AGENT = f"greenroom/{version('greenroom')} (Language=Python)"

# With these, an answer tells of work in a session, so the request was dispatched whatever the status says.
_OF_A_SESSION = ("operation-id", "operation-location", "x-ms-session-guid", "x-ms-container-execution-duration")


class Connection:
    """Requests to a pool's endpoint. Each method raises `AccessDenied`, `PoolFull`, `ServiceFailed` and so on."""

    def __init__(self, endpoint: str, tokens: Tokens, *, patience: float, transport: Any = None) -> None:
        """
        Args:
            endpoint: of the pool, without a slash at its end.
            tokens: the credentials.
            patience: seconds for which a request is tried again while the pool is full or too busy.
            transport: an `httpx.AsyncBaseTransport` in place of httpx's own.

        Raises:
            InvalidRequest: the endpoint has what no address can have.
        """
        try:
            _ = httpx.URL(endpoint).host
        except (httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: of a name's other alphabet
            raise InvalidRequest(f"The pool {endpoint!r:.200} is not valid: {error}.") from None
        self.endpoint = endpoint
        self._tokens = tokens
        self._patience = patience
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=not endpoint.startswith("http:"),  # no proxy is on this machine's way to itself
            follow_redirects=False,  # a token goes to the endpoint and nowhere else
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=15),
            headers={"User-Agent": _USER_AGENT},
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._tokens.close()

    async def json(self, call: Call, *, timeout: float, path: str | None = None, content: Any = None) -> Json:
        """The answer's JSON, or `None` where it has no body.

        Args:
            call: its `query` has everything but what is in the endpoint.
            timeout: seconds of silence, or for an answer's body, after which it is given up.
            path: the file that it is about, for errors.
            content: the body, unless `call` has one: bytes, or an iterator of them that can be sent once only.
        """
        async with self.stream(call, timeout=timeout, path=path, content=content) as response:
            body = await _read(response, _MAX_BODY, timeout)
        try:
            return json.loads(body) if body else None
        except (ValueError, RecursionError):
            raise ServiceFailed(f"The answer of {self.endpoint} is no JSON: is it the endpoint of a pool?") from None

    @contextlib.asynccontextmanager
    async def stream(
        self, call: Call, *, timeout: float, path: str | None = None, content: Any = None
    ) -> AsyncGenerator[httpx.Response, None]:
        """The answer, a good one, while it arrives; arguments as for `json`."""
        response = await self._send(call, timeout, path, content)
        try:
            yield response
        except httpx.HTTPError as error:
            raise self._broken(call, error) from error
        except Malformed as error:
            raise ServiceFailed(f"The answer of {self.endpoint} cannot be read: {error}.") from error
        finally:
            await response.aclose()

    def following(self, link: str, call: Call) -> Call:
        """The request for the next page of a list, at the address that came with the page before.

        Raises:
            ServiceFailed: the address is not one of this pool's, so it gets no token.
        """
        try:
            address = urlsplit(urljoin(f"{self.endpoint}/{call.path}", link))
        except ValueError as error:
            raise ServiceFailed(f"The list goes on at {link!r:.200}, which is no address: {error}.") from None
        endpoint = urlsplit(self.endpoint)
        if len(link) > _MAX_LINK or (address.scheme, address.netloc) != (endpoint.scheme, endpoint.netloc):
            raise ServiceFailed(f"The list goes on at {link!r:.200}, which is not a part of {self.endpoint}.")
        query = dict(httpx.QueryParams(address.query))
        if query.items() <= call.query.items():
            raise ServiceFailed(f"The list goes on at {link!r:.200}, where it has been already.")
        return replace(call, query={**call.query, **query})

    async def _send(self, call: Call, timeout: float, path: str | None, content: Any) -> httpx.Response:
        once = isinstance(content, AsyncIterator)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        attempt, refusals = 0, 0
        while True:
            if self._client.is_closed:
                raise PoolClosed("The pool was closed.")
            token = await self._tokens.get()
            wait: float | None = None
            error: GreenroomError
            try:
                response = await self._client.send(self._request(call, timeout, content, token), stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
                error = self._unreachable(call, failure)
                if attempt + 1 < _CONNECT_ATTEMPTS:
                    wait = _delay(attempt)
            except httpx.HTTPError as failure:
                error = self._broken(call, failure)
                if call.method == "GET" and attempt + 1 < _CONNECT_ATTEMPTS:  # reading dispatches nothing
                    wait = _delay(attempt)
            else:
                if response.is_success:
                    return response
                problem = await _problem(response, timeout)
                error = error_of(problem, path=path)
                if problem.status == 401 and self._tokens.refused(token) and not refusals and not once:
                    refusals += 1
                    continue
                if not once and _was_not_dispatched(problem, response):
                    wait = (problem.retry_after or 0.0) + _delay(attempt)
            if wait is None or loop.time() + wait > deadline:
                raise error
            attempt += 1
            await asyncio.sleep(wait)

    def _request(self, call: Call, timeout: float, content: Any, token: str | None) -> httpx.Request:
        headers = {"x-ms-client-request-id": str(uuid.uuid4()), **call.headers}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if call.body is not None:
            content = json.dumps(call.body).encode()
            headers["Content-Type"] = "application/json"
        query = "&".join(f"{quote_segment(name)}={quote_segment(value)}" for name, value in call.query.items())
        return self._client.build_request(
            call.method,
            f"{self.endpoint}/{call.path}?{query}",
            content=content,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=_CONNECT_TIMEOUT, pool=None),
        )

    def _unreachable(self, call: Call, error: httpx.HTTPError) -> ServiceFailed:
        nothing = " Nothing was run." if call.method != "GET" else ""
        return ServiceFailed(f"{self.endpoint} cannot be reached: {_reason(error)}.{nothing}")

    def _broken(self, call: Call, error: httpx.HTTPError) -> ServiceFailed:
        unknown = " Whether it was carried out is unknown." if call.method != "GET" else ""
        return ServiceFailed(f"The connection to {self.endpoint} broke: {_reason(error)}.{unknown}")


def _was_not_dispatched(problem: Problem, response: httpx.Response) -> bool:
    full = problem.code == POOL_FULL  # which was seen with 429 and with 500
    return (full or problem.status in {429, 503}) and not any(name in response.headers for name in _OF_A_SESSION)


def _delay(attempt: int) -> float:
    """Seconds before the next try, with jitter, so that many clients do not come back at once."""
    return random.uniform(0.5, 1) * min(_FIRST_DELAY * 2**attempt, _LONGEST_DELAY)  # noqa: S311


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


async def _problem(response: httpx.Response, timeout: float) -> Problem:
    try:
        content = await _read(response, _MAX_PROBLEM, timeout)
    except (httpx.HTTPError, ServiceFailed):
        content = b""
    finally:
        await response.aclose()
    sent = response.request.headers.get("x-ms-client-request-id")
    problem = decode_problem(response.status_code, response.headers, content)
    return problem if problem.request_id else replace(problem, request_id=sent)


async def _read(response: httpx.Response, limit: int, timeout: float) -> bytes:
    content = bytearray()
    try:
        async with asyncio.timeout(timeout):  # httpx has a limit for each piece alone
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > limit:
                    raise ServiceFailed(f"The answer is over the limit of {limit} bytes.")
    except TimeoutError:
        raise ServiceFailed(f"The answer did not end within {timeout:g} seconds.") from None
    return bytes(content)
