"""The content of a file: chunks with a size prefix, so that an error after some of them is not taken for content."""

from __future__ import annotations

import json
import struct
from collections.abc import Generator

from greenroom.errors import GreenroomError
from greenroom.wire.problems import decode_error, encode_error
from greenroom.wire.values import WireError, dump

_HEAD = struct.Struct(">cI")
_CHUNK, _ERROR, _END = b"c", b"e", b"."
_MAX_ERROR = 64 << 10


def encode_chunk(chunk: bytes) -> bytes:
    return _HEAD.pack(_CHUNK, len(chunk)) + chunk


def encode_content_end(error: GreenroomError | None = None) -> bytes:
    """Return the end of a file's content: nothing, or an error."""
    if error is None:
        return _HEAD.pack(_END, 0)
    content = dump(encode_error(error))
    return _HEAD.pack(_ERROR, len(content)) + content


class ContentDecoder:
    """Reads the content of a file, piece by piece."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        """Bytes left in the current chunk."""
        self._error = -1
        """The error so far, in bytes, once it has begun."""
        self.ended = False

    def feed(self, piece: bytes) -> Generator[bytes, None, None]:
        """Yield the file's content in a piece of the body.

        Raises:
            WireError: the piece has another form.
            GreenroomError: the error that it contains.
        """
        view = memoryview(piece)
        while view:
            if self.ended:
                raise WireError("a file must not continue after its end")
            if self._left:
                yield bytes(view[: self._left])
                taken = min(self._left, len(view))
                self._left -= taken
                view = view[taken:]
                continue
            missing = (self._error if self._error >= 0 else _HEAD.size) - len(self._buffer)
            self._buffer += view[:missing]
            view = view[missing:]
            if len(self._buffer) == (self._error if self._error >= 0 else _HEAD.size):
                self._take()

    def _take(self) -> None:
        content = bytes(self._buffer)
        self._buffer.clear()
        if self._error >= 0:
            try:
                error = decode_error(json.loads(content))
            except (ValueError, RecursionError) as failure:
                raise WireError(f"the error of a file must be valid: {failure!s:.200}") from None
            raise error
        kind, size = _HEAD.unpack(content)
        if kind == _CHUNK:
            self._left = size
        elif kind == _ERROR and 0 < size <= _MAX_ERROR:
            self._error = size
        elif kind == _END and size == 0:
            self.ended = True
        else:
            raise WireError("the content of a file must be chunks")
