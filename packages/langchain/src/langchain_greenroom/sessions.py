"""Which session a call works in, and which of its errors go to the model."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, Self
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from greenroom import FileMissing, FileRefused, InvalidRequest, Session, SessionPool
from greenroom.conversation import conversation_identifier


class SessionSource(BaseModel):
    """One conversation, one session: the `thread_id` of a call's config names the session of a `pool`.

    So two users of one tool never meet, while the tools that share a pool share the conversation's files.
    With a fixed `session` instead, every call works in that one, whoever makes it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pool: SessionPool | None = Field(default=None, exclude=True, repr=False)
    session: Session | None = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="after")
    def _takes_a_pool_or_a_session(self) -> Self:
        if (self.pool is None) == (self.session is None):
            raise ValueError("Pass either pool=, for a session of its own to each conversation, or session=.")
        return self

    def session_for(self, conversation: RunnableConfig | str) -> Session:
        """The session of a conversation, such as to upload its files before it begins.

        Args:
            conversation: its `thread_id`, or a config that holds it.

        Raises:
            InvalidRequest: the config names no conversation, so the session could be anybody's.
        """
        if self.session is not None:
            return self.session
        assert self.pool is not None  # noqa: S101  by the validator
        if not isinstance(conversation, str):
            thread_id = conversation.get("configurable", {}).get("thread_id")
            conversation = "" if thread_id is None else str(thread_id)
        if not conversation:
            raise InvalidRequest(
                "The config names no conversation, and each conversation has a session of its own. Invoke "
                'with config={"configurable": {"thread_id": "…"}}, which `conversation()` makes for you, or '
                "give the tool one session for all its calls: session=pool.session()."
            )
        return self.pool.session(conversation_identifier("langchain", conversation))

    def delete_session(self, conversation: RunnableConfig | str) -> None:
        """End a conversation's session: its variables and files. Idempotent."""
        self.session_for(conversation).delete()

    async def adelete_session(self, conversation: RunnableConfig | str) -> None:
        """As `delete_session`."""
        await self.session_for(conversation).adelete()

    @contextmanager
    def conversation(self, thread_id: str | None = None) -> Generator[RunnableConfig]:
        """Yield the config of a conversation, by default of a new one; at the end its session is deleted."""
        config = _config(thread_id)
        try:
            yield config
        finally:
            self.delete_session(config)

    @asynccontextmanager
    async def aconversation(self, thread_id: str | None = None) -> AsyncGenerator[RunnableConfig]:
        """As `conversation`."""
        config = _config(thread_id)
        try:
            yield config
        finally:
            await self.adelete_session(config)


class SessionTool(SessionSource, BaseTool):
    """A tool that works in a session; what the model can mend is a result with the status error."""

    handle_tool_error: Any = True
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"


@contextmanager
def errors_for_the_model() -> Generator[None]:
    """Turn the errors that a model can mend into its tool's result; the others stay exceptions."""
    try:
        yield
    except (InvalidRequest, FileMissing, FileRefused) as error:
        raise ToolException(str(error)) from error


def _config(thread_id: str | None) -> RunnableConfig:
    return {"configurable": {"thread_id": str(uuid4()) if thread_id is None else thread_id}}
