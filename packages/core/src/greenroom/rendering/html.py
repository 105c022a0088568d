"""Converts HTML to plain text in linear time: a full HTML parser would be slow on hostile input."""

from __future__ import annotations

import html
import re

_LARGEST = 500_000
"""The most characters of HTML to read; a table for people is smaller."""
_WIDEST = 100
"""Columns and rows that one cell can span."""
_MOST_BLANKS = 100_000
"""The most cells that are added to fill up rows."""

# No quoted value may contain "<", so that each attempt to read a tag ends at the next one.
_TOKEN = re.compile(
    r"""
    <!--.*?(?:-->|\Z)
    | <(?P<end>/?)(?P<tag>[a-zA-Z][\w:-]{0,40}+)(?P<attributes>(?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+)>
    | <[!?/a-zA-Z][^<>]*+>
    | [^<]++
    | <
    """,
    re.VERBOSE | re.DOTALL,
)
_ATTRIBUTE = re.compile(r"""\b(alt|src|title|colspan|rowspan)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")

_HIDDEN = frozenset(("head", "noscript", "script", "style", "svg", "template", "title", "object", "math"))
_MEDIA = frozenset(("audio", "embed", "iframe", "img", "video"))
_CELLS = frozenset(("td", "th"))
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div"),
        *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6"),
        *("header", "hr", "html", "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody"),
        *("tfoot", "thead", "ul"),
    )
)
_SPACES = re.compile(r"[ \t\r\n\f\xa0]+")
_KEPT_SPACE = "\xa0"


def text_of_html(source: str) -> str:
    """Return the text of an HTML document or fragment: tables as rows of `a | b`, media by their names."""
    left_out = max(len(source) - _LARGEST, 0)
    reader = _Reader()
    position = 0
    source = source[:_LARGEST]
    while token := _TOKEN.match(source, position):
        position = token.end()
        tag = (token["tag"] or "").lower()
        if tag in _HIDDEN and not token["end"] and not token["attributes"].endswith("/"):
            end = re.compile(rf"</{tag}\b[^<>]*>", re.IGNORECASE).search(source, position)
            position = end.end() if end else len(source)
        elif tag:
            reader.tag(tag, token["attributes"], is_end=bool(token["end"]))
        elif token[0] == "<" or token[0][0] != "<":
            reader.text(token[0])
    text = reader.finish()
    return f"{text}\n… [{left_out} characters of HTML left out] …" if left_out else text


class _Reader:
    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._cell: list[str] | None = None
        self._row: list[str] | None = None
        self._spanned: dict[int, int] = {}  # by column: the rows that a cell above still covers
        self._span = 1, 1
        self._blanks = _MOST_BLANKS
        self._is_preformatted = False

    def text(self, source: str) -> None:
        text = _unescaped(source)
        self._write(text.replace(" ", _KEPT_SPACE) if self._is_preformatted else _SPACES.sub(" ", text))

    def tag(self, tag: str, attributes: str, *, is_end: bool) -> None:
        if tag in _CELLS:
            self._end_cell()
            if not is_end and self._row is not None:
                self._cell = []
                found = _attributes(attributes)
                self._span = _count(found.get("colspan")), _count(found.get("rowspan"))
        elif tag == "tr":
            self._end_row()
            if not is_end:
                self._row = []
        elif tag == "table":
            self._end_row()
            self._spanned.clear()
            self._write("\n")
        elif tag in _MEDIA and not is_end:
            self._write(_medium(tag, _attributes(attributes)))
        elif tag == "br":
            self._write("\n")
        elif tag in _BLOCKS:
            if tag == "pre":
                self._is_preformatted = not is_end
            self._write("\n" if is_end or tag != "li" else "\n- ")

    def finish(self) -> str:
        self._end_row()
        lines = (line.strip(" ").replace(_KEPT_SPACE, " ").rstrip() for line in "".join(self._pieces).split("\n"))
        return "\n".join(line for line in lines if line)

    def _write(self, text: str) -> None:
        if self._cell is not None:
            self._cell.append(text)
        elif self._row is None:  # between the cells of a row, nothing is visible
            self._pieces.append(text)

    def _end_cell(self) -> None:
        if self._cell is None or self._row is None:
            return
        self._skip_spanned(self._row)
        text = " ".join("".join(self._cell).split()).replace("|", "\\|")
        columns, rows = self._span
        for number in range(columns):
            if rows > 1:
                self._spanned[len(self._row)] = rows
            self._row.append(text if number == 0 else self._blank())
        self._cell = None

    def _skip_spanned(self, row: list[str]) -> None:
        while self._spanned.get(len(row), 0) and self._blanks:
            row.append(self._blank())

    def _blank(self) -> str:
        self._blanks = max(self._blanks - 1, 0)
        return ""

    def _end_row(self) -> None:
        self._end_cell()
        if self._row is None:
            return
        self._skip_spanned(self._row)
        self._spanned = {column: left - 1 for column, left in self._spanned.items() if left > 1}
        if any(self._row):
            self._pieces.append(" | ".join(self._row).rstrip() + "\n")
        self._row = None


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a character number with thousands of digits
        return text


def _attributes(source: str) -> dict[str, str]:
    return {
        name: _unescaped(double or single or bare)[:200] for name, double, single, bare in _ATTRIBUTE.findall(source)
    }


def _count(value: str | None) -> int:
    return min(max(int(value), 1), _WIDEST) if value and value.isdecimal() and len(value) < 10 else 1


def _medium(tag: str, attributes: dict[str, str]) -> str:
    source = attributes.get("src", "")
    name = attributes.get("alt") or attributes.get("title") or ("" if source.startswith("data:") else source)
    tag = {"img": "image", "iframe": "page"}.get(tag, tag)
    return f"[{tag} {name}]" if name else f"[{tag}]"
