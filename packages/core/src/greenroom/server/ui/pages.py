"""The content of the pages, collected from the pools."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args
from urllib.parse import unquote

from starlette.responses import Response

from greenroom.azure.codecs.problems import UNAVAILABLE, Problem
from greenroom.errors import GreenroomError
from greenroom.local.changing import ChangeablePool
from greenroom.models import PoolStatus, PoolUsage, SessionInfo, SessionUsage
from greenroom.pricing import Prices
from greenroom.pricing.estimate import pool_costs, sum_costs
from greenroom.server.registry import PoolRegistry, ServedPool
from greenroom.server.responses import RequestRefused
from greenroom.server.state.logs import LogStore
from greenroom.server.state.queries import UsageSum
from greenroom.server.ui import charts
from greenroom.server.ui.access import Access, Viewer
from greenroom.server.ui.choices import TABLES, WINDOWS, LogChoice, UsageChoice
from greenroom.server.ui.history import COARSE, INTERVAL, History, Span
from greenroom.server.ui.rendering import Renderer
from greenroom.sessions.rules import check_identifier
from greenroom.telemetry.instruments import ALLOCATIONS, REFUSALS, SANDBOX_ENDS, WAIT, Instrument
from greenroom.telemetry.records import LogLevel, LogOperation

_T = TypeVar("_T")

_TIMEOUT = 5.0
"""Seconds in which a pool must respond; otherwise the page shows that it does not."""
_MOST_CHARTS = 12
_PAGE = 50
"""Sessions on one page."""
_MOST_SUMS = 200
_NO_PRICES = Prices(currency="USD")
_LENGTHS: Mapping[Span, float] = {"hour": 3600.0, "day": 86400.0}
_GAPS: Mapping[Span, float] = {"hour": 2.5 * INTERVAL, "day": 2.5 * COARSE}


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool as a row of a table."""

    name: str
    container_type: str
    engine: str | None
    status: PoolStatus | None
    """`None` if the pool does not respond."""
    usage: PoolUsage | None

    @property
    def sessions(self) -> int | None:
        return None if self.status is None else self.status.executing + self.status.idle

    @property
    def saturation(self) -> float | None:
        """Sessions, including waiting ones, divided by the limit."""
        if self.status is None or self.status.limit is None:
            return None
        return ((self.sessions or 0) + self.status.waiting) / max(self.status.limit, 1)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as a row of a table."""

    pool: str
    info: SessionInfo
    usage: SessionUsage | None


class Pages:
    """Renders the pages."""

    def __init__(
        self,
        pools: PoolRegistry,
        access: Access,
        history: History,
        logs: LogStore | None = None,
        *,
        not_serving: Callable[[], Sequence[tuple[str, str, str]]] = tuple,
        prices: Prices = _NO_PRICES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            pools: the pools to show.
            access: decides who can sign in.
            history: the samples of these pools.
            logs: the log store; `None` for a server without one.
            not_serving: returns the name, the state and the reason for each pool that does not serve.
            prices: used for cost estimates.
            clock: for tests.
        """
        self._pools = pools
        self._access = access
        self._history = history
        self._logs = logs
        self._not_serving = not_serving
        self._prices = prices
        self._clock = clock
        self._renderer = Renderer()

    def part(self, name: str) -> Response:
        """Return a part of the pages."""
        return self._renderer.part(name)

    def sign_in(self, problem: str | None = None, status: int = 200) -> Response:
        return self._page("sign_in", None, status, title="Sign in", problem=problem)

    def refused(self, viewer: Viewer | None, problem: Problem) -> Response:
        """Return an error as a page."""
        return self._page("refused", viewer, problem.status, title="The request failed", problem=problem)

    async def overview(self, viewer: Viewer, query: Mapping[str, str]) -> Response:
        """All pools, with the saturation of each over the last hour."""
        pools = list(self._pools)
        rows = await asyncio.gather(*map(_row, pools))
        drawn = [(row.name, self._chart(pool, "hour")) for pool, row in zip(pools, rows, strict=True)]
        return self._page(
            "overview",
            viewer,
            query=query,
            title="Pools",
            rows=rows,
            drawn=drawn[:_MOST_CHARTS],
            not_serving=self._not_serving(),
        )

    async def pool(self, viewer: Viewer, query: Mapping[str, str]) -> Response:
        """One pool: saturation over time, waits, how sandboxes ended."""
        pool = self._find(unquote(query.get("pool", "")))
        span: Span = "day" if query.get("span") == "day" else "hour"
        histogram = next((each for _, each in _series(pool.metrics.histograms, WAIT)), None)
        return self._page(
            "pool",
            viewer,
            query=query,
            title=f"Pool {pool.signal_name}",
            row=await _row(pool),
            span=span,
            spans=get_args(Span),
            chart=self._chart(pool, span),
            waits=None if histogram is None else charts.waits(WAIT.boundaries, histogram.counts),
            counts=[
                (label, sorted(_series(pool.metrics.counters, instrument)))
                for label, instrument in (
                    ("Sessions that found a ready sandbox (warm) or waited (cold)", ALLOCATIONS),
                    ("Sessions that got no sandbox", REFUSALS),
                    ("Sandboxes that have ended", SANDBOX_ENDS),
                )
            ],
        )

    async def sessions(self, viewer: Viewer, query: Mapping[str, str]) -> Response:
        """The sessions of one pool or of all, in pages."""
        name, wanted = unquote(query.get("pool", "")), query.get("find", "")
        pools = [self._find(name)] if name else list(self._pools)
        listed = await asyncio.gather(*(_told(pool.backend.sessions()) for pool in pools))
        found = [
            (pool, info)
            for pool, sessions in zip(pools, listed, strict=True)
            for info in sessions or ()
            if wanted in info.identifier
        ]
        number = int(text) if (text := query.get("page", "")).isascii() and text.isdecimal() and len(text) < 7 else 1
        last = max(1, -(-len(found) // _PAGE))
        number = min(max(number, 1), last)
        page = found[(number - 1) * _PAGE : number * _PAGE]
        usages = await asyncio.gather(*(_told(pool.backend.usage(info.identifier)) for pool, info in page))
        return self._page(
            "sessions",
            viewer,
            query=query,
            title="Sessions",
            pools=[pool.signal_name for pool in self._pools],
            pool=name,
            find=wanted,
            number=number,
            last=last,
            total=len(found),
            stopped="stopped" in query,
            silent=[pool.signal_name for pool, sessions in zip(pools, listed, strict=True) if sessions is None],
            rows=[SessionRow(pool.signal_name, info, usage) for (pool, info), usage in zip(page, usages, strict=True)],
        )

    async def usage(self, viewer: Viewer, query: Mapping[str, str]) -> Response:
        """The usage of pools since they were opened, and of ended sessions, with costs. The second part requires the
        right to manage, as over HTTP: it contains the identifiers of everyone's sessions.
        """
        choice = UsageChoice.of(query)
        rows = await asyncio.gather(*map(_row, self._pools))
        sums = list[UsageSum]()
        has_sums = self._logs is not None and viewer.can_manage
        if self._logs is not None and has_sums:
            sums = await _read(self._logs.usage(choice.to_query(self._clock()), choice.groups))
        by_time = sorted(sums, key=lambda each: (each.cpu, each.wall), reverse=True)
        return self._page(
            "usage",
            viewer,
            query=query,
            title="Usage",
            rows=[(row, *pool_costs(self._prices, row.usage)) for row in rows],
            currency=self._prices.currency,
            choice=choice,
            windows=WINDOWS,
            has_sums=has_sums,
            sums=[(each, *sum_costs(self._prices, each)) for each in by_time[:_MOST_SUMS]],
            more=max(0, len(by_time) - _MOST_SUMS),
        )

    async def log(self, viewer: Viewer, query: Mapping[str, str]) -> Response:
        """The log of sessions and pools, latest first.

        Raises:
            RequestRefused: the viewer cannot manage pools, or the log cannot be read or does not exist.
        """
        if self._logs is None:
            raise RequestRefused(404, "PageNotFound", "The server does not keep a log.")
        if not viewer.can_manage:
            raise RequestRefused(403, "AuthorizationFailed", "Reading the log requires the right to manage pools.")
        choice = LogChoice.of(query)
        page = await _read(self._logs.records(choice.to_query(self._clock())))
        return self._page(
            "log",
            viewer,
            query=query,
            title="Log",
            pools=[pool.signal_name for pool in self._pools],
            choice=choice,
            tables=TABLES,
            operations=list(LogOperation),
            levels=list(LogLevel),
            windows=WINDOWS,
            records=page.records[::-1],
            earlier=None if page.complete else page.first,
        )

    async def stop(self, pool: str, identifier: str) -> None:
        """End a session, if there is one.

        Raises:
            RequestRefused: there is no such pool.
            InvalidRequest: the identifier is not valid.
        """
        found = self._find(pool)
        found.records.cancel(check_identifier(identifier))
        await found.backend.delete(identifier)

    def _find(self, name: str) -> ServedPool:
        found = [pool for pool in self._pools if pool.signal_name == name]
        if len(found) != 1:
            count = "no pool" if not found else f"{len(found)} pools"
            raise RequestRefused(404, "SessionPoolNotFound", f"The server has {count} named {name!r:.200}.")
        return found[0]

    def _chart(self, pool: ServedPool, span: Span) -> charts.LineChart | None:
        end = self._clock()
        return charts.saturation(self._history.of(pool, span), end - _LENGTHS[span], end, _GAPS[span])

    def _page(self, name: str, viewer: Viewer | None, status: int = 200, **values: Any) -> Response:
        return self._renderer.page(
            name,
            status,
            viewer=viewer,
            takes_keys=self._access.takes_keys,
            has_log=self._logs is not None and viewer is not None and viewer.can_manage,
            now=self._clock(),
            **values,
        )


async def _row(pool: ServedPool) -> PoolRow:
    backend = pool.backend
    status, usage = await asyncio.gather(_told(backend.status()), _told(backend.pool_usage()))
    engine = backend.engine_name if isinstance(backend, ChangeablePool) else None
    return PoolRow(pool.signal_name, str(backend.container_type), engine, status, usage)


async def _told(question: Awaitable[_T]) -> _T | None:
    """Return the response of a pool, or `None` if it is not in time."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await question
    except (GreenroomError, TimeoutError):
        return None


async def _read(question: Awaitable[_T]) -> _T:
    """Return the response of the store.

    Raises:
        RequestRefused: with status 503; it cannot be read.
    """
    try:
        return await question
    except sqlite3.Error as error:
        message = f"The log cannot be read: {error}."
        raise RequestRefused(503, UNAVAILABLE, message, retry_after=1) from error


def _series(found: Mapping[Instrument, Mapping[tuple[str, ...], _T]], instrument: Instrument) -> list[tuple[str, _T]]:
    return [(", ".join(labels), value) for labels, value in found.get(instrument, {}).items()]
