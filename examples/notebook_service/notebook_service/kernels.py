"""The cells of a notebook, one after the other, in the notebook's session."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import nbformat

import greenroom
from code_service.problems import Problem
from greenroom.adapters import conversation_identifier
from greenroom.notebook import arun_notebook, cell_outputs
from notebook_service.store import Store

_nbformat: Any = nbformat  # its types are partly unknown

_NOTICES = {
    "cooled_down": "The notebook was not used for a while, so its variables and files are gone. Run its cells again.",
    "lost": "The notebook's sandbox has ended, so its variables and files are gone. Run its cells again.",
    "limit_reached": "The notebook was open for too long, so its variables and files are gone. Run its cells again.",
    "service": "The service has started again, so variables and files are gone. Run the notebook's cells again.",
    "variables": "This cell ended Python, so variables are gone; files are kept.",
}


@dataclass
class _Open:
    """A notebook with running or waiting cells."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: int = 0
    interruptions: int = 0
    interrupt: Callable[[], Awaitable[object]] | None = None
    """Interrupts the running cell."""


@dataclass(frozen=True)
class CellRun:
    """A cell that has run."""

    cell: dict[str, Any]
    """The cell in the notebook, with its outputs."""
    notice: str | None
    """Why the earlier variables are gone, if they are."""


class Kernels:
    """Runs cells. A notebook that is not in use is only a file in the store: the pool ends its session."""

    def __init__(
        self,
        pool: greenroom.SessionPool,
        store: Store,
        *,
        timeout: float,
        idle_timeout: float | None,
        memory: str,
        most_waiting: int,
    ) -> None:
        """
        Args:
            pool: provides the sessions.
            store: contains the notebooks.
            timeout: seconds of each cell.
            idle_timeout: seconds without a cell after which a notebook's session ends; by default the pool's.
            memory: of each session.
            most_waiting: cells of one notebook that run or wait.
        """
        self._pool, self._store = pool, store
        self._timeout, self._idle_timeout, self._memory = timeout, idle_timeout, memory
        self._most_waiting = most_waiting
        self._open: dict[tuple[str, str], _Open] = {}
        self._service = uuid.uuid4().hex
        """Marks notebooks whose sessions this process started; sessions of an earlier process ended with it."""

    async def run_cell(self, user: str, id_: str, code: str) -> CellRun:
        """Add a cell to a notebook and run it, after the cells that were sent before.

        Raises:
            Problem: there is no such notebook, too many of its cells wait, or it was interrupted meanwhile.
            GreenroomError: the session cannot run it; the notebook is unchanged.
        """
        async with self._turn(user, id_) as (opened, notebook):
            state = _state(notebook)
            lost = "service" if state["service"] not in {"", self._service} else None
            session = self._session(user, id_)
            handle = session.submit(code, timeout=self._timeout)
            opened.interrupt = handle.acancel
            execution = await handle.aresult()
            lost = execution.session_restarted or lost
            count = 1 if lost else state["count"] + 1
            cell: dict[str, Any] = _nbformat.v4.new_code_cell(
                code, execution_count=count, outputs=cell_outputs(execution, count)
            )
            notebook["cells"].append(cell)
            state |= {"service": self._service, "count": 0 if execution.state_lost else count}
            await asyncio.to_thread(self._store.save, user, id_, notebook)
        lost = lost or ("variables" if execution.state_lost else None)
        return CellRun(cell, _NOTICES[lost] if lost else None)

    async def run_all(self, user: str, id_: str) -> dict[str, Any]:
        """Run all cells of a notebook in a new session, up to the first that fails, and return the notebook.

        Raises:
            Problem: as `run_cell`, or it was interrupted; then the notebook is unchanged, and its session is new.
        """
        async with self._turn(user, id_) as (opened, notebook):
            before = opened.interruptions
            session = self._session(user, id_)
            await session.adelete()
            if opened.interruptions > before:
                raise _interrupted()
            running = asyncio.create_task(arun_notebook(notebook, session, timeout=self._timeout))

            async def interrupt() -> None:
                running.cancel()

            opened.interrupt = interrupt
            try:
                ran = dict(await running)
            except asyncio.CancelledError:
                if opened.interruptions == before:
                    raise
                raise _interrupted() from None
            counts = [cell.get("execution_count") or 0 for cell in ran["cells"]]
            _state(ran).update(service=self._service, count=max(counts, default=0))
            await asyncio.to_thread(self._store.save, user, id_, ran)
        return ran

    async def interrupt(self, user: str, id_: str) -> bool:
        """Interrupt the running cell and drop waiting ones; return whether there were any."""
        opened = self._open.get((user, id_))
        if opened is None:
            return False
        opened.interruptions += 1
        if opened.interrupt is not None:
            await opened.interrupt()
        return True

    async def close(self, user: str, id_: str) -> None:
        """Interrupt a notebook, and delete it with its session."""
        await asyncio.to_thread(self._store.delete, user, id_)
        await self.interrupt(user, id_)
        await self._session(user, id_).adelete()

    @asynccontextmanager
    async def _turn(self, user: str, id_: str) -> AsyncGenerator[tuple[_Open, dict[str, Any]], None]:
        """Wait until the cells that were sent before have ended, and read the notebook."""
        opened = self._open.setdefault((user, id_), _Open())
        if opened.held >= self._most_waiting:
            raise Problem(429, "too_many_cells", f"{opened.held} cells of the notebook wait already.", retry_after=1)
        opened.held += 1
        before = opened.interruptions
        try:
            async with opened.turn:
                notebook = await asyncio.to_thread(self._store.load, user, id_)
                if opened.interruptions > before:
                    raise _interrupted()
                try:
                    yield opened, notebook
                finally:
                    opened.interrupt = None
        finally:
            opened.held -= 1
            if not opened.held:
                del self._open[user, id_]

    def _session(self, user: str, id_: str) -> greenroom.Session:
        """Return the session of a notebook. It also depends on the user's name, so an id alone gives no access."""
        identifier = conversation_identifier("notebooks", f"{id_}/{user}")
        return self._pool.session(
            identifier, timeout=self._timeout, idle_timeout=self._idle_timeout, memory=self._memory
        )


def _state(notebook: dict[str, Any]) -> dict[str, Any]:
    """The facts about a session in its notebook: the process that started it, and how many cells it has run."""
    return notebook["metadata"].setdefault("greenroom", {"service": "", "count": 0})


def _interrupted() -> Problem:
    return Problem(409, "interrupted", "The notebook was interrupted before this could run.")
