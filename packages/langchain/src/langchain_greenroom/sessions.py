"""The session of a call, and the tools that work in it."""

import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, Literal, Self
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from greenroom import GreenroomError, Session, SessionPool
from greenroom.adapters import Artifact, OnOutput, ToolAnswer, Toolset

_ADVICE = 'Invoke with config={"configurable": {"thread_id": "…"}}, which the context manager conversation() creates.'
_OPTIONS = (
    "pool",
    "session",
    "session_per_call",
    "uploads",
    "timeout",
    "budget",
    "images",
    "read_limit",
    "download_limit",
    "background",
    "reset",
)


class SessionSource(BaseModel):
    """Finds the session of a call by the `thread_id` of its config: one session per conversation.

    Users of one tool are thus isolated from each other, while tools that share a `pool` share the conversation's files.
    In an agent that was invoked without a `thread_id`, each run has a session, which is deleted when the run ends. With
    a fixed `session` instead, every call works in it. With neither a pool nor a session, the pool is the one that this
    process shares, `greenroom.adapters.default_pool()`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pool: SessionPool | None = Field(default=None, exclude=True, repr=False)
    session: Session | None = Field(default=None, exclude=True, repr=False)
    session_per_call: bool = False
    """Whether each call gets a new session of the pool, deleted after the call; then no `thread_id` is needed."""
    _made: tuple[dict[str, Any], Toolset] | None = PrivateAttr(default=None)
    """The toolset for these options, cached because inspecting functions is slow."""

    @property
    def _toolset(self) -> Toolset:
        # Made from the current fields: a copy of a tool can have different ones.
        fields = type(self).model_fields
        options = {name: getattr(self, name) for name in _OPTIONS if name in fields} | self._code_options
        if self._made is None or self._made[0] != options:
            self._made = options, Toolset("langchain", _ADVICE, **options)
        return self._made[1]

    @property
    def _code_options(self) -> dict[str, Any]:
        return {}

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        _ = self._toolset
        return self

    def session_for(self, conversation: RunnableConfig | str) -> Session:
        """Return the session of a conversation, for example to upload files before it begins.

        Args:
            conversation: its `thread_id`, or a config that holds it.

        Raises:
            InvalidRequest: the config does not name a conversation, so the session could be anybody's.
        """
        return self._toolset.session_for(thread_id_of(conversation))

    def delete_session(self, conversation: RunnableConfig | str) -> None:
        """Delete a conversation's session with its variables and files. Idempotent."""
        if not self.session_per_call:
            self.session_for(conversation).delete()

    async def adelete_session(self, conversation: RunnableConfig | str) -> None:
        """As `delete_session`."""
        if not self.session_per_call:
            await self.session_for(conversation).adelete()

    @contextmanager
    def conversation(self, thread_id: str | None = None) -> Generator[RunnableConfig]:
        """Yield the config of a conversation, by default of a new one; its session is deleted at the end."""
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
    """A tool of the toolset; an error after which the model can retry is a result with the status error."""

    tool: ClassVar[str] = ""
    """Its name in the toolset, which `name` can differ from; empty for the tool that runs code."""

    handle_tool_error: Any = True
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"

    def __init__(self, pool: SessionPool | None = None, **options: Any) -> None:
        super().__init__(pool=pool, **options)

    @model_validator(mode="after")
    def _describe(self) -> Self:
        if "description" not in self.model_fields_set:
            self.description = self._toolset.describe(self._tool)
        return self

    @property
    def _tool(self) -> str:
        return self.tool or self._toolset.code_tool

    def _call(
        self, config: RunnableConfig, *, on_output: OnOutput | None = None, **arguments: Any
    ) -> ToolAnswer[Artifact]:
        return raised(
            self._toolset.call(thread_id_of(config), self._tool, run=run_of_agent(), on_output=on_output, **arguments)
        )

    async def _acall(
        self, config: RunnableConfig, *, on_output: OnOutput | None = None, **arguments: Any
    ) -> ToolAnswer[Artifact]:
        return raised(
            await self._toolset.acall(
                thread_id_of(config), self._tool, run=run_of_agent(), on_output=on_output, **arguments
            )
        )


def run_of_agent() -> object:
    """Return an object that exists once per run of a graph, for as long as the run: its custom stream's writer. `None`
    outside of a graph. Messages have identifiers too, but callers can choose them.
    """
    langgraph = sys.modules.get("langgraph.runtime")  # already imported within a graph
    if langgraph is None:
        return None
    try:
        writer = langgraph.get_runtime().stream_writer
    except (RuntimeError, KeyError, AttributeError):  # outside of a graph
        return None
    return None if writer is langgraph.Runtime().stream_writer else writer


def raised(answer: ToolAnswer[Artifact]) -> ToolAnswer[Artifact]:
    """Return the answer; raise it if it is an error, as LangChain's tools do."""
    if isinstance(answer.artifact, GreenroomError):
        raise ToolException(answer.text) from answer.artifact
    return answer


def thread_id_of(conversation: RunnableConfig | str | None) -> str:
    """Return the name of a conversation; empty if there is none."""
    if isinstance(conversation, str):
        return conversation
    thread_id = ((conversation or {}).get("configurable") or {}).get("thread_id")  # no config with `tool.run(…)`
    return "" if thread_id is None else str(thread_id)


def _config(thread_id: str | None) -> RunnableConfig:
    return {"configurable": {"thread_id": str(uuid4()) if thread_id is None else thread_id}}
