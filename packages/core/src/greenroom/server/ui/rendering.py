"""HTML of the pages: templates that escape every value, and headers with strict browser policies."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

import jinja2
from starlette.responses import Response

from greenroom.server.ui import charts, texts

HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # with `no-referrer`, a form's Origin would be null
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

PARTS: Mapping[str, str] = {"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
"""The files that pages load, by name, with their types."""

REFRESH = "10"
"""Seconds after which a page with automatic reload is reloaded."""

PAGES = ("overview", "pool", "sessions", "usage", "log", "sign_in", "refused")


def link(path: str, /, **query: str | int | None) -> str:
    """Return a URL of this page, without empty parameters."""
    given = {name: value for name, value in query.items() if value not in {None, ""}}
    return f"/ui{path}" + (f"?{urlencode(given, errors='surrogatepass')}" if given else "")


class Renderer:
    """The templates and static files, loaded in advance: rendering does no I/O."""

    def __init__(self) -> None:
        self._templates = _templates()
        folder = files("greenroom.server.ui") / "static"
        self._parts = {name: (folder / name).read_bytes() for name in PARTS}

    def page(self, name: str, status: int = 200, **values: Any) -> Response:
        """Return a page. A page with a `query` can reload automatically."""
        query: Mapping[str, str] | None = values.pop("query", None)
        state = None if query is None else again(name, query)
        text = self._templates[name].render(page=name, again=state, **values)
        headers = {**HEADERS, "refresh": REFRESH} if state is not None and state["refreshing"] else HEADERS
        return Response(text.encode("utf-8", "backslashreplace"), status, headers, "text/html; charset=utf-8")

    def part(self, name: str) -> Response:
        """Return a part of the pages."""
        return Response(self._parts[name], headers=HEADERS, media_type=PARTS[name])


@functools.cache
def _templates() -> Mapping[str, jinja2.Template]:
    """Compile the templates, once per process."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("greenroom.server.ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=texts.shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: dict[str, Any] = {
        each.__name__: each
        for each in (texts.key, texts.moment, texts.clock, texts.duration, texts.size, texts.number, texts.share)
    }
    environment.filters.update(filters)
    common: dict[str, Any] = {
        "link": link,
        "version": version("greenroom"),
        "chart_width": charts.WIDTH,
        "chart_height": charts.HEIGHT,
    }
    return {name: environment.get_template(f"{name}.html", globals=common) for name in PAGES}


def again(page: str, query: Mapping[str, str]) -> Mapping[str, str | bool]:
    """Return whether a page reloads automatically, and the links that change that."""
    kept = {name: value for name, value in query.items() if name not in {"refresh", "stopped", "before"}}
    path = "" if page == "overview" else f"/{page}"
    return {
        "refreshing": query.get("refresh") == REFRESH,
        "on": link(path, **{**kept, "refresh": REFRESH}),
        "off": link(path, **kept),
    }


def redirect(url: str, cookie: str | None = None) -> Response:
    """Return a redirect to a page of this server, by GET."""
    headers = {**HEADERS, "location": url}
    return Response(status_code=303, headers=headers if cookie is None else {**headers, "set-cookie": cookie})
