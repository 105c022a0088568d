"""`greenroom logs`: what happened in the pools of a server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenroom.arm.ids import LOCAL_GROUP, LOCAL_SUBSCRIPTION
from greenroom.cli import place as places
from greenroom.cli.output import ExitCode, print_line
from greenroom.cli.place import Format, Output, Place, ResourceGroup, Server, Subscription, one_of
from greenroom.errors import InvalidRequest
from greenroom.telemetry.records import LogLevel, LogOperation
from greenroom.untrusted import one_line

if TYPE_CHECKING:
    from greenroom.azure.management import ManagementClient

Record = Mapping[str, Any]

_POLL = 1.0
"""Seconds between two questions for new records."""
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TITLES = ("time", "level", "pool", "operation", "identifier", "what happened")
_WIDTHS = (19, 11, 10, 18, 16)
"""Of the columns before the text, where further records are still to come."""
_NUMBERS = {"DurationSeconds": "{:.3g} s", "OutputCharacters": "{:,} characters", "SizeBytes": "{:,} bytes"}


def logs(
    *,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", "--name", "-n", help="Of one pool.", metavar="NAME", autocompletion=places.complete_pool
        ),
    ] = None,
    identifier: Annotated[
        str | None, typer.Option("--identifier", "-i", help="Of one session.", metavar="TEXT")
    ] = None,
    since: Annotated[
        str, typer.Option(help="From this time on, or for this long: 30m, 1h, 2d.", metavar="TIME")
    ] = "1h",
    until: Annotated[str | None, typer.Option(help="Before this time.", metavar="TIME")] = None,
    operation: Annotated[
        list[LogOperation] | None,
        typer.Option(help="Of these operations, such as SessionEnded.", **one_of(LogOperation)),
    ] = None,
    level: Annotated[
        LogLevel, typer.Option(help="Of this level and those above it.", **one_of(LogLevel))
    ] = LogLevel.INFORMATION,
    console: Annotated[
        bool,
        typer.Option("--console", help="What custom containers printed, of pools opened with console_log=true."),
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the records that come.")] = False,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Show what happened in the pools of a greenroom serve: sessions, sandboxes, executions and transfers.

    The names of columns are those of Azure's log tables. With --output json and --follow, each record is one line.
    """
    place = Place.of(server, subscription, resource_group)
    if place.in_azure:
        raise InvalidRequest(
            "Logs must be those of a greenroom serve. In Azure, query the tables AppEnvSessionLifecycleLogs, "
            "AppEnvSessionPoolEventLogs and AppEnvSessionConsoleLogs of the environment's Log Analytics workspace."
        )
    query = {
        "pool": None if pool is None else _name_of(place, pool),
        "session": identifier,
        "since": read_time(since, "--since"),
        "until": None if until is None else read_time(until, "--until"),
        "operation": ",".join(operation) if operation else None,
        "level": level.value,
        "console": "true" if console else None,
    }
    parameters = {name: value for name, value in query.items() if value is not None}
    try:
        asyncio.run(_show(place, parameters, output, follow=follow))
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:  # such as `| head`; the rest of the output is for nobody
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def _name_of(place: Place, pool: str) -> str:
    """Return a pool's name in the log; that of a declared pool need not keep the rules of Azure."""
    is_plain = (place.subscription, place.group) == (LOCAL_SUBSCRIPTION, LOCAL_GROUP)
    return pool if is_plain else place.pool(pool).signal_name


async def _show(place: Place, parameters: Mapping[str, str], output: Format, *, follow: bool) -> None:
    async with place.client() as client:
        if follow:
            print_record = _print_json if output is Format.JSON else _print_line
            await _each(client, parameters, print_record, follow=True)
            return
        found: list[Record] = []
        await _each(client, parameters, found.append, follow=False)
    if output is Format.JSON:
        places.print_json(found)
    elif found:
        places.print_table(_TITLES, [_row(record) for record in found])
    else:
        print_line("The log has no such records.")


async def _each(
    client: ManagementClient, parameters: Mapping[str, str], take: Callable[[Record], None], *, follow: bool
) -> None:
    """Take each record, page by page; to follow, for as long as this runs."""
    after = 0
    while True:
        page = await client.logs({**parameters, "after": str(after)})
        for record in page.records:
            take(record)
        if page.complete and not follow:
            return
        if page.complete:
            if _reader_has_left():
                raise BrokenPipeError
            await asyncio.sleep(_POLL)
        elif page.last <= after:
            raise InvalidRequest("The server must send the pages of its log in order.")
        after = max(after, page.last)


def _reader_has_left() -> bool:
    """Whether nobody reads standard output any more: without records to print, nothing else would tell."""
    try:
        watched = select.poll()
        watched.register(sys.stdout, 0)
        return bool(watched.poll(0))  # without a question, the end and errors alone
    except (AttributeError, OSError, ValueError):  # there is no poll, or no descriptor
        return False


def read_time(text: str, option: str) -> str:
    """Return the time that an option gives, or how long ago it gives, as the server takes it.

    Raises:
        InvalidRequest: it is neither.
    """
    try:
        if age := _AGE.fullmatch(text):
            moment = datetime.now(UTC) - timedelta(seconds=float(age[1]) * _SECONDS[age[2]])
        else:
            moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{option} must be a time such as 2026-11-27T14:03, or how long ago, such as 30m, 1h or 2d, not "
            f"{text!r:.100}."
        ) from None
    return moment.isoformat()


def _print_json(record: Record) -> None:
    print(json.dumps(record), flush=True)


def _print_line(record: Record) -> None:
    *cells, text = _row(record)
    print("  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)), text]), flush=True)


def _row(record: Record) -> Sequence[str]:
    """Return the cells of a record, each one line of text without control characters."""
    text = record.get("Log", "")
    details = (
        [reason] if (reason := str(record.get("Reason", ""))) and reason.replace("_", " ") not in f"{text}" else []
    )
    for name, form in _NUMBERS.items():
        if isinstance(number := record.get(name), int | float) and (number or name != "OutputCharacters"):
            details.append(form.format(number))
    return [
        _time(record.get("TimeGenerated", "")),
        *(_cell(record.get(name, "")) for name in ("Level", "SessionPoolName", "OperationName", "Identifier")),
        _cell(text) + (f" ({', '.join(map(_cell, details))})" if details else ""),
    ]


def _cell(value: object) -> str:
    return one_line(str(value))


def _time(text: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return _cell(text)
