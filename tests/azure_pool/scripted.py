"""Azure as a test wants it: an httpx transport that answers by the test's own words, and remembers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import httpx

from greenroom import SessionPool, connect

ENDPOINT = "https://eastasia.dynamicsessions.io/subscriptions/s/resourceGroups/g/sessionPools/p"
TOKEN = "the-secret-token"

Answer: TypeAlias = httpx.Response | Exception
Handler: TypeAlias = Callable[[httpx.Request], Answer | Awaitable[Answer]]


class Azure:
    """Answers each request by `answers`, one after the other, the last one for all that follow."""

    def __init__(self, *answers: Answer | Handler) -> None:
        self.answers = list(answers) or [executed()]
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not isinstance(answer, httpx.Response | Exception):
            answer = answer(request)
            if isinstance(answer, Awaitable):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        # A response is read once, so each request gets one of its own.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def calls(self) -> list[str]:
        """Method and path below the endpoint of each request."""
        return [f"{each.method} {each.url.path.partition('/sessionPools/p/')[2]}" for each in self.requests]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(each.content) for each in self.requests if each.content.startswith(b"{")]


@contextmanager
def pool_of(azure: Azure, **options: Any) -> Generator[SessionPool, None, None]:
    """A pool in that Azure, by default with a key in place of a credential."""
    options = {"api_key": TOKEN, **options} if "credential" not in options else options
    with connect(ENDPOINT, transport=httpx.MockTransport(azure), **options) as pool:
        yield pool


def executed(stdout: str = "", result: Any = "", status: str = "Succeeded", **fields: Any) -> httpx.Response:
    """An execution that has ended."""
    streams = {"stdout": stdout, "stderr": "", "executionResult": result, "executionTimeInMilliseconds": 1}
    return httpx.Response(200, json={"id": "e1", "status": status, "result": streams, **fields})


def running(status: int = 200) -> httpx.Response:
    """An execution under way."""
    return httpx.Response(status, json={"id": "e1", "executionType": "Asynchronous", "status": "Running"})


def refused(status: int, code: str = "", message: str = "", **headers: str) -> httpx.Response:
    """An error in the contract's form."""
    body = {"error": {"code": code, "message": message, "traceId": "trace-1"}}
    return httpx.Response(status, json=body, headers={"x-ms-request-id": "request-1", **headers})


def full(retry_after: str | None = None, status: int = 429) -> httpx.Response:
    """An error as a full pool gives it."""
    message = "The request sessions count is '1'. There are already '5' active sessions and the maximum active sessions"
    body = {"code": "SessionsCountExceedsLimit", "message": f"{message} count is '5'."}
    return httpx.Response(status, json=body, headers={} if retry_after is None else {"Retry-After": retry_after})
