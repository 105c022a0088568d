"""Frames between the host and a sandbox's runner: a JSON header and a body of raw bytes.

On the wire: the header's length and the body's length (two 32-bit unsigned integers, big-endian), the header
(a JSON object in UTF-8), the body. Both sides use this module; the host treats what it decodes as hostile.
"""

from __future__ import annotations

import struct
from json import dumps, loads  # by name: code in a worker may replace them in their module
from typing import Any, cast

from .json_weight import weigh_json

VERSION = 2
"""Of the protocol; the runner's first frame states it."""

MAX_HEADER = 64 << 10
"""Bytes. A header is parsed before anything is known of it, so what can be large goes into the body."""

MAX_BODY = 64 << 20
MAX_LIST = 16 << 20
"""Bytes of a list of files."""

MAX_OUTPUTS = 10_000
"""Rich outputs of one execution; the runner leaves out what is beyond."""

MAX_NAME = 200
"""Characters of a display's name."""

MAX_ENDING = 4 << 20
"""Bytes of what comes with the end of an execution: its error and its new files."""

ERROR_LIMITS = {"name": 200, "value": 10_000, "traceback": 50_000, "summary": 10_000}
"""Characters of each part of an error; as JSON, a character takes up to 12 bytes."""

_OUTPUT = 500  # bytes of memory that an output takes beside its content

_LENGTHS = struct.Struct(">II")


class FrameError(Exception):
    """The bytes are not frames of this conversation."""


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """The bytes of one frame.

    Raises:
        FrameError: the frame is over a limit.
    """
    text = dumps(header, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER or len(body) > MAX_BODY:
        raise FrameError(f"a frame of {len(text)} + {len(body)} bytes is over the limit")
    return _LENGTHS.pack(len(text), len(body)) + text + body


def output_cost(body: bytes, limit: int) -> int:
    """What an output counts against the limit of its execution: the memory it takes where it is kept.

    Raises:
        TooDeep: its JSON is nested too deeply.
    """
    return _OUTPUT + weigh_json(body, limit - _OUTPUT)


class Decoder:
    """Cuts a stream of bytes into frames."""

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self._buffer = bytearray()
        self.max_body = max_body
        """Bytes that the body of a further frame may have."""

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """The frames that are complete with these bytes.

        Raises:
            FrameError: the stream is broken, for good.
        """
        self._buffer += data
        frames: list[tuple[dict[str, Any], bytes]] = []
        position = 0
        while len(self._buffer) - position >= _LENGTHS.size:
            header_size, body_size = _LENGTHS.unpack_from(self._buffer, position)
            if header_size > MAX_HEADER or body_size > self.max_body:
                raise FrameError(f"a frame of {header_size} + {body_size} bytes is over the limit")
            start = position + _LENGTHS.size
            end = start + header_size + body_size
            if len(self._buffer) < end:
                break
            try:
                header: Any = loads(self._buffer[start : start + header_size])
            except (ValueError, RecursionError) as error:
                raise FrameError("a frame's header is not JSON") from error
            if not isinstance(header, dict):
                raise FrameError("a frame's header is not an object")
            frames.append((cast("dict[str, Any]", header), bytes(self._buffer[start + header_size : end])))
            position = end
        del self._buffer[:position]
        return frames
