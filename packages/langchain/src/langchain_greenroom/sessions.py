"""Which session a call works in, and which of its errors go to the model."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Annotated, Any, Literal, Self, TypeAlias
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from greenroom import Session, SessionPool, adapters
from greenroom.adapters import RETRYABLE, SessionRouter

Timeout: TypeAlias = Annotated[float | None, AfterValidator(adapters.check_timeout)]
Budget: TypeAlias = Annotated[int, AfterValidator(adapters.check_budget)]

_ADVICE = (
    'Invoke with config={"configurable": {"thread_id": "…"}}, which the context manager conversation() makes for you.'
)


class SessionSource(BaseModel):
    """One conversation, one session: the `thread_id` of a call's config names the session of a `pool`.

    So two users of one tool never meet, while the tools that share a pool share the conversation's files.
    With a fixed `session` instead, every call works in that one, whoever makes it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pool: SessionPool | None = Field(default=None, exclude=True, repr=False)
    session: Session | None = Field(default=None, exclude=True, repr=False)
    session_per_call: bool = False
    """Whether each call gets a new session of the pool, deleted after it; then no `thread_id` is needed."""

    _router: SessionRouter = PrivateAttr()

    @model_validator(mode="after")
    def _take_a_pool_or_a_session(self) -> Self:
        self._router = SessionRouter(
            "langchain", _ADVICE, pool=self.pool, session=self.session, per_call=self.session_per_call
        )
        return self

    def session_for(self, conversation: RunnableConfig | str) -> Session:
        """The session of a conversation, such as to upload its files before it begins.

        Args:
            conversation: its `thread_id`, or a config that holds it.

        Raises:
            InvalidRequest: the config names no conversation, so the session could be anybody's.
        """
        return self._router.for_conversation(_thread_id(conversation))

    def delete_session(self, conversation: RunnableConfig | str) -> None:
        """End a conversation's session: its variables and files. Idempotent."""
        if not self.session_per_call:
            self.session_for(conversation).delete()

    async def adelete_session(self, conversation: RunnableConfig | str) -> None:
        """As `delete_session`."""
        if not self.session_per_call:
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

    def _session_for_call(self, config: RunnableConfig) -> Session | nullcontext[Session]:
        return self._router.for_call(_thread_id(config))

    @contextmanager
    def _working_in(self, config: RunnableConfig) -> Generator[Session]:
        session = self.session_for(config)
        with errors_for_the_model():
            yield session


@contextmanager
def errors_for_the_model() -> Generator[None]:
    """Turn the errors that a model can mend into its tool's result; the others stay exceptions."""
    try:
        yield
    except RETRYABLE as error:
        raise ToolException(str(error)) from error


def _thread_id(conversation: RunnableConfig | str) -> str:
    if isinstance(conversation, str):
        return conversation
    thread_id = conversation.get("configurable", {}).get("thread_id")
    return "" if thread_id is None else str(thread_id)


def _config(thread_id: str | None) -> RunnableConfig:
    return {"configurable": {"thread_id": str(uuid4()) if thread_id is None else thread_id}}
