"""The tools for code that runs while the model does something else, and the one that empties a session."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque

from greenroom.adapters.code import strip_fence
from greenroom.adapters.execution import answer_of
from greenroom.adapters.results import ToolAnswer
from greenroom.errors import InvalidRequest
from greenroom.models import Event, Execution, StreamText
from greenroom.sessions import ExecutionHandle, Session
from greenroom.sessions.rules import check_code
from greenroom.sessions.session import begin
from greenroom.text import shorten
from greenroom.untrusted import brief

_MOST_RUNNING = 16
"""The maximum number of unfinished executions per session."""
_MOST_KEPT = 64
"""The maximum number of executions per session whose results a model can still read."""
_MOST_SESSIONS = 1_000
_MOST_PIECES = 1_000
"""Pieces of output kept for a running execution; the whole output follows when it ends."""


class _Started:
    """An execution, and its latest output."""

    def __init__(self, session: Session, code: str, timeout: float | None) -> None:
        self.output: deque[str] = deque(maxlen=_MOST_PIECES)
        self.handle: ExecutionHandle = begin(session, code, timeout, self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, StreamText):
            self.output.append(event.text)


class _Book:
    """The executions that models have started, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, OrderedDict[str, _Started]] = OrderedDict()

    def start(self, session: Session, code: str, timeout: float | None) -> str:
        with self._lock:
            started = self._sessions.setdefault(session.identifier, OrderedDict())
            self._sessions.move_to_end(session.identifier)
            running = sum(_is_running(each) for each in started.values())
            if running >= _MOST_RUNNING:
                raise InvalidRequest(f"Nothing was started: {running} executions have not ended. Stop one of them.")
            new = _Started(session, code, timeout)
            number = new.handle.id[:8]
            started[number] = new
            for name in [name for name, each in started.items() if not _is_running(each)][: -_MOST_KEPT or None]:
                del started[name]
            if len(self._sessions) > _MOST_SESSIONS:
                self._forget_one()
            return number

    def find(self, session: Session, number: str) -> _Started:
        with self._lock:
            started = self._sessions.get(session.identifier) or OrderedDict[str, _Started]()
            if number in started:
                return started[number]
            known = ", ".join(started) or "none"
        raise InvalidRequest(f"The execution must be one that was started here ({known}), not {brief(number)}.")

    def forget(self, session: Session) -> None:
        with self._lock:
            self._sessions.pop(session.identifier, None)

    def _forget_one(self) -> None:
        """Forget the least recently used session in which nothing runs."""
        idle = (name for name, started in self._sessions.items() if not any(map(_is_running, started.values())))
        if (name := next(idle, None)) is not None:
            del self._sessions[name]


def _is_running(started: _Started) -> bool:
    return not started.handle.done


_book = _Book()


def start_code(session: Session, code: str, *, timeout: float | None = None) -> ToolAnswer[ExecutionHandle]:
    """Start a model's code, which runs after the code that already runs in the session.

    Args:
        session: runs the code.
        code: the model's code.
        timeout: the time limit of the code in seconds; by default there is none.
    """
    code = strip_fence(check_code(code), session.container_type)
    number = _book.start(session, code, math.inf if timeout is None else timeout)
    return ToolAnswer(f"The execution {number} was started.", _book.find(session, number).handle)


async def astart_code(session: Session, code: str, *, timeout: float | None = None) -> ToolAnswer[ExecutionHandle]:
    """As `start_code`."""
    return start_code(session, code, timeout=timeout)


def look_at_code(
    session: Session, execution_id: str, *, budget: int, images: bool = True
) -> ToolAnswer[Execution | ExecutionHandle]:
    """Return the state of an execution: its output so far, or its result.

    Args:
        session: the session in which it was started.
        execution_id: as returned by `start_code`.
        budget: the maximum number of characters that the model reads.
        images: whether the answer has figures for the model.
    """
    started = _book.find(session, execution_id)
    if _is_running(started):
        output = "".join(tuple(started.output))
        text = f"The execution {execution_id} is running."
        text += (
            shorten(f"\n\noutput so far:\n{output}", budget - len(text)) if output else " It has written nothing yet."
        )
        return ToolAnswer(text, started.handle)
    return answer_of(started.handle.result(), budget, images)


async def alook_at_code(
    session: Session, execution_id: str, *, budget: int, images: bool = True
) -> ToolAnswer[Execution | ExecutionHandle]:
    """As `look_at_code`."""
    return look_at_code(session, execution_id, budget=budget, images=images)


def stop_code(
    session: Session, execution_id: str, *, budget: int, images: bool = True
) -> ToolAnswer[Execution | ExecutionHandle]:
    """Stop an execution, and return how it ended; the arguments are those of `look_at_code`. Idempotent."""
    _book.find(session, execution_id).handle.cancel()
    return look_at_code(session, execution_id, budget=budget, images=images)


async def astop_code(
    session: Session, execution_id: str, *, budget: int, images: bool = True
) -> ToolAnswer[Execution | ExecutionHandle]:
    """As `stop_code`."""
    await _book.find(session, execution_id).handle.acancel()
    return look_at_code(session, execution_id, budget=budget, images=images)


def reset_session(session: Session) -> ToolAnswer[None]:
    """Empty a session: its interpreter and its files."""
    session.delete()
    _book.forget(session)
    return ToolAnswer(_EMPTY, None)


async def areset_session(session: Session) -> ToolAnswer[None]:
    """As `reset_session`."""
    await session.adelete()
    _book.forget(session)
    return ToolAnswer(_EMPTY, None)


_EMPTY = "The session is empty: its variables, files and processes are gone. It can be used again."
