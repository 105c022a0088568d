"""Users who count in their sessions, and notice whatever is lost."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

_PATIENCE = 60.0
"""Seconds for which a request is sent again."""
_RETRY = 0.1
COUNT = "count += 1\ncount"


class Unanswered(Exception):
    """A request without an outcome, however often it was sent."""


@dataclass
class Counts:
    """What all users have seen."""

    latencies: list[float] = field(default_factory=list[float])
    """Seconds until each outcome, all sending included."""
    broken: int = 0
    """Requests whose connection broke before the answer."""
    resent: int = 0
    """How often requests were sent again, for any reason."""
    refused: Counter[int] = field(default_factory=Counter[int])
    """By status: answers that asked to send again later."""
    unanswered: int = 0
    """Requests without an outcome."""
    lost: int = 0
    """Sessions that began again or counted wrong."""


class User:
    """One user: sends a request, waits for the outcome, and sends the next."""

    def __init__(self, client: httpx.AsyncClient, counts: Counts) -> None:
        self._client = client
        self._counts = counts
        self._acknowledged = 0
        self._unknown = 0

    async def begin(self) -> None:
        """Begin the session."""
        await self._run("count = 0")

    async def work(self, seconds: float, pause: float) -> None:
        """Count until the time is over, then compare the session's count with the acknowledged ones."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                outcome = await self._run(COUNT)
            except Unanswered:
                self._unknown += 1
                self._counts.unanswered += 1
                continue
            self._counts.latencies.append(time.monotonic() - began)
            self._acknowledged += 1
            if outcome["began_again"] or not self._is_right(outcome["result"]):
                self._counts.lost += 1
                return
            await asyncio.sleep(pause)
        if not self._is_right((await self._run("count"))["result"]):
            self._counts.lost += 1

    def _is_right(self, count: str | None) -> bool:
        """Whether each acknowledged request was carried out once, and each unanswered one at most once."""
        return count is not None and 0 <= int(count) - self._acknowledged <= self._unknown

    async def _run(self, code: str) -> Any:
        """Send a request until it has an outcome. Its key makes that safe: the code runs once."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            wait = _RETRY
            try:
                response = await self._client.post("/run", json={"code": code}, headers=headers)
                if response.is_success:
                    return response.json()
                self._counts.refused[response.status_code] += 1
                if response.status_code not in {429, 503}:
                    break
                wait = float(response.headers.get("retry-after", wait))
            except httpx.TransportError:
                self._counts.broken += 1
            self._counts.resent += 1
            await asyncio.sleep(wait)
        raise Unanswered(code)
