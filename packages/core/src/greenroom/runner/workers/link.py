"""The worker's end of the link to the supervisor."""

from __future__ import annotations

import contextlib
import os
import socket
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Generator
from os import read  # imported by name, like the following: code can replace them in their modules
from select import POLLIN, poll
from signal import SIG_BLOCK, SIGINT, default_int_handler, pthread_sigmask, raise_signal, signal
from threading import Lock, current_thread, main_thread
from types import FrameType
from typing import Protocol

from ..protocol import Decoder, Frame, WorkerEvent, encode


class Link(Protocol):
    """The part of the link that a worker needs while it runs code."""

    def send(self, frame: Frame, *more: Frame) -> None:
        """Send events that need no acknowledgement."""

    def send_and_wait(self, frame: Frame) -> None:
        """Send an event and wait until it is acknowledged."""

    def stop_reading(self) -> None:
        """Stop reading answers to calls."""

    def receive_piece(self) -> bytes:
        """Request the next piece of a session to load; it is empty at the end."""
        raise NotImplementedError


class Nowhere:
    """A link that drops everything."""

    def send(self, frame: Frame, *more: Frame) -> None:
        pass

    def send_and_wait(self, frame: Frame) -> None:
        pass

    def stop_reading(self) -> None:
        pass

    def receive_piece(self) -> bytes:
        return b""


class SupervisorLink:
    """Sends events to the supervisor and receives its orders, and while code runs, answers to calls."""

    def __init__(self, orders: socket.socket, acks: int) -> None:
        self._socket = orders
        self._acks = acks
        self._decoder = Decoder()
        self._pending: list[Frame] = []
        self._lock = Lock()
        self._interrupted = False
        self._reading: tuple[int, Lock] | None = None  # stops the thread that reads answers; released at its end

    def receive(self, wait_for: Callable[[socket.socket], None]) -> Frame:
        """Wait for the next order by calling a function; when the supervisor is gone, end this process."""
        while not self._pending:
            wait_for(self._socket)
            data = self._socket.recv(1 << 16)
            if not data:
                os._exit(0)  # the supervisor is gone, and the sandbox with it
            self._pending = self._decoder.feed(data)
        return self._pending.pop(0)

    def send(self, frame: Frame, *more: Frame) -> None:
        """Send events that need no acknowledgement."""
        data = b"".join(encode(*each) for each in (frame, *more))
        with self.uninterrupted(), self._lock:
            self._socket.sendall(data)

    def read_answers(self, take: Callable[[Frame], None]) -> None:
        """Have a thread read what arrives, and pass answers to a function, until `stop_reading`."""
        if self._reading is None:
            stopped, stop = os.pipe()
            ended = allocate_lock()
            ended.acquire()
            self._reading = stop, ended
            start_new_thread(self._read_answers, (take, stopped, ended))

    def stop_reading(self) -> None:
        """Stop the thread that reads answers; other orders that it has read are received next."""
        if self._reading is not None:
            stop, ended = self._reading
            self._reading = None
            os.close(stop)
            ended.acquire()

    def _read_answers(self, take: Callable[[Frame], None], stopped: int, ended: Lock) -> None:
        pthread_sigmask(SIG_BLOCK, {SIGINT})
        try:
            waiting = poll()  # select() does not accept descriptors from 1024 upwards
            waiting.register(self._socket, POLLIN)
            waiting.register(stopped, POLLIN)
            while stopped not in {descriptor for descriptor, _ in waiting.poll()}:
                data = self._socket.recv(1 << 16)
                if not data:
                    os._exit(0)  # the supervisor is gone, and the sandbox with it
                for frame in self._decoder.feed(data):
                    if frame.header["op"] == "answer":
                        take(frame)
                    else:
                        self._pending.append(frame)
        except BaseException:  # noqa: BLE001  such as MemoryError: what follows on the link cannot be read any more
            os._exit(1)
        os.close(stopped)
        ended.release()

    def send_and_wait(self, frame: Frame) -> None:
        """Send an event and wait until the supervisor has acknowledged it.

        Waiting keeps it in order with the text before and after it, which travels through the pipes.
        """
        data = encode(*frame)
        with self.uninterrupted(), self._lock:
            self._socket.sendall(data)
            read(self._acks, 1)

    def receive_piece(self) -> bytes:
        """Request the next piece of a session to load; it is empty at the end. Other orders are received next."""
        self.send(WorkerEvent.more())
        others: list[Frame] = []
        while (frame := self.receive(lambda _: None)).header["op"] != "piece":
            others.append(frame)
        self._pending[:0] = others
        return frame.body

    @contextlib.contextmanager
    def uninterrupted(self) -> Generator[None, None, None]:
        """Delay an interrupt until the end of the block, as half a frame would violate the protocol. Can be nested."""
        if current_thread() is not main_thread():  # Python runs signal handlers only in the main thread
            yield
            return
        handler = signal(SIGINT, self._remember)
        if handler == self._remember:
            yield
            return
        self._interrupted = False
        try:
            yield
        finally:
            signal(SIGINT, default_int_handler if handler is None else handler)
        if self._interrupted:
            raise_signal(SIGINT)

    def _remember(self, _signal: int, _frame: FrameType | None) -> None:
        self._interrupted = True
