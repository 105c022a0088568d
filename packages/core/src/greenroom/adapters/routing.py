"""Find the session for a call."""

from __future__ import annotations

from contextlib import nullcontext

from greenroom.adapters.conversation import conversation_identifier
from greenroom.adapters.default import adefault_pool, default_pool
from greenroom.adapters.runs import session_of_run
from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType
from greenroom.sessions import Session, SessionPool
from greenroom.untrusted import brief


class SessionRouter:
    """Finds the session of a call: one session per conversation, so that the users of one tool are isolated.

    With a fixed session, every call uses it. With a session per call, each call uses a new session of the pool, which
    is deleted after the call.
    """

    def __init__(
        self,
        scope: str,
        advice: str,
        *,
        pool: SessionPool | None = None,
        session: Session | None = None,
        per_call: bool = False,
    ) -> None:
        """Take `pool` or `session`; with neither, the pool is `default_pool()`, opened with the first use.

        Args:
            scope: the framework that names the conversations, as for `conversation_identifier`.
            advice: a sentence on how a call of this framework names its conversation.
            pool: gives each conversation its own session.
            session: serves all conversations.
            per_call: whether each call gets a new session of the pool.

        Raises:
            InvalidRequest: the options cannot be combined.
        """
        if pool is not None and session is not None:
            raise InvalidRequest(
                "Pass either pool=greenroom.connect(…) (one session per conversation) or session= (one for all)."
            )
        for name, value, kind in (("pool", pool, SessionPool), ("session", session, Session)):
            if not isinstance(value, kind | None):  # pyright: ignore[reportUnnecessaryIsInstance]  callers may have no types
                raise InvalidRequest(
                    f"The {name} must be a {kind.__name__} of greenroom.connect(…), not {brief(value)}."
                )
        if per_call and session is not None:
            raise InvalidRequest("session_per_call=True takes its sessions from a pool: pass pool=, not session=.")
        source = pool if session is None else session
        self.container_type = ContainerType.PYTHON_LTS if source is None else source.container_type
        """The container type of the sessions."""
        self._scope = scope
        self._advice = advice
        self._pool = pool
        self._fixed = session
        self._per_call = per_call

    @property
    def follows_conversations(self) -> bool:
        """Whether the session depends on the conversation."""
        return self._fixed is None and not self._per_call

    @property
    def pool(self) -> SessionPool:
        """The pool that the sessions come from. If it is the default pool, this opens it, which blocks."""
        return self._pool or _of_python(default_pool())

    async def open(self) -> None:
        """Open the default pool if this router uses it, without blocking the event loop."""
        if self._pool is None and self._fixed is None:
            await adefault_pool()

    def for_conversation(self, conversation: str | None, run: object = None) -> Session:
        """Return the session of a conversation; the application can use it too.

        Args:
            conversation: its name; `None` or empty if unknown.
            run: as for `session_of_run`; used if there is no conversation.

        Raises:
            InvalidRequest: the conversation has no name, and there is no run, so the session could be anybody's; or
                sessions end with their calls.
        """
        if self._fixed is not None:
            return self._fixed
        if self._per_call:
            raise InvalidRequest(
                "With session_per_call=True a session ends with its call: conversations do not have one."
            )
        if conversation:
            return self.pool.session(conversation_identifier(self._scope, conversation))
        if run is not None:
            return session_of_run(self.pool, run)
        raise InvalidRequest(
            "Nothing was run: this call does not name its conversation, and each conversation has its own session. "
            f"{self._advice} Alternatively, use one session for all calls: session=pool.session()."
        )

    def for_call(self, conversation: str | None, run: object = None) -> Session | nullcontext[Session]:
        """Return the session of one call, to be held in `with` or `async with` during the call.

        Raises:
            InvalidRequest: as `for_conversation`, if the session depends on the conversation.
        """
        if self._per_call:
            return self.pool.session()  # deleted when its block ends
        return nullcontext(self.for_conversation(conversation, run))


def _of_python(pool: SessionPool) -> SessionPool:
    if pool.container_type is not ContainerType.PYTHON_LTS:
        raise InvalidRequest(
            f"The default pool must be of type PythonLTS, not {pool.container_type}: pass pool=greenroom.connect(…)."
        )
    return pool
