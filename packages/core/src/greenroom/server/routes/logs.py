"""`GET greenroom/1/logs`: the log records of all pools of the server, in pages, for callers that manage pools."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from greenroom.azure.codecs.problems import UNAVAILABLE, BadRequest
from greenroom.server.responses import RequestRefused, json_response
from greenroom.server.routes.target import parse_query
from greenroom.server.state.logs import LogStore
from greenroom.server.state.queries import LogQuery
from greenroom.telemetry.columns import columns_of
from greenroom.telemetry.records import LogLevel, LogOperation, LogTable
from greenroom.wire.logs import MOST, Page, encode_page

WordT = TypeVar("WordT", bound=StrEnum)

_PARAMETERS = {"pool", "session", "operation", "level", "since", "until", "console", "after", "limit"}
_NOT_CONSOLE = [table for table in LogTable if table is not LogTable.CONSOLE]


async def get_logs(request: Request, store: LogStore) -> Response:
    """Answer with one page.

    Raises:
        BadRequest: a parameter is unknown or not valid.
        RequestRefused: with status 503; the log cannot be read.
    """
    query = read_query(parse_query(request))
    try:
        page = await store.records(query)
    except sqlite3.Error as error:
        raise RequestRefused(503, UNAVAILABLE, f"The log cannot be read: {error}.", retry_after=1) from error
    return json_response(encode_page(Page([columns_of(each) for each in page.records], page.last, page.complete)))


def read_query(query: Mapping[str, str]) -> LogQuery:
    """Return the query from the parameters of a request.

    Raises:
        BadRequest: one is unknown or not valid.
    """
    if unknown := sorted(query.keys() - _PARAMETERS):
        known = ", ".join(sorted(_PARAMETERS))
        raise BadRequest(f"The parameters must be among {known}, not {unknown[0]!r:.100}.", target=f"{unknown[0]:.100}")
    operations = [_word(LogOperation, each, "operation") for each in query.get("operation", "").split(",") if each]
    return LogQuery(
        tables=[LogTable.CONSOLE] if _word(_Switch, query.get("console", "false"), "console") else _NOT_CONSOLE,
        pool=query.get("pool"),
        identifier=query.get("session"),
        operations=operations,
        level=_word(LogLevel, query.get("level", LogLevel.INFORMATION), "level"),
        since=read_time(query, "since"),
        until=read_time(query, "until"),
        after=_number(query, "after", 0, (1 << 63) - 1, 0),
        limit=_number(query, "limit", 1, MOST, 500),
    )


class _Switch(StrEnum):
    FALSE = "false"
    TRUE = "true"

    def __bool__(self) -> bool:
        return self is _Switch.TRUE


def _word(words: type[WordT], text: str, name: str) -> WordT:
    for word in words:
        if word.value.casefold() == text.casefold():
            return word
    known = ", ".join(word.value for word in words)
    raise BadRequest(f"The parameter {name} must be one of {known}, not {text!r:.100}.", target=name)


def _number(query: Mapping[str, str], name: str, least: int, most: int, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    if not least <= number <= most:
        raise BadRequest(
            f"The parameter {name} must be a number from {least} to {most}, not {text!r:.100}.", target=name
        )
    return number


def read_time(query: Mapping[str, str], name: str) -> float | None:
    """Return the time in a parameter, in seconds since 1970; `None` if it is missing.

    Raises:
        BadRequest: it is not a time.
    """
    text = query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        seconds = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        message = f"The parameter {name} must be a time such as 2026-11-27T14:03:00Z, not {text!r:.100}."
        raise BadRequest(message, target=name) from None
    return seconds
