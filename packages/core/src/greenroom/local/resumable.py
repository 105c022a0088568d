"""Executions that another caller can take over, while their pool is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from greenroom.backend import OnEvent
from greenroom.errors import InvalidRequest, SandboxLost, ServiceFailed
from greenroom.models import Event, Execution
from greenroom.tools import PendingCalls, TakenCalls, Toolbox

_MAX_KEPT = 16
"""The maximum number of ended executions to remember; each can have many megabytes of output."""

Work = Callable[[Toolbox | None, OnEvent], asyncio.Task[Execution]]


@dataclass(eq=False, slots=True)
class _Resumable:
    """An execution, and the caller that receives it."""

    pending: PendingCalls
    task: asyncio.Task[Execution] = field(init=False)
    on_event: OnEvent | None = None
    taken: TakenCalls | None = None
    replaced: asyncio.Future[None] | None = None
    """Done when another caller takes over."""

    def note(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)


class ResumableExecutions:
    """The executions of one pool that have an id: those that are running, and those that ended most recently."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Resumable] = {}

    async def begin(
        self, identifier: str, execution_id: str, work: Work, on_event: OnEvent | None, tools: Toolbox | None
    ) -> Execution:
        """Execute, until the end or until another caller takes the execution over.

        Raises:
            InvalidRequest: the session has an execution with this id.
            ServiceFailed: another caller has taken it over.
        """
        key = (identifier, execution_id)
        if key in self._known:
            raise InvalidRequest(
                f"The id of an execution must be new in its session, not {execution_id!r}. That execution can be "
                "resumed."
            )
        resumable = _Resumable(PendingCalls(tools.log if tools is not None else None))
        toolbox = replace(tools, answer=resumable.pending.answer) if tools is not None else None
        resumable.task = work(toolbox, resumable.note)
        self._known[key] = resumable
        resumable.task.add_done_callback(lambda _: self._ended(key, resumable))
        return await self._receive(resumable, execution_id, on_event, tools)

    async def resume(
        self, identifier: str, execution_id: str, on_event: OnEvent | None, tools: Toolbox | None
    ) -> Execution:
        """Take an execution over from its previous caller.

        Raises:
            SandboxLost: the execution is not known.
            ServiceFailed: another caller has taken it over in turn.
        """
        resumable = self._known.get((identifier, execution_id))
        if resumable is None:
            raise SandboxLost(
                f"The session {identifier!r} has no execution {execution_id!r}, or no longer has it. The sessions "
                "of a local pool, and their executions, end with the process that opened the pool."
            )
        if tools is not None and tools.log is not None:
            for call in resumable.pending.log.ended:
                tools.log.add(call)
            for call in resumable.pending.waiting:
                tools.log.begin(call)
            resumable.pending.log = tools.log
            tools.log.known.set()
        return await self._receive(resumable, execution_id, on_event, tools)

    def forget(self, identifier: str) -> None:
        """Forget a session's executions that have ended."""
        for key in [key for key, each in self._known.items() if key[0] == identifier and each.task.done()]:
            del self._known[key]

    async def _receive(
        self, resumable: _Resumable, execution_id: str, on_event: OnEvent | None, tools: Toolbox | None
    ) -> Execution:
        if resumable.replaced is not None and not resumable.replaced.done():
            resumable.replaced.set_result(None)
        if resumable.taken is not None:
            resumable.taken.end()
        replaced = resumable.replaced = asyncio.get_running_loop().create_future()
        resumable.on_event = on_event
        taken = resumable.taken = TakenCalls(resumable.pending, tools) if tools is not None else None
        if taken is not None:
            resumable.pending.attach(taken)
        try:
            await asyncio.wait([resumable.task, replaced], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not replaced.done():
                resumable.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([resumable.task])
            raise
        finally:
            if taken is not None:
                taken.end()
        if not resumable.task.done():
            raise ServiceFailed(
                f"The execution {execution_id} is still running, but a later caller now receives it instead of "
                "this one."
            )
        return resumable.task.result()

    def _ended(self, key: tuple[str, str], resumable: _Resumable) -> None:
        if not resumable.task.cancelled():
            resumable.task.exception()  # mark it as retrieved: it may not be awaited
        if self._known.pop(key, None) is not resumable:
            return
        self._known[key] = resumable  # in the order in which they ended
        ended = [each for each, other in self._known.items() if other.task.done()]
        for each in ended[: max(0, len(ended) - _MAX_KEPT)]:
            del self._known[each]
