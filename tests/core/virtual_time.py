"""An event loop for tests that skips waiting, and fails if it would wait forever."""

from __future__ import annotations

import asyncio
import functools
import gc
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer as soon as there is nothing else to do.

    Where neither I/O nor a timer could ever wake it, it raises an AssertionError instead of hanging. It is for
    code without threads and processes.
    """

    def __init__(self) -> None:
        super().__init__(_ImpatientSelector(self._skip))
        self._now = 1000.0
        self.complaints: list[str] = []
        """Unhandled errors, such as the exception of a task that was never awaited."""
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._now

    def _skip(self, seconds: float | None) -> None:
        assert seconds is not None and self._now < 1e9, "Everything waits, and nothing is left that could happen."  # noqa: PT018
        self._now += seconds

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")


class _ImpatientSelector(selectors.DefaultSelector):
    def __init__(self, skip: Callable[[float | None], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._skip(timeout)
        return ready


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run an asynchronous test on a `VirtualTimeLoop`; it fails if it leaves a task or an unheard exception."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = VirtualTimeLoop()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            result = runner.run(test(*args, **kwargs))
            left = asyncio.all_tasks(loop)
            assert not left, left
        gc.collect(1)  # a task reports an unretrieved exception when it is freed
        assert not loop.complaints, loop.complaints
        return result

    return run
