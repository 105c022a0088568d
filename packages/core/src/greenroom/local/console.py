"""The output of a custom container, split into lines, and limited to what a log can hold."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable

_MOST_LINE = 4096
"""Characters; a longer line is split."""
_BURST, _RATE = 256 << 10, 64 << 10
"""How many bytes a container can print in a burst, and per second."""


class ConsoleLines:
    """Splits a container's output into lines. Output over the rate limit is dropped, and a line reports how much."""

    def __init__(self, emit: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            emit: called with `stdout` or `stderr`, and a line without its end.
            clock: returns seconds.
        """
        self._emit = emit
        self._clock = clock
        self._allowed = float(_BURST)
        self._since = clock()
        self._left_out = 0
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in ("stdout", "stderr")}
        self._rest = {"stdout": "", "stderr": ""}

    def feed(self, stream: str, data: bytes) -> None:
        """Take output of the container."""
        now = self._clock()
        self._allowed = min(_BURST, self._allowed + (now - self._since) * _RATE)
        self._since = now
        if len(data) > self._allowed:
            self._left_out += len(data)
            return
        self._allowed -= len(data)
        if self._left_out:
            self._emit(stream, f"[{self._left_out:,} bytes were left out]")
            self._left_out = 0
        *lines, rest = (self._rest[stream] + self._decoders[stream].decode(data)).split("\n")
        for line in lines:
            self._emit_line(stream, line)
        while len(rest) > _MOST_LINE:
            self._emit(stream, rest[:_MOST_LINE])
            rest = rest[_MOST_LINE:]
        self._rest[stream] = rest

    def close(self) -> None:
        """Emit an unfinished line."""
        for stream in self._rest:
            if rest := self._rest[stream] + self._decoders[stream].decode(b"", final=True):
                self._emit_line(stream, rest)
            self._rest[stream] = ""
        if self._left_out:
            self._emit("stdout", f"[{self._left_out:,} bytes were left out]")
            self._left_out = 0

    def _emit_line(self, stream: str, line: str) -> None:
        line = line.removesuffix("\r")
        for start in range(0, max(len(line), 1), _MOST_LINE):
            self._emit(stream, line[start : start + _MOST_LINE])
