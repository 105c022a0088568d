"""A scripted Azure: a `Transport` that gives a test's answers, and records the requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from greenroom import SessionPool
from greenroom.azure import transport
from greenroom.azure.client import AzurePool
from greenroom.azure.settings import AzureSettings
from greenroom.backend import Backend
from greenroom.sessions import OpenPool

ENDPOINT = "https://eastasia.dynamicsessions.io/subscriptions/s/resourceGroups/g/sessionPools/p"
TOKEN = "the-secret-token"


@dataclass(frozen=True)
class Request:
    """A request as it was sent, with its whole body."""

    sent: transport.Request
    content: bytes

    @property
    def method(self) -> str:
        return self.sent.method

    @property
    def url(self) -> str:
        return self.sent.url

    @property
    def path(self) -> str:
        """Below the pool's endpoint, percent-encoded."""
        return urlsplit(self.url).path.partition("/sessionPools/p/")[2]

    @property
    def params(self) -> dict[str, str]:
        pairs = parse_qsl(urlsplit(self.url).query, keep_blank_values=True)
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case."""
        return {name.lower(): value for name, value in dict(self.sent.headers).items()}


@dataclass(frozen=True)
class Answer:
    """A response to send; `content` may be chunks."""

    status: int = 200
    content: bytes | Callable[[], AsyncIterator[bytes]] = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def response(self) -> transport.Response:
        chunks = _chunks_of(self.content) if isinstance(self.content, bytes) else self.content()
        headers = {name.lower(): value for name, value in self.headers.items()}
        return transport.Response(self.status, headers, chunks, _close)


Scripted: TypeAlias = Answer | Exception
Handler: TypeAlias = Callable[[Request], Scripted | Awaitable[Scripted]]


class Azure:
    """Answers each request by `answers` in turn, and by the last one from then on."""

    def __init__(self, *answers: Scripted | Handler) -> None:
        self.answers = list(answers) or [executed()]
        self.requests: list[Request] = []

    async def send(self, request: transport.Request) -> transport.Response:
        content = request.content
        if isinstance(content, AsyncIterator):
            content = b"".join([chunk async for chunk in content])
        recorded = Request(request, content or b"")
        self.requests.append(recorded)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not isinstance(answer, Answer | Exception):
            answer = answer(recorded)
            if isinstance(answer, Awaitable):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer.response()

    async def close(self) -> None:
        pass

    @property
    def calls(self) -> list[str]:
        """Method and path below the endpoint of each request."""
        return [f"{each.method} {each.path}" for each in self.requests]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(each.content) for each in self.requests if each.content.startswith(b"{")]


def backend_of(azure: transport.Transport, endpoint: str = ENDPOINT, **options: Any) -> AzurePool:
    """A pool in that Azure, by default with a key in place of a credential."""
    options = {"api_key": TOKEN, **options} if "credential" not in options else options
    return AzurePool(endpoint, AzureSettings.parse(options), transport=azure)


@contextmanager
def pool_of(azure: transport.Transport, endpoint: str = ENDPOINT, **options: Any) -> Generator[SessionPool, None, None]:
    """As `backend_of`, as what `greenroom.connect` returns."""

    async def make() -> Backend:
        return backend_of(azure, endpoint, **options)

    with SessionPool(OpenPool.open(make)) as pool:
        yield pool


def answered(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), headers)


def executed(stdout: str = "", result: Any = "", status: str = "Succeeded", **fields: Any) -> Answer:
    """An execution that has ended."""
    streams = {"stdout": stdout, "stderr": "", "executionResult": result, "executionTimeInMilliseconds": 1}
    return answered({"id": "e1", "status": status, "result": streams, **fields})


def running(status: int = 200) -> Answer:
    """An execution that is running."""
    return answered({"id": "e1", "executionType": "Asynchronous", "status": "Running"}, status)


def refused(status: int, code: str = "", message: str = "", **headers: str) -> Answer:
    """An error in the contract's form."""
    body = {"error": {"code": code, "message": message, "traceId": "trace-1"}}
    return answered(body, status, **{"x-ms-request-id": "request-1", **headers})


def full(retry_after: str | None = None, status: int = 429) -> Answer:
    """An error as a full pool gives it."""
    message = "The request sessions count is '1'. There are already '5' active sessions and the maximum active sessions"
    body = {"code": "SessionsCountExceedsLimit", "message": f"{message} count is '5'."}
    return answered(body, status, **({} if retry_after is None else {"Retry-After": retry_after}))


async def _chunks_of(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 20):
        yield content[start : start + (1 << 20)]


async def _close() -> None:
    pass
