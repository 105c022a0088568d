"""Files over which a pickler writes and reads: what is written goes on in pieces, and nothing is kept."""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

from ...protocol import MAX_PIECE


class StreamEnded(BaseException):
    """The other end has given up. No `except Exception` of the session's own code takes it for something else."""


class Counter:
    """Counts what is written."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> None:
        self.size += data.raw().nbytes if isinstance(data, PickleBuffer) else len(data)


class Outgoing:
    """Passes on what is written."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._held = bytearray()

    def write(self, data: Any) -> None:
        view = data.raw() if isinstance(data, PickleBuffer) else memoryview(data)
        while view.nbytes:
            room = MAX_PIECE - len(self._held)
            self._held += view[:room]
            view = view[room:]
            if len(self._held) == MAX_PIECE:
                self.flush()

    def flush(self) -> None:
        if self._held:
            self._send(bytes(self._held))
            self._held.clear()


class Incoming:
    """Gives what comes in, piece by piece.

    Its methods raise `StreamEnded` when an empty piece comes.
    """

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._held = b""
        self._position = 0

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target):
            if self._position >= len(self._held):
                self._held, self._position = self._receive(), 0
                if not self._held:
                    raise StreamEnded
            taken = self._held[self._position : self._position + len(target) - done]
            target[done : done + len(taken)] = taken
            self._position += len(taken)
            done += len(taken)
        return done

    def read(self, size: int) -> bytes:
        end = self._position + size
        if end <= len(self._held):
            data = self._held[self._position : end]
            self._position = end
            return data
        target = bytearray(size)
        return bytes(target[: self.readinto(target)])

    def readline(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return bytes(line)
