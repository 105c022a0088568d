"""Which session a conversation has."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from greenroom import GreenroomError, InvalidRequest, Session, SessionPool
from greenroom.conversation import conversation_identifier

if TYPE_CHECKING:
    from llama_index.core.workflow import Context

CONVERSATION_KEY = "greenroom_conversation"
"""Where a workflow's state keeps the name of its conversation, which decides on the session."""


class SessionSource:
    """One conversation, one session: a workflow's `Context` names the session of a pool.

    Its state holds a random name for the conversation under `CONVERSATION_KEY`, also when it is serialized.
    An application may put a name of its own there first; a workflow with a typed state needs a field for it.
    """

    def __init__(self, pool: SessionPool | None, session: Session | None, session_per_call: bool) -> None:
        if (pool is None) == (session is None):
            raise InvalidRequest("Pass either pool=, for a session of its own to each conversation, or session=.")
        if session_per_call and pool is None:
            raise InvalidRequest("session_per_call=True takes its sessions from a pool: pass pool=.")
        self._fixed = session
        self._pool = None if session_per_call else pool
        self._pool_per_call = pool if session_per_call else None

    def session_for(self, ctx: Context[Any] | None = None) -> Session:
        """The session of a conversation, for the application's own use.

        It uploads and downloads with it, and deletes it at the end of the conversation. To hold it in
        `with spec.session_for(ctx): ...` is enough for that.

        Args:
            ctx: what the runs of the conversation get, before, during or after a run.

        Raises:
            GreenroomError: there is a pool but no `ctx`, or sessions last for a call.
        """
        if self._pool is None or ctx is None:
            return self._without_conversation()
        with ThreadPoolExecutor(1) as executor:  # a loop may be running in this thread
            run = contextvars.copy_context().run
            conversation = executor.submit(run, asyncio.run, _conversation(ctx)).result()
        return self._pool.session(conversation_identifier("llamaindex", conversation))

    async def asession_for(self, ctx: Context[Any] | None = None) -> Session:
        """As `session_for`; to hold it in `async with await spec.asession_for(ctx): ...` deletes it."""
        if self._pool is None or ctx is None:
            return self._without_conversation()
        return self._pool.session(conversation_identifier("llamaindex", await _conversation(ctx)))

    def _without_conversation(self) -> Session:
        if self._fixed is not None:
            return self._fixed
        if self._pool_per_call is not None:
            raise GreenroomError("With session_per_call=True a session ends with its call: there is none.")
        raise GreenroomError(
            "No Context says which conversation this is, and each has a session of its own. Let an agent "
            "call the tool, pass ctx=, or make the spec with session= or session_per_call=True."
        )


async def _conversation(ctx: Context[Any]) -> str:
    # Not `edit_state`, though atomic on every store: in memory it puts a copy in the place of the whole
    # state, the chat memory included, and who holds the original hears no more. There, these three calls do
    # not suspend, so they are atomic as well.
    if await ctx.store.get(CONVERSATION_KEY, default=None) is None:
        await ctx.store.set(CONVERSATION_KEY, uuid.uuid4().hex)
    return await ctx.store.get(CONVERSATION_KEY)
