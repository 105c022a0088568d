"""`GET greenroom/1/usage-report` and `GET greenroom/1/pools`: all pools of the server, for callers that manage
pools."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from greenroom.azure.codecs.problems import UNAVAILABLE, BadRequest
from greenroom.server.registry import PoolRegistry
from greenroom.server.reporting import overview, usage_report
from greenroom.server.responses import RequestRefused, json_response
from greenroom.server.routes.logs import read_time
from greenroom.server.routes.target import parse_query
from greenroom.server.state.logs import LogStore
from greenroom.wire.usage import GroupBy
from greenroom.wire.values import encode

_PARAMETERS = {"by", "pool", "since"}


async def get_usage_report(request: Request, pools: PoolRegistry, store: LogStore | None) -> Response:
    """Answer with the usage of sessions.

    Raises:
        BadRequest: a parameter is unknown or not valid.
        RequestRefused: with status 503; the ended sessions cannot be read.
    """
    query = parse_query(request)
    if unknown := sorted(query.keys() - _PARAMETERS):
        known = ", ".join(sorted(_PARAMETERS))
        raise BadRequest(f"The parameters must be among {known}, not {unknown[0]!r:.100}.", target=f"{unknown[0]:.100}")
    by, since = _by(query), read_time(query, "since")
    try:
        report = await usage_report(pools, store, by, pool=query.get("pool"), since=since)
    except sqlite3.Error as error:
        raise RequestRefused(503, UNAVAILABLE, f"The usage cannot be read: {error}.", retry_after=1) from error
    return json_response(encode(report))


async def get_pools(request: Request, pools: PoolRegistry) -> Response:
    """Answer with the state of pools."""
    if unknown := sorted(parse_query(request)):
        raise BadRequest(f"The request must have no parameters, not {unknown[0]!r:.100}.", target=f"{unknown[0]:.100}")
    return json_response(encode(await overview(pools)))


def _by(query: Mapping[str, str]) -> GroupBy:
    text = query.get("by", GroupBy.IDENTIFIER.value)
    try:
        return GroupBy(text)
    except ValueError:
        message = f"The parameter by must be one of {', '.join(GroupBy)}, not {text!r:.100}."
        raise BadRequest(message, target="by") from None
