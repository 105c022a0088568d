"""Sessions of runs: an agent that was started without a conversation has a session until its run ends."""

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
    """One run of an agent, identified by an object that exists as long as the run."""

    def __init__(self, of: object) -> None:
        self.of = weakref.ref(of)
        self.sessions: dict[int, tuple[SessionPool, Session]] = {}
        """By pool: the tools of one agent can use several."""


class _Runs:
    """The runs of this process that have a session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[int, _Run] = {}
        self._numbers = itertools.count()
        self._ended: SimpleQueue[int] = SimpleQueue()
        """Their numbers. The garbage collector, which can interrupt any code, writes to this queue and touches nothing
        else."""
        self._reaping = False

    def session(self, pool: SessionPool, run: object) -> Session:
        with self._lock:
            known = next((each for each in self._runs.values() if each.of() is run), None)
            if known is None:
                number = next(self._numbers)
                known = self._runs[number] = _Run(run)
                weakref.finalize(run, self._ended.put, number).atexit = False  # at exit, the pool ends its sessions
            if id(pool) not in known.sessions:
                known.sessions[id(pool)] = pool, pool.session()
            if not self._reaping:
                self._reaping = True
                threading.Thread(target=self._reap, name="greenroom runs", daemon=True).start()
            return known.sessions[id(pool)][1]

    def take(self, run: object) -> list[Session]:
        """Forget a run that ends, and return its sessions."""
        with self._lock:
            number = next((number for number, each in self._runs.items() if each.of() is run), -1)
            return self._taken(number)

    def forget(self) -> None:
        """Drop everything in a fork: the runs are the parent's."""
        self.__init__()

    def _taken(self, number: int) -> list[Session]:
        known = self._runs.pop(number, None)
        return [] if known is None else [session for _, session in known.sessions.values()]

    def _reap(self) -> None:
        """Delete the sessions of runs to which nothing refers any more, as long as there are runs."""
        while True:
            number = self._ended.get()
            with self._lock:
                sessions = self._taken(number)
            for session in sessions:
                with contextlib.suppress(GreenroomError):  # it will cool down, or its pool was closed
                    session.delete()
            del sessions
            with self._lock:
                if not self._runs:
                    self._reaping = False
                    return


_runs = _Runs()
os.register_at_fork(after_in_child=_runs.forget)


def session_of_run(pool: SessionPool, run: object) -> Session:
    """Return the session of a run: a new session of the pool, shared by all calls of this run and by no other run.

    It is deleted when `end_run` is called, and at the latest when nothing refers to `run` any more.

    Args:
        pool: provides the session.
        run: an object that exists once per run, for as long as the run. It must support weak references; it is compared
            by identity.
    """
    return _runs.session(pool, run)


def end_run(run: object) -> None:
    """Delete the sessions of a run. Idempotent."""
    for session in _runs.take(run):
        session.delete()


async def aend_run(run: object) -> None:
    """As `end_run`."""
    await asyncio.gather(*(session.adelete() for session in _runs.take(run)))
