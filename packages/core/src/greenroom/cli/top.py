"""`greenroom top`: the pools of a server and their busiest sessions, refreshed continuously."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from greenroom.cli import place as places
from greenroom.cli.figures import NO_PRICE_HINT, PricesFile, in_bytes, in_seconds, lacks_price, money_fields
from greenroom.cli.output import print_line
from greenroom.cli.place import Format, Output, Place, ResourceGroup, Server, Subscription
from greenroom.errors import GreenroomError, InvalidRequest
from greenroom.models import PoolUsage
from greenroom.pricing import Prices
from greenroom.pricing.estimate import pool_costs
from greenroom.untrusted import printable, without_controls
from greenroom.wire.usage import Overview, PoolState, PresentSession
from greenroom.wire.values import encode

_SHORTEST, _LONGEST = 0.2, 3600.0
_BAR = 10
_FIRST_ROWS = 6
"""Lines of the screen that are not for pools and sessions."""


def top(
    *,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", "--name", "-n", help="Show only one pool.", metavar="NAME", autocompletion=places.complete_pool
        ),
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between refreshes.", metavar="N")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit, as without a terminal.")] = False,
    prices: PricesFile = None,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Watch the pools of a greenroom serve: saturation, sessions, waits, processors, memory, and the cost so far. On a
    terminal, the figures are refreshed until Ctrl-C. Usage and cost count from the time the server opened a pool.
    """
    place = Place.of(server, subscription, resource_group)
    if place.in_azure:
        raise InvalidRequest("The server must be a greenroom serve. Azure shows its session pools in Azure Monitor.")
    if not _SHORTEST <= interval <= _LONGEST:
        raise InvalidRequest(f"--interval must be {_SHORTEST:g} to {_LONGEST:g} seconds, not {interval:g}.")
    wanted = None if pool is None else place.pool(pool).signal_name
    list_of_prices = Prices.load(prices)
    if output is Format.JSON or once or not sys.stdout.isatty():

        async def work(_: Callable[[str], None]) -> Overview:
            async with place.client() as client:
                return await client.overview()

        seen = _only(places.run(work, "Getting the pools"), wanted)
        if output is Format.JSON:
            places.print_json(_to_json(seen, list_of_prices))
        else:
            _print(seen, list_of_prices)
        return
    try:
        asyncio.run(_watch(place, wanted, interval, list_of_prices))
    except KeyboardInterrupt:
        return
    except asyncio.CancelledError:
        raise typer.Exit(128 + signal.SIGTERM) from None


async def _watch(place: Place, wanted: str | None, interval: float, prices: Prices) -> None:
    console = Console(highlight=False, markup=False)
    screen = Screen(place.server, prices)
    watching = asyncio.current_task()
    assert watching is not None  # noqa: S101  this one
    with contextlib.suppress(RuntimeError):  # not on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)  # restores the terminal
    async with place.client(retry_for=0) as client:
        screen.take(_only(await client.overview(), wanted))  # an error in the first request ends it
        with Live(screen, console=console, screen=True, auto_refresh=False, redirect_stdout=False) as live:
            live.refresh()
            pause = min(interval, 1.0)  # show the first difference soon
            while True:
                await _pause(live, console, pause)
                pause = interval
                try:
                    screen.take(_only(await client.overview(), wanted))
                except GreenroomError as error:
                    screen.error = str(error)
                live.refresh()


async def _pause(live: Live, console: Console, seconds: float) -> None:
    """Wait, and draw again if the terminal has another size."""
    until, size = time.monotonic() + seconds, console.size
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.2))
        if console.size != size:
            size = console.size
            live.refresh()


def _only(seen: Overview, wanted: str | None) -> Overview:
    """
    Raises:
        InvalidRequest: there is no such pool.
    """
    if wanted is None:
        return seen
    pools = tuple(each for each in seen.pools if each.name.casefold() == wanted.casefold())
    if not pools:
        known = ", ".join(printable(each.name) for each in seen.pools[:10])
        raise InvalidRequest(f"The pool must be one that is serving, not {wanted!r:.200}. Pools: {known}.")
    return Overview(pools, tuple(each for each in seen.sessions if each.pool == pools[0].name))


@dataclass(slots=True)
class Screen:
    """The screen. rich renders it with each refresh, so it fits the current size."""

    server: str
    prices: Prices
    seen: Overview = field(default_factory=lambda: Overview(()))
    error: str = ""
    _moment: float = 0.0
    _before: Overview | None = None
    _elapsed: float = 0.0

    def take(self, seen: Overview, moment: float | None = None) -> None:
        """Record the current figures."""
        moment = time.monotonic() if moment is None else moment
        self._before, self._elapsed = (self.seen if self._moment else None), moment - self._moment
        self.seen, self._moment, self.error = seen, moment, ""

    def __rich_console__(self, console: Console, options: Any) -> Any:
        lines = max(0, options.max_height - _FIRST_ROWS - len(self.seen.pools))
        title = Text(f"{self.server}  {datetime.now().astimezone():%H:%M:%S}", style="bold", no_wrap=True)
        blocks = "█░" if console.encoding.startswith("utf") else "#."
        shares = self._pool_shares()
        pools = [_pool_cells(each, shares.get(each.name), self.prices, blocks) for each in self.seen.pools]
        width = options.max_width
        parts: list[Any] = [title, Text(), _table(_titles(self.prices), pools, width, _POOL_TITLES_TO_GO)]
        if self.seen.sessions and lines:
            own = self._session_shares()
            cells = [_session_cells(each, own.get((each.pool, each.identifier))) for each in self.seen.sessions[:lines]]
            parts += [Text(), _table(_SESSION_TITLES, cells, width, _SESSION_TITLES_TO_GO)]
        if self.error:
            error = " ".join(without_controls(self.error).split())
            parts[1] = Text(error, style="red", no_wrap=True, overflow="ellipsis")
        yield Group(*parts)

    def _pool_shares(self) -> Mapping[str, float]:
        before = {} if self._before is None else {each.name: each.usage for each in self._before.pools}
        return {
            each.name: max(0.0, _cpu(each.usage) - _cpu(earlier)) / self._elapsed
            for each in self.seen.pools
            if each.usage is not None and (earlier := before.get(each.name)) is not None and self._elapsed > 0
        }

    def _session_shares(self) -> Mapping[tuple[str, str], float]:
        before = {} if self._before is None else {(each.pool, each.identifier): each for each in self._before.sessions}
        shares: dict[tuple[str, str], float] = {}
        for each in self.seen.sessions:
            earlier = before.get((each.pool, each.identifier))
            if earlier is None or each.usage.cpu is None or earlier.usage.cpu is None or self._elapsed <= 0:
                continue
            if each.usage.wall >= earlier.usage.wall:  # the same session, not a later one with its name
                share = (each.usage.cpu - earlier.usage.cpu) / self._elapsed
                shares[each.pool, each.identifier] = max(0.0, share)
        return shares


def _cpu(usage: PoolUsage) -> float:
    return usage.cpu + usage.spare_cpu


def _saturation(state: PoolState) -> float | None:
    status = state.status
    return (status.executing + status.idle + status.waiting) / status.limit if status and status.limit else None


def _pool_cells(state: PoolState, share: float | None, prices: Prices, blocks: str = "") -> list[str]:
    status, usage = state.status, state.usage
    if status is None:
        return [printable(state.name), state.container_type, "does not respond"]
    sessions = f"{status.executing + status.idle:,} of {status.limit or '?'}"
    saturation = _saturation(state)
    shown = "" if saturation is None else f"{saturation:.0%}"
    if blocks and saturation is not None:
        filled = min(_BAR, round(saturation * _BAR))
        shown = f"{blocks[0] * filled}{blocks[1] * (_BAR - filled)} {shown}"
    here, azure = pool_costs(prices, usage)
    return [
        printable(state.name),
        state.container_type,
        shown,
        sessions,
        f"{status.executing:,}",
        f"{status.ready:,}+{status.starting:,}",
        f"{status.waiting:,}",
        f"{_brief_seconds(status.wait_median)} / {_brief_seconds(status.wait_max)}",
        "" if share is None else f"{share:.0%}",
        "" if usage is None else in_seconds(_cpu(usage)),
        "" if usage is None else in_bytes(usage.memory),
        str(here),
        str(azure),
    ]


def _titles(prices: Prices) -> list[str]:
    return [
        "pool", "type", "saturation", "sessions", "executing", "ready", "waiting", "wait median / max", "cpu", "cpu s",
        "memory", f"{prices.currency} here", f"{prices.currency} in Azure",
    ]  # fmt: skip


_POOL_TITLES_TO_GO = ("cpu s", "type", "executing", "ready", "wait median / max", "memory", "waiting", "cpu")
_SESSION_TITLES_TO_GO = ("peak", "cpu s", "runs", "executing", "pool", "memory")
_TEXTS = 3
"""The number of text columns at the left of a table."""

_SESSION_TITLES = ("session", "pool", "executing", "seconds", "cpu", "cpu s", "memory", "peak", "runs")


def _session_cells(session: PresentSession, share: float | None) -> list[str]:
    usage = session.usage
    return [
        printable(session.identifier),
        printable(session.pool),
        f"{session.running:,}" if session.running else "",
        in_seconds(usage.wall),
        "" if share is None else f"{share:.0%}",
        in_seconds(usage.cpu),
        in_bytes(session.memory),
        in_bytes(usage.peak_memory),
        f"{usage.executions:,}",
    ]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, first_to_go: Sequence[str]) -> Table:
    """Return a table that fits; if it is too wide, the least important columns are omitted."""
    widths = {
        title: max(cell_len(title), *(cell_len(row[number]) for row in rows if number < len(row))) + 1
        for number, title in enumerate(titles)
    }
    left_out: set[str] = set()
    for title in first_to_go:
        if sum(widths.values()) - sum(widths[each] for each in left_out) <= width:
            break
        left_out.add(title)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, title in enumerate(titles):
        if title not in left_out:
            justify = "left" if number < _TEXTS else "right"
            table.add_column(title, no_wrap=True, overflow="ellipsis", justify=justify)
    for row in rows:
        table.add_row(*(Text(cell) for title, cell in zip(titles, row, strict=False) if title not in left_out))
    return table


def _print(seen: Overview, prices: Prices) -> None:
    places.print_table(_titles(prices), [_pool_cells(each, None, prices) for each in seen.pools])
    if seen.sessions:
        print()
        places.print_table(_SESSION_TITLES, [_session_cells(each, None) for each in seen.sessions])
    if lacks_price(*(cost for each in seen.pools for cost in pool_costs(prices, each.usage))):
        print_line(NO_PRICE_HINT)


def _to_json(seen: Overview, prices: Prices) -> dict[str, Any]:
    return {
        "pools": [
            encode(each) | {"saturation": _saturation(each)} | money_fields(prices, *pool_costs(prices, each.usage))
            for each in seen.pools
        ],
        "sessions": encode(seen.sessions),
    }


def _brief_seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
