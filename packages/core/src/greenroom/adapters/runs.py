"""Sessions of runs: an agent that was started without a conversation has one session until its run ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import weakref
from queue import SimpleQueue

from greenroom.errors import GreenroomError
from greenroom.sessions import Session, SessionPool


class _Run:
    """One run of an agent, by an object that lives as long as it does."""

    def __init__(self, of: object) -> None:
        self.of = weakref.ref(of)
        self.sessions: dict[int, tuple[SessionPool, Session]] = {}
        """By pool: the tools of one agent can have several."""


class _Runs:
    """The runs of this process that have a session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[int, _Run] = {}
        self._numbers = itertools.count()
        self._ended: SimpleQueue[int] = SimpleQueue()
        """Their numbers. The garbage collector writes it, which may interrupt any code: it can touch nothing else."""
        self._reaping = False

    def session(self, pool: SessionPool, run: object) -> Session:
        with self._lock:
            known = next((each for each in self._runs.values() if each.of() is run), None)
            if known is None:
                number = next(self._numbers)
                known = self._runs[number] = _Run(run)
                weakref.finalize(run, self._ended.put, number).atexit = False  # the pool ends its sessions then
            if id(pool) not in known.sessions:
                known.sessions[id(pool)] = pool, pool.session()
            if not self._reaping:
                self._reaping = True
                threading.Thread(target=self._reap, name="greenroom runs", daemon=True).start()
            return known.sessions[id(pool)][1]

    def take(self, run: object) -> list[Session]:
        """Return the sessions of a run that ends, and forget it."""
        with self._lock:
            number = next((number for number, each in self._runs.items() if each.of() is run), -1)
            return self._taken(number)

    def forget(self) -> None:
        """In a fork: they are those of the parent."""
        self.__init__()

    def _taken(self, number: int) -> list[Session]:
        known = self._runs.pop(number, None)
        return [] if known is None else [session for _, session in known.sessions.values()]

    def _reap(self) -> None:
        """Delete the sessions of runs that were forgotten by all others, as long as there are runs."""
        while True:
            number = self._ended.get()
            with self._lock:
                sessions = self._taken(number)
            for session in sessions:
                with contextlib.suppress(GreenroomError):  # it cools down, or its pool was closed
                    session.delete()
            del sessions
            with self._lock:
                if not self._runs:
                    self._reaping = False
                    return


_runs = _Runs()
os.register_at_fork(after_in_child=_runs.forget)


def session_of_run(pool: SessionPool, run: object) -> Session:
    """Return the session of a run: a new one of the pool, the same for all calls of this run, and of no other.

    It is deleted when the run ends: when `end_run` is called, and at the latest when nothing refers to `run` any more.

    Args:
        pool: where the session is.
        run: an object that is there once for each run, and only as long as it: weak references to it must be possible.
            Its identity counts, not what it equals.
    """
    return _runs.session(pool, run)


def end_run(run: object) -> None:
    """Delete the sessions of a run. Idempotent."""
    for session in _runs.take(run):
        session.delete()


async def aend_run(run: object) -> None:
    """As `end_run`."""
    await asyncio.gather(*(session.adelete() for session in _runs.take(run)))
