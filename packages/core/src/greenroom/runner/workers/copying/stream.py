"""Files that a pickler writes to and reads from: data is passed on in pieces, and nothing is kept."""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

from ...protocol import MAX_PIECE


class StreamEnded(BaseException):
    """The other end has stopped. Not an `Exception`, so that the session's own code does not catch it."""


class Counter:
    """Counts the bytes that are written."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> None:
        self.size += data.raw().nbytes if isinstance(data, PickleBuffer) else len(data)


class TooMuch(Exception):
    """More is written than the trial run counted."""


class Outgoing:
    """Passes on the bytes that are written.

    A pickler keeps everything that it has written in memory, so an endless object would use up the session's memory.
    """

    def __init__(self, send: Callable[[bytes], None], most: int) -> None:
        """
        Args:
            send: receives the pieces.
            most: the number of bytes above which writing raises `TooMuch`.
        """
        self._send = send
        self._left = most
        self._held = bytearray()

    def write(self, data: Any) -> None:
        view = data.raw() if isinstance(data, PickleBuffer) else memoryview(data)
        self._left -= view.nbytes
        if self._left < 0:
            raise TooMuch("it is larger than first measured")
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
    """Provides incoming bytes, piece by piece.

    Its methods raise `StreamEnded` when an empty piece arrives.
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
