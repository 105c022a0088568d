"""Usage and costs, formatted for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from greenroom.pricing import Prices
from greenroom.pricing.estimate import NO_PRICE, Cost
from greenroom.wire.usage import UsageRow

GIB = 1 << 30
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

PricesFile = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        help="A price list, in TOML.",
        show_default="that of GREENROOM_PRICES; without one, no price is set",
        metavar="FILE",
    ),
]
NO_PRICE_HINT = (
    "No price is set: pass a price list with --prices or GREENROOM_PRICES. docs/telemetry.md describes its format."
)


def in_bytes(size: float | None) -> str:
    """Return a size with a unit, such as `1.5 GiB`; empty if unknown."""
    if size is None:
        return ""
    unit = 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 99.95 else f"{size:.1f} {_UNITS[unit]}"


def in_seconds(seconds: float | None) -> str:
    """Return a number of seconds for a column with that unit; empty if unknown."""
    if seconds is None:
        return ""
    return f"{seconds:,.0f}" if seconds >= 99.95 else f"{seconds:.1f}" if seconds >= 0.95 else f"{seconds:.3f}"


def lacks_price(*costs: Cost) -> bool:
    """Whether a price is missing."""
    return any(cost.reason == NO_PRICE for cost in costs)


def money_fields(prices: Prices, here: Cost, azure: Cost) -> dict[str, Any]:
    """Return costs as JSON; unknown ones are `null`, with the reason."""
    fields: dict[str, Any] = {"currency": prices.currency, "costHere": here.amount, "costInAzure": azure.amount}
    reasons = {"costHereReason": here.reason, "costInAzureReason": azure.reason}
    return fields | {name: reason for name, reason in reasons.items() if reason}


def row_fields(row: UsageRow) -> dict[str, Any]:
    """Return the figures of a row as JSON."""
    return {
        "sessions": row.sessions,
        "presentSessions": row.present,
        "executions": row.executions,
        "seconds": row.wall,
        "cpuSeconds": row.cpu,
        "gibSeconds": row.memory_time / GIB,
        "peakMemoryBytes": row.peak_memory,
        "uploadedBytes": row.uploaded,
        "downloadedBytes": row.downloaded,
        "sources": [source.value for source in row.sources],
        "unmeasuredSessions": row.unmeasured,
        "sessionHours": row.session_hours,
        "nodeHours": row.node_hours,
    }
