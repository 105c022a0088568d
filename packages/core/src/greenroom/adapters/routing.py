"""Which session a call works in."""

from __future__ import annotations

from contextlib import nullcontext

from greenroom.adapters.conversation import conversation_identifier
from greenroom.errors import InvalidRequest
from greenroom.sessions import Session, SessionPool


class SessionRouter:
    """One conversation, one session: the name of a conversation leads to its session of a pool.

    So two users of one tool never meet. With a fixed session instead, every call works in that one, whoever makes
    it; and with a session per call, in a new one of the pool that is deleted after it.
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
        """Give either `pool` or `session`.

        Args:
            scope: who names the conversations, as for `conversation_identifier`.
            advice: how a call of this framework names its conversation, for those that do not: a sentence.
            pool: gives each conversation its session.
            session: serves all conversations.
            per_call: whether each call gets a new session of the pool.

        Raises:
            InvalidRequest: they do not go together.
        """
        if (pool is None) == (session is None):
            raise InvalidRequest("Pass either pool= (one session per conversation) or session= (one for all).")
        if per_call and pool is None:
            raise InvalidRequest("session_per_call=True takes its sessions from a pool: pass pool=, not session=.")
        self._scope = scope
        self._advice = advice
        self._pool = pool
        self._fixed = session
        self._per_call = per_call

    @property
    def follow_conversations(self) -> bool:
        """Whether it matters which conversation calls."""
        return self._fixed is None and not self._per_call

    def for_conversation(self, conversation: str | None) -> Session:
        """The session of a conversation, which an application may use as its tools do.

        Args:
            conversation: its name; `None` or empty if the caller does not know it.

        Raises:
            InvalidRequest: the conversation has no name, so the session could be anybody's; or sessions last for
                a call.
        """
        if self._fixed is not None:
            return self._fixed
        if self._pool is None or self._per_call:
            raise InvalidRequest(
                "With session_per_call=True a session ends with its call: conversations do not have one."
            )
        if not conversation:
            raise InvalidRequest(
                f"This call does not name its conversation, and each conversation has its own session. {self._advice} "
                "Or use one session for all calls: session=pool.session()."
            )
        return self._pool.session(conversation_identifier(self._scope, conversation))

    def for_call(self, conversation: str | None) -> Session | nullcontext[Session]:
        """The session of one call, to be held in `with` or `async with` for as long as it takes.

        Raises:
            InvalidRequest: as `for_conversation`, where the conversation matters.
        """
        if self._per_call and self._pool is not None:
            return self._pool.session()  # deleted as it is left
        return nullcontext(self.for_conversation(conversation))
