"""The text that a model reads in place of a rich output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from greenroom.rendering.html import text_of_html

_LARGEST_JSON = 100_000
"""Characters of JSON that are serialized; a model reads fewer."""
_LARGEST_SPECIFICATION = 300_000
"""Characters of a chart's specification that are parsed to find its title."""
_LONGEST_TITLE = 200

# The `repr` of an object without its own text form.
_OPAQUE = re.compile(r"<[^<>\n]*(?: object| at 0x[0-9a-fA-F]+)>")
_VEGA = re.compile(r"application/vnd\.vega(lite)?\.v\d+\+json")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_UNFINISHED_BAR = re.compile(r"(?:^|[ :])0%\|")
_LOADS_A_LIBRARY = ("application/vnd.bokehjs_load.v0+json", "application/vnd.holoviews_load.v0+json")

# The beginning of a library's HTML. Text in a cell cannot look like this, as its "<" is escaped.
_SCRIPTS = {
    "Plotly.newPlot(": "plotly",
    "vegaEmbed": "Vega",
    "docs_json": "bokeh",
    "echarts.init(": "ECharts",
    "vis.Network(": "pyvis",
    "L.map(": "Leaflet",
}
_TITLES = {
    "plotly": re.compile(r'"title":\s*\{[^{}]{0,200}?"text":\s*("(?:[^"\\]|\\.){0,400}")'),
    "bokeh": re.compile(
        r'"name":"Title","id":"[^"]{0,40}","attributes":\{[^{}]{0,400}?"text":("(?:[^"\\]|\\.){0,400}")'
    ),
    "ECharts": re.compile(r'"title":\s*\[\s*\{[^{}]{0,400}?"text":\s*("(?:[^"\\]|\\.){0,400}")'),
}

_NUMBER = r"-?[\d.]++(?:e[+-]?\d++)?"
_STRING = r"""(?:'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+")"""
_ARTISTS = re.compile(
    rf"""
    (?:
        <matplotlib\.[^<>\n]*+>
        | <seaborn\.axisgrid\.[^<>\n]*+>
        | <Figure[ ]size[ ][^<>\n]*+>
        | <\w*Axes\w*:(?:[^<>'"\n]|{_STRING})*+>
        | <\w*Container[ ]object[ ]of[ ]\d++[ ][\w ]++>
        | <a[ ]list[ ]of[ ]\d++[ ][\w.]++[ ]objects>
        | Text\({_NUMBER},[ ]{_NUMBER},[ ]{_STRING}\)
        | array\(
        | dtype=object
        | {_STRING}:
        | [\[\](){{}},\s]
    )++
    """,
    re.VERBOSE,
)


def is_artists(text: str) -> bool:
    """Whether a value is just the return value of a matplotlib function that draws a figure."""
    return len(text) < 100_000 and ("<" in text or "Text(" in text) and _ARTISTS.fullmatch(text) is not None


def text_of_bundle(data: Mapping[str, Any]) -> str:
    """Return a text for a MIME bundle, or an empty one if there is none."""
    chart = _chart(data)
    if chart:
        return chart
    plain = _string(data, "text/plain")
    if _WIDGET in data and _UNFINISHED_BAR.search(plain[:1000]):
        return ""  # the widget's initial state; later changes are not shown
    if plain.strip() and not _OPAQUE.fullmatch(plain):
        return plain
    if any(mime in data for mime in _LOADS_A_LIBRARY) or "Loading BokehJS" in _string(data, "text/html")[:2000]:
        return ""
    return next(filter(str.strip, _other_texts(data)), plain)


def _other_texts(data: Mapping[str, Any]) -> Iterator[str]:
    yield _string(data, "text/markdown")
    yield _string(data, "text/latex")
    for mime in ("application/json", "application/geo+json"):
        if data.get(mime) is not None:
            yield _json(data[mime])
    if source := _string(data, "text/html"):
        yield text_of_html(source)
    for mime, content in data.items():
        if mime.startswith("text/") and mime not in {"text/html", "text/plain"} and isinstance(content, str):
            yield content
    if others := [mime for mime in data if not mime.startswith(("text/", "image/"))]:
        yield f"An output of the type {others[0][:100]} was shown."


def _chart(data: Mapping[str, Any]) -> str:
    for mime, content in data.items():
        if mime == "application/vnd.plotly.v1+json":
            return _sentence("plotly", *_of_plotly(content))
        if vega := _VEGA.fullmatch(mime):
            return _sentence("Vega-Lite" if vega[1] else "Vega", *_of_vega(content))
        if mime.startswith("application/vnd.bokehjs_exec."):
            return _sentence("bokeh", _title_in("bokeh", _string(data, "application/javascript")))
        if mime.startswith("application/vnd.holoviews_exec."):
            return _sentence("HoloViews", _title_in("bokeh", _string(data, "text/html")))
    source = _string(data, "text/html")
    if "<script" in source or "&lt;script" in source:
        for mark, library in _SCRIPTS.items():
            if mark in source:
                if library == "Vega":
                    return _sentence("Vega-Lite", *_of_vega(_specification(source)))
                return _sentence(library, _title_in(library, source))
    return ""


def _sentence(library: str, title: object = "", kinds: object = "") -> str:
    """Describe a chart: `A plotly chart was shown: Sales per city (bar).`"""
    name, kind = (_one_line(value) for value in (title, kinds))
    kind = f" ({kind})" if kind else ""
    return f"A {library} chart was shown: {name}{kind}." if name else f"A {library} chart was shown{kind}."


def _one_line(value: object) -> str:
    """The text of a title, without HTML and line breaks."""
    if isinstance(value, list):
        value = " ".join(line for line in cast("list[object]", value)[:10] if isinstance(line, str))
    if not isinstance(value, str):
        return ""
    text = " ".join(text_of_html(value[: 5 * _LONGEST_TITLE]).split())
    return text if len(text) <= _LONGEST_TITLE else f"{text[:_LONGEST_TITLE]}…"


def _of_plotly(content: object) -> tuple[object, object]:
    traces = _at(content, "data")
    kinds: dict[str, int] = {}
    for trace in cast("list[object]", traces)[:1000] if isinstance(traces, list) else ():
        kind = _at(trace, "type")
        kinds[kind if isinstance(kind, str) else "scatter"] = 1
    return _text_or_all(_at(content, "layout", "title"), "text"), ", ".join(list(kinds)[:5])


def _of_vega(content: object) -> tuple[object, object]:
    return _text_or_all(_at(content, "title"), "text"), _text_or_all(_at(content, "mark"), "type")


def _text_or_all(content: object, key: str) -> object:
    """The member of an object, or the value itself if it does not have that member."""
    member = _at(content, key)
    return content if member is None else member


def _specification(source: str) -> object:
    """The specification in the HTML of `vegaEmbed`: the argument of the function around it."""
    start = source.find("})({")
    if start < 0 or len(source) - start > _LARGEST_SPECIFICATION:
        return None
    try:
        return json.JSONDecoder().raw_decode(source, start + 3)[0]
    except (ValueError, RecursionError):
        return None


def _title_in(library: str, source: str) -> object:
    found = _TITLES[library].search(source) if library in _TITLES else None
    try:
        return json.loads(found[1]) if found else ""
    except ValueError:
        return ""


def _at(content: object, *keys: str) -> object:
    for key in keys:
        content = cast("dict[str, object]", content).get(key) if isinstance(content, dict) else None
    return content


def _string(data: Mapping[str, Any], mime: str) -> str:
    content = data.get(mime)
    return content if isinstance(content, str) else ""


def _json(content: object) -> str:
    """The beginning of a value as JSON; only that much of a large value is serialized."""
    encode: Callable[[object], Iterator[str]] = json.JSONEncoder(ensure_ascii=False).iterencode
    pieces: list[str] = []
    length = 0
    try:
        for piece in encode(content):
            pieces.append(piece)
            length += len(piece)
            if length > _LARGEST_JSON:
                pieces.append(" …")
                break
    except (TypeError, ValueError, RecursionError):
        return ""
    return "".join(pieces)
