"""The session of a conversation."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.core.workflow import Context

    from greenroom import Session
    from greenroom.adapters import Toolset

CONVERSATION_KEY = "greenroom_conversation"
"""The key of the conversation's name, which determines its session, in a workflow's state."""

ADVICE = "Let an agent call the tool, or pass its workflow's Context: ctx=."


class SessionSource:
    """Finds the session of a workflow's `Context`: one session per conversation.

    The workflow's state holds a random name for the conversation under `CONVERSATION_KEY`, also when it is serialized.
    An application can store its own name there first; a workflow with a typed state needs a field for it.
    """

    def __init__(self, toolset: Toolset, *, per_run: bool) -> None:
        self._toolset = toolset
        self._per_run = per_run

    def session_for(self, ctx: Context[Any] | None = None) -> Session:
        """Return the session of a conversation, for the application's own uploads and downloads.

        The application deletes it at the end of the conversation, most simply by holding it in
        `with spec.session_for(ctx): ...`.

        Args:
            ctx: the context of the conversation's runs, before, during or after a run; with `session_per_run`,
                during or after it.

        Raises:
            InvalidRequest: there is a pool but no `ctx`, or sessions end with their calls.
        """
        return self._toolset.session_for(self._conversation(ctx), self._run(ctx))

    async def asession_for(self, ctx: Context[Any] | None = None) -> Session:
        """As `session_for`; holding it in `async with await spec.asession_for(ctx): ...` deletes it."""
        return await self._toolset.asession_for(await self._aconversation(ctx), self._run(ctx))

    def _run(self, ctx: Context[Any] | None) -> object:
        # A run has its own store, which exists as long as a context that refers to it.
        return ctx.store if ctx is not None and self._per_run else None

    def _conversation(self, ctx: Context[Any] | None) -> str | None:
        if ctx is None or self._per_run or not self._toolset.follows_conversations:
            return None
        with ThreadPoolExecutor(1) as executor:  # this thread can already run a loop
            run = contextvars.copy_context().run
            return executor.submit(run, asyncio.run, _name_of(ctx)).result()

    async def _aconversation(self, ctx: Context[Any] | None) -> str | None:
        if ctx is None or self._per_run or not self._toolset.follows_conversations:
            return None
        return await _name_of(ctx)


async def _name_of(ctx: Context[Any]) -> str:
    # Not `edit_state`, though it is atomic on every store: in memory it replaces the whole state by a copy,
    # the chat memory included, and holders of the original no longer see changes. There, these three calls
    # do not suspend, so they are atomic as well.
    if await ctx.store.get(CONVERSATION_KEY, default=None) is None:
        await ctx.store.set(CONVERSATION_KEY, uuid.uuid4().hex)
    return await ctx.store.get(CONVERSATION_KEY)
