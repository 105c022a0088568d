"""The pieces of a session copy in transit between the worker and the host, one at a time."""

from __future__ import annotations

from collections.abc import Callable

from .protocol import MAX_PIECE, Frame, FrameError, HostEvent


class Pieces:
    """Holds at most one piece until the other side takes it. When the execution ends, pending calls return."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        """
        Args:
            send: sends a frame to the host.
        """
        self._send = send
        self._running = False
        self._taking: int | None = None
        self._offered: tuple[bytes, Callable[[], None]] | None = None
        self._given: Frame | None = None
        self._wanting: Callable[[bytes], None] | None = None

    def begin(self) -> None:
        """Pass on the pieces of an execution that begins."""
        self._running = True

    def end(self) -> None:
        """Stop passing on pieces; pending calls return."""
        self._running = False
        offered, self._offered = self._offered, None
        given, self._given, self._wanting = self._given, None, None
        taking, self._taking = self._taking, None
        if offered is not None:
            offered[1]()
        if given is not None:
            self._send(HostEvent.reply(given.header["id"]))
        if taking is not None:
            self._send(HostEvent.reply(taking))

    # From the worker to the host

    def offer(self, piece: bytes, taken: Callable[[], None]) -> None:
        """Take a piece from the worker; `taken` lets the worker continue.

        Raises:
            FrameError: the piece is too large or empty, or the worker did not wait for the previous one.
        """
        if not 0 < len(piece) <= MAX_PIECE or self._offered is not None:
            raise FrameError("a piece of a copy that was not requested")
        if not self._running:
            taken()
            return
        self._offered = piece, taken
        self._pass_up()

    def take(self, number: int) -> None:
        """Reply to a request of the host with the next piece."""
        if not self._running:
            self._send(HostEvent.reply(number))
            return
        self._taking = number
        self._pass_up()

    def _pass_up(self) -> None:
        if self._taking is not None and self._offered is not None:
            piece, taken = self._offered
            number, self._taking, self._offered = self._taking, None, None
            self._send(HostEvent.reply(number, piece))
            taken()

    # From the host to the worker

    def give(self, order: Frame) -> None:
        """Take a piece from the host, and reply when the worker takes it."""
        if not self._running:
            self._send(HostEvent.reply(order.header["id"]))
            return
        self._given = order
        self._pass_down()

    def want(self, give: Callable[[bytes], None]) -> None:
        """Give the worker the next piece."""
        if self._running:
            self._wanting = give
            self._pass_down()

    def _pass_down(self) -> None:
        if self._wanting is not None and self._given is not None:
            give, order = self._wanting, self._given
            self._wanting = self._given = None
            give(order.body)
            self._send(HostEvent.reply(order.header["id"]))
