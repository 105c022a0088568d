"""A page of the logs of a server: what is asked, and the records that come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from greenroom.wire import VERSION
from greenroom.wire.values import Json, WireError

PATH = f"/{VERSION}/logs"
"""Below the server, not below a pool: one log has the records of all of them."""
MOST = 1000
"""Records of one page."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records, the earliest first, with the names of Azure's columns."""

    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    last: int = 0
    """What the parameter `after` of the next page must be."""
    complete: bool = True
    """Whether there were no more at the moment."""


def encode_page(page: Page) -> Json:
    """Return a page as JSON."""
    return {"records": page.records, "last": page.last, "complete": page.complete}


def decode_page(body: Json) -> Page:
    """Return the page that JSON describes.

    Raises:
        WireError: it has another form.
    """
    fields = cast("dict[str, Json]", body) if isinstance(body, dict) else {}
    records, last, complete = (fields.get(name) for name in ("records", "last", "complete"))
    if not isinstance(records, list) or not isinstance(last, int) or not isinstance(complete, bool):
        raise WireError("a page of a log must have records, last and complete")
    if not all(isinstance(record, dict) for record in cast("list[Json]", records)):
        raise WireError("each record of a log must be an object")
    return Page(cast("list[dict[str, Any]]", records), last, complete)
