"""`greenroom logs`: the events in the pools of a server."""

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
"""Seconds between two polls for new records."""
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TITLES = ("time", "level", "pool", "operation", "identifier", "what happened")
_WIDTHS = (19, 11, 10, 18, 16)
"""The widths of the columns before the text while more records can follow."""
_NUMBERS = {"DurationSeconds": "{:.3g} s", "OutputCharacters": "{:,} characters", "SizeBytes": "{:,} bytes"}


def logs(
    *,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", "--name", "-n", help="Show only one pool.", metavar="NAME", autocompletion=places.complete_pool
        ),
    ] = None,
    identifier: Annotated[
        str | None, typer.Option("--identifier", "-i", help="Show only one session.", metavar="TEXT")
    ] = None,
    since: Annotated[
        str, typer.Option(help="The start, as a time or as a duration before now: 30m, 1h, 2d.", metavar="TIME")
    ] = "1h",
    until: Annotated[str | None, typer.Option(help="The end, in the same form.", metavar="TIME")] = None,
    operation: Annotated[
        list[LogOperation] | None,
        typer.Option(help="Show only these operations, such as SessionEnded. Repeatable.", **one_of(LogOperation)),
    ] = None,
    level: Annotated[
        LogLevel, typer.Option(help="Show this level and higher ones.", **one_of(LogLevel))
    ] = LogLevel.INFORMATION,
    console: Annotated[
        bool,
        typer.Option("--console", help="Show the output of custom containers, for pools opened with console_log=true."),
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new records as they arrive.")] = False,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Show the log of the pools of a greenroom serve: sessions, sandboxes, executions and transfers.

    Column names are those of Azure's log tables. With --output json and --follow, each record is one line.
    """
    place = Place.of(server, subscription, resource_group)
    if place.in_azure:
        raise InvalidRequest(
            "The server must be a greenroom serve. In Azure, query the tables AppEnvSessionLifecycleLogs, "
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
    except BrokenPipeError:  # for example `| head`: nothing reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def _name_of(place: Place, pool: str) -> str:
    """Return a pool's name in the log; the name of a declared pool need not follow Azure's rules."""
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
        print_line("The log has no matching records.")


async def _each(
    client: ManagementClient, parameters: Mapping[str, str], take: Callable[[Record], None], *, follow: bool
) -> None:
    """Process each record, page by page; with `--follow`, until this is stopped."""
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
    """Whether the reader of standard output has gone, which is otherwise noticed only when a record is printed."""
    try:
        watched = select.poll()
        watched.register(sys.stdout, 0)
        return bool(watched.poll(0))  # without requested events: only hang-ups and errors
    except (AttributeError, OSError, ValueError):  # no poll, or no descriptor
        return False


def read_time(text: str, option: str) -> str:
    """Return the time in an option, absolute or relative, in the server's form.

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
            f"{option} must be a time such as 2026-11-27T14:03 or a duration such as 30m, 1h or 2d, not {text!r:.100}."
        ) from None
    return moment.isoformat()


def _print_json(record: Record) -> None:
    print(json.dumps(record), flush=True)


def _print_line(record: Record) -> None:
    *cells, text = _row(record)
    print("  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)), text]), flush=True)


def _row(record: Record) -> Sequence[str]:
    """Return the cells of a record, each a single line without control characters."""
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
