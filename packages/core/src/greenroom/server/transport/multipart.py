"""Multipart bodies, parsed as they arrive: a file of any size takes only a few chunks of memory."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from greenroom.errors import InvalidRequest

# The parser logs warnings about clients' data; without a handler, they would be printed on stderr.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())

_LONGEST_DELIMITER = 260
_MAX_PARTS = 100
_MAX_PART_HEADERS = 4096
_MAX_PARAMETERS = 20
_MAX_HEADERS = 32 * 1024
"""Bytes of the headers of all parts."""
_HEADER = 4  # bytes counted per header in addition to its name and value: empty ones take memory too

# Possessive, so that each character is matched once: the standard library's parser is quadratic.
_PARAMETER = re.compile(
    r"""[ \t]*+;[ \t;]*+(?:([^\s=;"]++)[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^;"]*+)))?+[ \t]*+""", re.DOTALL
)
_ESCAPED = re.compile(r'\\(["\\])')

# Charsets of file names. Python has more codecs, but some take quadratic time or are not for text.
_CHARSETS = frozenset({
    "utf-8", "us-ascii", "iso-8859-1", "iso-8859-2", "iso-8859-5", "iso-8859-7", "iso-8859-15", "windows-1250",
    "windows-1251", "windows-1252", "koi8-r", "big5", "gbk", "gb2312", "gb18030", "euc-jp", "euc-kr", "iso-2022-jp",
    "shift_jis",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Head:
    """The beginning of a part."""

    name: str | None
    filename: str


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a part."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file in a multipart body. Its content must be read once, before the next part."""

    filename: str
    content: AsyncIterator[bytes]


async def file_parts(
    content_type: str | None, body: AsyncIterator[bytes], *, strict: bool
) -> AsyncGenerator[FilePart, None]:
    """Yield the parts named `file` as they arrive.

    Args:
        content_type: the request's content type. Unless `strict`, a body that is clearly multipart is parsed as such in
            any case: Semantic Kernel's tool sends `application/json` once it has run code.

    Raises:
        InvalidRequest: the body is not multipart, ends early, or contains no file.
    """
    boundary = _boundary(content_type)
    if boundary is None and not strict:
        boundary, body = await _sniff(body)
    if boundary is None:
        raise InvalidRequest(f"An upload must be multipart/form-data with a boundary, not {content_type!r:.100}.")
    reader = _Reader(boundary, body)
    found = False
    while (event := await reader.next()) is not None:
        if isinstance(event, _Head) and event.name == "file":
            if not event.filename:
                raise InvalidRequest("An upload's part 'file' must have a filename.")
            found = True
            yield FilePart(event.filename, reader.content())
    if not found:
        raise InvalidRequest("An upload must have a part named 'file'.")


class _Reader:
    """The events of a multipart body, in order."""

    def __init__(self, boundary: bytes, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._events: deque[_Head | bytes | _End] = deque()
        self._field = self._value = b""
        self._disposition = b""
        self._parts = 0
        self._size_of_part = self._size_of_headers = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._add_field,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._finish_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"An upload must be valid multipart: {error}.") from None

    async def next(self) -> _Head | bytes | _End | None:
        """Return the next event, or `None` at the end of the body."""
        while not self._events:
            chunk = await anext(self._body, None)
            if chunk is None:
                return None
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise InvalidRequest(f"An upload must be valid multipart: {error}.") from None
        return self._events.popleft()

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the content of the current part."""
        while isinstance(event := await self.next(), bytes):
            yield event
        if event is None:
            raise InvalidRequest("An upload must be complete, not end within its file.")

    def _begin(self) -> None:
        self._disposition = b""
        self._size_of_part = 0
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidRequest(f"An upload must have at most {_MAX_PARTS} parts.")

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        """Count bytes of headers before they are kept."""
        self._size_of_part += size
        self._size_of_headers += size
        if self._size_of_part > _MAX_PART_HEADERS or self._size_of_headers > _MAX_HEADERS:
            raise InvalidRequest(
                f"The headers of an upload's parts must have at most {_MAX_PART_HEADERS} bytes each, and "
                f"{_MAX_HEADERS} together."
            )

    def _end_header(self) -> None:
        self._count(_HEADER)
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _finish_headers(self) -> None:
        _, parameters = parse_parameters(self._disposition.decode("utf-8", "replace"))
        filename = _decoded(parameters["filename*"]) if "filename*" in parameters else parameters.get("filename", "")
        self._events.append(_Head(parameters.get("name"), filename))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _end(self) -> None:
        self._events.append(_End())


def parse_parameters(header: str) -> tuple[str, dict[str, str]]:
    """Return the value of a header such as `form-data; name="file"`, and its parameters by name in lower case.

    Raises:
        InvalidRequest: the value is not followed by a list of parameters.
    """
    value, semicolon, rest = header.partition(";")
    parameters: dict[str, str] = {}
    text, position, count = semicolon + rest, 0, 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        count += 1
        if match is None or count > _MAX_PARAMETERS:
            raise InvalidRequest(
                f"A header of an upload must have at most {_MAX_PARAMETERS} parameters of the form name=value, not "
                f"{text[position:]!r:.50}."
            )
        position = match.end()
        name, quoted, plain = match.groups()
        if name is not None:
            parameters.setdefault(name.lower(), plain.strip() if quoted is None else _ESCAPED.sub(r"\1", quoted))
    return value.strip().lower(), parameters


def _decoded(extended: str) -> str:
    """Decode a value in the encoding of RFC 5987, which older clients use: `utf-8''gr%C3%B6%C3%9Fe`.

    Raises:
        InvalidRequest: it has another form.
    """
    charset, _, rest = extended.partition("'")
    _, quote, encoded = rest.partition("'")
    if not quote or charset.lower() not in _CHARSETS:
        raise InvalidRequest(f"An upload's filename* must begin with a charset such as utf-8'', not {extended!r:.50}.")
    try:
        return unquote_to_bytes(encoded).decode(charset, "replace")
    except ValueError as error:
        raise InvalidRequest(
            f"An upload's filename* must be encoded in the charset that it names, not {extended!r:.50}: {error}."
        ) from None


def _boundary(content_type: str | None) -> bytes | None:
    try:
        kind, parameters = parse_parameters(content_type or "")
        return parameters.get("boundary", "").encode("latin-1") or None if kind == "multipart/form-data" else None
    except (InvalidRequest, UnicodeEncodeError):
        return None


async def _sniff(body: AsyncIterator[bytes]) -> tuple[bytes | None, AsyncIterator[bytes]]:
    """Return the boundary at the beginning of a body, if there is one, and the whole body again."""
    beginning = b""
    async for chunk in body:
        beginning += chunk
        if b"\r\n" in beginning or len(beginning) > _LONGEST_DELIMITER:
            break

    async def again() -> AsyncIterator[bytes]:
        yield beginning
        async for chunk in body:
            yield chunk

    delimiter, newline, _ = beginning.partition(b"\r\n")
    return delimiter[2:] if newline and delimiter.startswith(b"--") and len(delimiter) > 2 else None, again()
