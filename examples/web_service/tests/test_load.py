"""The users of the load test notice what is lost, and send again what broke."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from load.users import COUNT, Counts, User


class Sessions:
    """Stands for the service: it counts the programs of each key once."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.count = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        key, code = request.headers["idempotency-key"], json.loads(request.content)["code"]
        if code == COUNT and key not in self.keys:
            self.count += 1
        self.keys.setdefault(key, self.count)
        return httpx.Response(200, json={"result": str(self.keys[key]), "began_again": None})


def work(answer: Callable[[httpx.Request], httpx.Response]) -> Counts:
    async def work() -> Counts:
        counts = Counts()
        async with httpx.AsyncClient(base_url="http://service", transport=httpx.MockTransport(answer)) as client:
            await User(client, counts).work(0.3, 0.01)
        return counts

    return asyncio.run(work())


def test_a_healthy_service_loses_nothing() -> None:
    counts = work(Sessions().answer)
    assert (counts.lost, counts.unanswered, counts.broken, counts.resent) == (0, 0, 0, 0)
    assert counts.latencies


@pytest.mark.parametrize("before", [True, False])
def test_a_failed_request_is_sent_again_with_its_key(before: bool) -> None:
    sessions, broken = Sessions(), set[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        key = request.headers["idempotency-key"]
        if not before:
            response = sessions.answer(request)
        if key not in broken:
            broken.add(key)
            raise httpx.ReadError("the worker was killed")
        return sessions.answer(request) if before else response  # pyright: ignore[reportPossiblyUnboundVariable]

    counts = work(answer)
    assert counts.broken == counts.resent == len(broken)
    assert counts.lost == 0


@pytest.mark.parametrize("loss", ["a count twice", "a count not at all", "a new session"])
def test_a_loss_is_noticed(loss: str) -> None:
    sessions = Sessions()

    def answer(request: httpx.Request) -> httpx.Response:
        if sessions.count == 3:
            sessions.count = {"a count twice": 4, "a count not at all": 2, "a new session": 0}[loss]
        return sessions.answer(request)

    assert work(answer).lost == 1
