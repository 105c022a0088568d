"""The event loop of a session, which code finds as in a notebook, and whose tasks run between cells.

In a notebook each cell runs within the kernel's running loop: `asyncio.create_task()` works without `await`, and
`asyncio.run()` is refused. Here both work: while code that does not await is running, the loop is not, so that it and
other loops can be run, but `get_running_loop()` still returns it, so that tasks can be created.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import contextlib
import contextvars
import socket
from collections.abc import Callable, Coroutine
from os import getpid  # imported by name, like the following: code can replace them in their modules
from select import POLLIN, poll, select
from threading import get_ident
from types import FrameType
from typing import Any


class EventLoop:
    """The loop of a session, for its whole lifetime. Only one can be created in a process."""

    _loop: _Loop

    def __init__(self) -> None:
        self._owner: tuple[int, int] | None = None
        self.was_interrupted = False
        """Whether `ignore` has ignored a signal."""
        self._running: Callable[[], asyncio.AbstractEventLoop] = asyncio.events.get_running_loop
        self._set: Callable[[asyncio.AbstractEventLoop | None], None] = asyncio.events.set_event_loop
        modules: tuple[Any, ...] = (asyncio, asyncio.events)
        for module in modules:
            module.get_running_loop = self._get_running_loop
            module.set_event_loop = self._set_event_loop

    def begin(self) -> None:
        """Create the loop: the kernel's part of it must not be shared by forks of a process."""
        self._owner = getpid(), get_ident()
        self._loop = _Loop()

    def end(self) -> None:
        """Close the loop, before forks of this process create their own."""
        self._owner = None
        self._loop.close()

    @property
    def is_running(self) -> bool:
        return self._loop.is_running()

    def restore(self) -> None:
        """Make it the current loop, whatever earlier code has set; if that code has closed it, create a new one."""
        if self._loop.is_closed():
            self._loop = _Loop()
        self._set(self._loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a cell that awaits. Context variables that it sets, such as the precision of `decimal`, persist."""
        self.restore()
        context = contextvars.copy_context()
        task = self._loop.create_task(coroutine, context=context)
        try:
            return _complete(self._loop, task)
        finally:
            for variable, value in context.items():
                if variable not in (now := contextvars.copy_context()) or now[variable] is not value:
                    variable.set(value)

    def wait_for(self, source: socket.socket) -> None:
        """Run the tasks that earlier cells have left, until there is something to receive.

        The handler of SIGINT must be `ignore`.
        """
        with contextlib.suppress(Exception):  # code has broken the loop: the worker waits without it
            while not select([source], [], [], 0)[0]:
                self.restore()
                if self._loop.rest_until(source):
                    break
                self._loop.add_reader(source, self._loop.stop)
                with contextlib.suppress(KeyboardInterrupt, SystemExit):  # from a task, which stores it
                    self._loop.run_forever()
                self._loop.remove_reader(source)

    def ignore(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGINT while no code is running: it interrupts a task that blocks the loop, or else is ignored."""
        self.was_interrupted = True
        if self._loop.is_running():
            raise KeyboardInterrupt

    def _get_running_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running event loop or, in a cell's code, the session's loop.

        Raises:
            RuntimeError: no loop is running in this thread.
        """
        try:
            return self._running()
        except RuntimeError:
            if (getpid(), get_ident()) != self._owner:
                raise
        if self._loop.is_closed():
            self.restore()
        return self._loop

    def _set_event_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Set the event loop of this thread; in a cell's code, `None` means the session's loop."""
        if loop is None and (getpid(), get_ident()) == self._owner:
            self.restore()  # asyncio.run() leaves no current loop behind
        else:
            self._set(loop)


class _Loop(asyncio.SelectorEventLoop):
    _ready: Any
    _scheduled: Any
    _selector: Any

    def rest_until(self, source: socket.socket) -> bool:
        """Wait without running if nothing is due; return whether there is something to receive, and nothing to run."""
        if self._ready or self._scheduled:
            return False
        waiting = poll()
        waiting.register(source, POLLIN)
        waiting.register(self._selector.fileno(), POLLIN)
        return source.fileno() in {descriptor for descriptor, _ in waiting.poll()}

    def run_until_complete(self, future: Any) -> Any:
        if self.is_running() or self.is_closed():
            return super().run_until_complete(future)  # raises
        return _complete(self, asyncio.ensure_future(future, loop=self))


def _complete(loop: asyncio.SelectorEventLoop, future: asyncio.Future[Any]) -> Any:
    """Run a loop until a future is done. An interrupt cancels it, as it would otherwise continue between cells."""
    interrupt: BaseException | None = None
    while True:
        try:
            return asyncio.SelectorEventLoop.run_until_complete(loop, future)
        except BaseException as error:
            if not future.done() and not loop.is_closed():
                interrupt = interrupt or error
                future.cancel()
                continue
            if future.done() and not future.cancelled():
                future.exception()  # marks it as retrieved
            if interrupt is not None and isinstance(error, asyncio.CancelledError):
                raise interrupt from None
            raise
