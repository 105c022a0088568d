"""Multipart bodies, read as they arrive: a file of any size takes a few chunks of memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from email.message import Message

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from greenroom.errors import InvalidRequest

_LONGEST_DELIMITER = 260
_MAX_PARTS = 100


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
    """A file in a multipart body. Its content is read once, before the next part is asked for."""

    filename: str
    content: AsyncIterator[bytes]


async def file_parts(
    content_type: str | None, body: AsyncIterator[bytes], *, strict: bool
) -> AsyncGenerator[FilePart, None]:
    """The parts named `file`, as they arrive.

    Args:
        content_type: of the request. A body that is plainly multipart is read as such whatever this says, unless
            `strict`: Semantic Kernel's tool says `application/json` once it has run code.

    Raises:
        InvalidRequest: the body is not multipart, ends early, or has no file in it.
    """
    boundary = _boundary(content_type)
    if boundary is None and not strict:
        boundary, body = await _sniff(body)
    if boundary is None:
        raise InvalidRequest("The upload is not valid: its body is not multipart/form-data with a boundary.")
    reader = _Reader(boundary, body)
    found = False
    while (event := await reader.next()) is not None:
        if isinstance(event, _Head) and event.name == "file":
            if not event.filename:
                raise InvalidRequest("The upload is not valid: its part 'file' has no filename.")
            found = True
            yield FilePart(event.filename, reader.content())
    if not found:
        raise InvalidRequest("The upload is not valid: it has no part named 'file'.")


class _Reader:
    """The events of a multipart body, one after the other."""

    def __init__(self, boundary: bytes, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._events: deque[_Head | bytes | _End] = deque()
        self._field = self._value = b""
        self._disposition = b""
        self._parts = 0
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
            raise InvalidRequest(f"The upload is not valid: {error}.") from None

    async def next(self) -> _Head | bytes | _End | None:
        """The next event; `None` at the end of the body."""
        while not self._events:
            chunk = await anext(self._body, None)
            if chunk is None:
                return None
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise InvalidRequest(f"The upload is not valid: {error}.") from None
        return self._events.popleft()

    async def content(self) -> AsyncIterator[bytes]:
        """The content of the part that has begun."""
        while isinstance(event := await self.next(), bytes):
            yield event
        if event is None:
            raise InvalidRequest("The upload is not valid: its body ends within a file.")

    def _begin(self) -> None:
        self._disposition = b""
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidRequest(f"The upload is not valid: it has more than {_MAX_PARTS} parts.")

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _finish_headers(self) -> None:
        # The standard library knows the spelling of other alphabets that older clients use (filename*=utf-8''…).
        message = Message()
        message["content-disposition"] = self._disposition.decode("utf-8", "replace")
        name = message.get_param("name", header="content-disposition")
        try:
            # Its charset may be one that makes half characters.
            filename = (message.get_filename() or "").encode("utf-8", "replace").decode()
        except ValueError as error:  # some charsets of Python are none for this, and one name has a NUL in it
            raise InvalidRequest(f"The upload is not valid: its filename cannot be read ({error}).") from None
        self._events.append(_Head(name if isinstance(name, str) else None, filename))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _end(self) -> None:
        self._events.append(_End())


def _boundary(content_type: str | None) -> bytes | None:
    kind, options = parse_options_header(content_type)
    return options.get(b"boundary") or None if kind == b"multipart/form-data" else None


async def _sniff(body: AsyncIterator[bytes]) -> tuple[bytes | None, AsyncIterator[bytes]]:
    """The boundary that a body begins with, if it does, and the body again from its beginning."""
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
