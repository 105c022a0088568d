"""`greenroom usage`: the usage of a server's sessions, and its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from greenroom.cli import place as places
from greenroom.cli.figures import (
    GIB,
    NO_PRICE_HINT,
    PricesFile,
    in_bytes,
    in_seconds,
    lacks_price,
    money_fields,
    row_fields,
)
from greenroom.cli.logs import read_time
from greenroom.cli.output import print_line
from greenroom.cli.place import Format, Output, Place, ResourceGroup, Server, Subscription, one_of
from greenroom.errors import InvalidRequest
from greenroom.pricing import Prices
from greenroom.pricing.estimate import cost_of_machine, sum_costs
from greenroom.untrusted import printable
from greenroom.wire.usage import GroupBy, UsageReport, UsageRow

_ESTIMATES = "processes"


def usage(
    *,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", "--name", "-n", help="Show only one pool.", metavar="NAME", autocompletion=places.complete_pool
        ),
    ] = None,
    by: Annotated[GroupBy, typer.Option(help="How to group the sessions into rows.", **one_of(GroupBy))] = GroupBy.POOL,
    since: Annotated[
        str | None,
        typer.Option(
            help="Count only current sessions and those that ended since this time, or within 30m, 24h or 7d.",
            show_default="everything that the server keeps",
            metavar="TIME",
        ),
    ] = None,
    prices: PricesFile = None,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Show the usage of the sessions of a greenroom serve, with an estimate of its cost, here and in Azure. A session
    counts with its whole usage since it started. Days are in UTC: an ended session belongs to the day on which it
    ended.
    """
    place = Place.of(server, subscription, resource_group)
    if place.in_azure:
        raise InvalidRequest(
            "The server must be a greenroom serve to show usage. In Azure, the cost of sessions is on the bill."
        )
    wanted = Prices.load(prices)
    parameters = {"by": by.value}
    if pool is not None:
        parameters["pool"] = place.pool(pool).signal_name
    if since is not None:
        parameters["since"] = read_time(since, "--since")

    async def work(_: Callable[[str], None]) -> UsageReport:
        async with place.client() as client:
            return await client.usage(parameters)

    report = places.run(work, "Getting the usage")
    if output is Format.JSON:
        places.print_json(_to_json(report, by, wanted))
    elif not report.total.sessions and not report.spare_cpu:
        print_line("No session has used anything.")
    else:
        _print(report, by, wanted)


def _to_json(report: UsageReport, by: GroupBy, prices: Prices) -> dict[str, Any]:
    def fields(row: UsageRow) -> dict[str, Any]:
        return row_fields(row) | money_fields(prices, *sum_costs(prices, row))

    spare = cost_of_machine(prices, report.spare_cpu, report.spare_memory_time)
    return {
        "by": by.value,
        "rows": [{by.value: row.name} | fields(row) for row in report.rows],
        "total": fields(report.total),
        "spare": {
            "cpuSeconds": report.spare_cpu,
            "gibSeconds": report.spare_memory_time / GIB,
            "currency": prices.currency,
            "costHere": spare.amount,
        },
        "omittedRows": report.omitted,
        "droppedRecords": report.dropped,
    }


def _print(report: UsageReport, by: GroupBy, prices: Prices) -> None:
    titles = (
        by.value, "sessions", "runs", "seconds", "cpu s", "GiB s", "peak", "up", "down",
        f"{prices.currency} here", f"{prices.currency} in Azure",
    )  # fmt: skip
    rows = [_cells(row, printable(row.name), prices) for row in report.rows]
    places.print_table(titles, [*rows, _cells(report.total, "total", prices)])
    if report.omitted:
        print_line(f"{report.omitted:,} more rows are in the total.")
    if report.spare_cpu or report.spare_memory_time:
        cost = cost_of_machine(prices, report.spare_cpu, report.spare_memory_time)
        money = "" if cost.amount is None else f": {cost} {prices.currency}"
        print_line(
            f"Sandboxes that served no session used {in_seconds(report.spare_cpu)} s of processor time and "
            f"{in_seconds(report.spare_memory_time / GIB)} GiB s{money}."
        )
    if report.total.unmeasured:
        print_line(f"The processor time and memory of {report.total.unmeasured:,} sessions are unknown.")
    if _ESTIMATES in report.total.sources:
        print_line("Some processor times and memory values are estimates, as control groups are missing.")
    if report.dropped:
        print_line(f"{report.dropped:,} records could not be written: ended sessions may be missing.")
    if lacks_price(*sum_costs(prices, report.total)):
        print_line(NO_PRICE_HINT)


def _cells(row: UsageRow, name: str, prices: Prices) -> list[str]:
    here, azure = sum_costs(prices, row)
    known = row.unmeasured < row.sessions
    return [
        name,
        f"{row.sessions:,}" + (f" ({row.present:,} present)" if row.present else ""),
        f"{row.executions:,}",
        in_seconds(row.wall),
        in_seconds(row.cpu) if known else "",
        in_seconds(row.memory_time / GIB) if known else "",
        in_bytes(row.peak_memory) if known else "",
        in_bytes(row.uploaded),
        in_bytes(row.downloaded),
        str(here),
        str(azure),
    ]
