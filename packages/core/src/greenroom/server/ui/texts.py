"""Values as text for people. Untrusted text stays text: every value of a page passes through `shown`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

NOTHING = "\N{EN DASH}"
"""Shown in place of a missing value."""

_MOST = 2000


def shown(value: Any) -> Any:
    """Return a value for a page: invisible characters of a text become escapes such as `\\u202e`.

    Control characters, bidirectional marks and line ends could otherwise make a text look like another one. Our own
    markup is not changed; other markup is escaped by the template.
    """
    if value is None:
        return NOTHING
    if isinstance(value, Markup):
        return value
    text = str(value)
    if len(text) > _MOST:
        text = f"{text[:_MOST]}…"
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def key(name: str) -> str:
    """Return a name for links and forms, encoded so that `urllib.parse.unquote` returns any name unchanged."""
    return name if name.isprintable() and "%" not in name else quote(name, safe="", errors="surrogatepass")


def moment(value: datetime | float | None) -> Any:
    """Return a time in UTC, with its seconds, as an element that machines can read."""
    if value is None:
        return NOTHING
    time = datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        time.isoformat(timespec="seconds"), time.strftime("%Y-%m-%d %H:%M:%S")
    )


def clock(value: datetime | float | None, now: float) -> Any:
    """Return a time as `moment` does, without the date if it is today."""
    if value is None:
        return NOTHING
    time = datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else value.astimezone(UTC)
    is_today = time.date() == datetime.fromtimestamp(now, UTC).date()
    return Markup('<time datetime="{}">{}</time>').format(
        time.isoformat(timespec="seconds"), time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")
    )


def duration(seconds: float | None) -> str:
    """Return a number of seconds in the unit that suits it."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def size(count: float | None) -> str:
    """Return a number of bytes in the unit that suits it."""
    if count is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def number(value: float | None) -> str:
    """Return a number, with commas between its thousands."""
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def share(value: float | None) -> str:
    """Return a fraction in percent."""
    return NOTHING if value is None else f"{value:.0%}"
