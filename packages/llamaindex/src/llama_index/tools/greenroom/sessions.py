"""Which session a conversation has."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from greenroom.adapters import SessionRouter

if TYPE_CHECKING:
    from llama_index.core.workflow import Context

    from greenroom import Session, SessionPool

CONVERSATION_KEY = "greenroom_conversation"
"""Where a workflow's state keeps the name of its conversation, which decides on the session."""

_ADVICE = "Let an agent call the tool, or pass the Context of its workflow: ctx=."


class SessionSource:
    """One conversation, one session: a workflow's `Context` names the session of a pool.

    Its state holds a random name for the conversation under `CONVERSATION_KEY`, also when it is serialized.
    An application may put a name of its own there first; a workflow with a typed state needs a field for it.
    """

    def __init__(self, pool: SessionPool | None, session: Session | None, session_per_call: bool) -> None:
        self._router = SessionRouter("llamaindex", _ADVICE, pool=pool, session=session, per_call=session_per_call)

    def session_for(self, ctx: Context[Any] | None = None) -> Session:
        """The session of a conversation, for the application's own use.

        It uploads and downloads with it, and deletes it at the end of the conversation. To hold it in
        `with spec.session_for(ctx): ...` is enough for that.

        Args:
            ctx: what the runs of the conversation get, before, during or after a run.

        Raises:
            InvalidRequest: there is a pool but no `ctx`, or sessions last for a call.
        """
        return self._router.for_conversation(self._conversation(ctx))

    async def asession_for(self, ctx: Context[Any] | None = None) -> Session:
        """As `session_for`; to hold it in `async with await spec.asession_for(ctx): ...` deletes it."""
        return self._router.for_conversation(await self._aconversation(ctx))

    def _conversation(self, ctx: Context[Any] | None) -> str | None:
        if ctx is None or not self._router.follow_conversations:
            return None
        with ThreadPoolExecutor(1) as executor:  # a loop may be running in this thread
            run = contextvars.copy_context().run
            return executor.submit(run, asyncio.run, _name_of(ctx)).result()

    async def _aconversation(self, ctx: Context[Any] | None) -> str | None:
        return None if ctx is None or not self._router.follow_conversations else await _name_of(ctx)


async def _name_of(ctx: Context[Any]) -> str:
    # Not `edit_state`, though atomic on every store: in memory it puts a copy in the place of the whole
    # state, the chat memory included, and who holds the original hears no more. There, these three calls do
    # not suspend, so they are atomic as well.
    if await ctx.store.get(CONVERSATION_KEY, default=None) is None:
        await ctx.store.set(CONVERSATION_KEY, uuid.uuid4().hex)
    return await ctx.store.get(CONVERSATION_KEY)
