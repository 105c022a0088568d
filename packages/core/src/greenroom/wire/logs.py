"""A page of a server's logs: the request, and the returned records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from greenroom.wire import VERSION
from greenroom.wire.values import Json, WireError

PATH = f"/{VERSION}/logs"
"""Below the server, not below a pool: one log has the records of all pools."""
MOST = 1000
"""The maximum number of records per page."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records, the earliest first, with the names of Azure's columns."""

    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    last: int = 0
    """The value of the parameter `after` for the next page."""
    complete: bool = True
    """Whether there were no more records at that moment."""


def encode_page(page: Page) -> Json:
    """Return a page as JSON."""
    return {"records": page.records, "last": page.last, "complete": page.complete}


def decode_page(body: Json) -> Page:
    """Return the page that JSON describes.

    Raises:
        WireError: the JSON has another form.
    """
    fields = cast("dict[str, Json]", body) if isinstance(body, dict) else {}
    records, last, complete = (fields.get(name) for name in ("records", "last", "complete"))
    if not isinstance(records, list) or not isinstance(last, int) or not isinstance(complete, bool):
        raise WireError("a page of a log must have records, last and complete")
    if not all(isinstance(record, dict) for record in cast("list[Json]", records)):
        raise WireError("each record of a log must be an object")
    return Page(cast("list[dict[str, Any]]", records), last, complete)
