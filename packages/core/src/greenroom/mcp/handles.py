"""The handles by which clients know their sessions.

A handle is unguessable, differs from the identifier that the data plane lists, and ends with its session.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from greenroom.backend import Backend
from greenroom.errors import GreenroomError, SandboxLost

_UNUSED_LIFETIME = 3600.0
"""Seconds after which a handle whose session never began is forgotten."""
_MOST_OF_A_CALLER = 1000
_SWEEP = 60.0
"""Seconds between two checks for handles whose sessions have ended."""


class UnknownHandle(Exception):
    """The handle does not belong to this caller, or its session has ended: a caller cannot tell which."""


@dataclass(eq=False, slots=True)
class Handle:
    """A session as its client knows it."""

    value: str
    """The value that the client passes."""
    caller: str | None
    """The caller's identity; `None` without authentication."""
    identifier: str
    """The identifier of the session in the pool."""
    created: float
    begun: bool = False
    """Whether the session has had a sandbox."""
    in_use: int = 0
    """The number of running calls."""
    ended: bool = False


class Handles:
    """The handles of one pool."""

    def __init__(self, backend: Backend, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._clock = clock
        self._handles: dict[str, Handle] = {}
        self._swept = clock()

    async def mint(self, caller: str | None) -> Handle:
        """Return a handle of a new session, which begins with its first use."""
        await self._sweep(now=len(self._of(caller)) >= _MOST_OF_A_CALLER)
        own = self._of(caller)
        if len(own) >= _MOST_OF_A_CALLER:  # the pool limits the number of those that have begun
            unused = next((handle for handle in own if not handle.begun and not handle.in_use), None)
            if unused is not None:
                self._forget(unused)
        handle = Handle(str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)), caller, "", self._clock())
        self._new_session(handle)
        self._handles[handle.value] = handle
        return handle

    async def find(self, value: str, caller: str | None) -> Handle:
        """Return a caller's own handle.

        Raises:
            UnknownHandle: there is no such handle, it belongs to another caller, or its session has ended.
        """
        handle = self._handles.get(value)
        if handle is None or handle.caller != caller:
            raise UnknownHandle
        if handle.begun and not handle.in_use and await self._backend.session(handle.identifier) is None:
            self._forget(handle)
        if handle.ended:
            raise UnknownHandle
        return handle

    async def of(self, caller: str | None) -> list[Handle]:
        """Return the handles of a caller whose sessions have begun and have not ended."""
        await self._sweep(now=True)
        return [handle for handle in self._of(caller) if handle.begun]

    @asynccontextmanager
    async def using(self, handle: Handle, *, is_new: bool = False) -> AsyncGenerator[str, None]:
        """Yield the identifier for a call.

        If the first call of a new session does not return, nothing is kept, as no client learns the handle.
        """
        identifier = handle.identifier
        handle.in_use += 1
        try:
            yield identifier
        except BaseException as error:
            handle.in_use -= 1
            if is_new:
                with suppress(GreenroomError):  # the call's own error is raised
                    await self.end(handle)
            elif isinstance(error, SandboxLost) and handle.identifier == identifier:
                self._forget(handle)
            else:  # the session can have begun although its first call was cancelled
                with suppress(GreenroomError):
                    await self._note_begin(handle, identifier)
            raise
        handle.in_use -= 1
        await self._note_begin(handle, identifier)

    async def _note_begin(self, handle: Handle, identifier: str) -> None:
        if not handle.begun and handle.identifier == identifier:
            handle.begun = await self._backend.session(identifier) is not None

    async def reset(self, handle: Handle) -> None:
        """End the session; the handle then belongs to a new one."""
        identifier = handle.identifier
        self._new_session(handle)
        await self._backend.delete(identifier)

    async def end(self, handle: Handle) -> None:
        """End the session and its handle."""
        self._forget(handle)
        await self._backend.delete(handle.identifier)

    def _of(self, caller: str | None) -> list[Handle]:
        return [handle for handle in self._handles.values() if handle.caller == caller]

    def _new_session(self, handle: Handle) -> None:
        handle.identifier, handle.begun = f"mcp-{uuid.uuid4().hex}", False
        self._backend.mark_owned(handle.identifier)

    def _forget(self, handle: Handle) -> None:
        handle.ended = True
        self._handles.pop(handle.value, None)

    async def _sweep(self, *, now: bool = False) -> None:
        """Forget the handles of sessions that have ended, and unused ones."""
        moment = self._clock()
        if not now and moment - self._swept < _SWEEP:
            return
        self._swept = moment
        before = [(handle, handle.identifier, handle.begun) for handle in self._handles.values()]
        live = {session.identifier for session in await self._backend.sessions()}
        for handle, identifier, begun in before:
            expired = moment - handle.created > _UNUSED_LIFETIME
            if (identifier not in live if begun else expired) and not handle.in_use and handle.identifier == identifier:
                self._forget(handle)
