"""The tools of a session, for agents of the framework."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, Literal, TypeAlias

# At run time too: the framework reads the types of functions.
from agent_framework import AgentSession, Content, FunctionInvocationContext, FunctionTool, MiddlewareFailure

from greenroom import GreenroomError, Output, Session, SessionPool, StreamText, adapters
from greenroom.adapters import Toolset
from greenroom_agent_framework.results import contents_of

OnOutput: TypeAlias = Callable[[StreamText | Output, FunctionInvocationContext], Awaitable[None] | None]
"""Called with each piece of output while code runs, and the context of its invocation; it may be asynchronous."""

FilePath: TypeAlias = Annotated[str, adapters.PATH]

_ADVICE = "Run the agent with a session: agent.run(…, session=agent.create_session())."


class GreenroomTools:
    """Lets agents run Python in a session that lasts as long as the conversation, and use its files.

    It is a collection of tools, as the framework takes them::

        agent = Agent(client, tools=GreenroomTools(pool=pool))
        await agent.run(question, session=agent.create_session())

    The tool that runs code is `run_javascript` or `run_shell` where the container type is NodeLTS or Shell.

    With a pool, each conversation has its own session: that of the `session_id` of the `AgentSession` that the agent
    runs with. With a session, all agents and conversations share it.

    An error that a model can recover from, such as in its code or by a missing file, is a function's result. Any other,
    such as `PoolFull` or `EngineUnavailable`, ends the agent's run: it is the cause of a `MiddlewareFailure`.
    """

    def __init__(
        self,
        pool: SessionPool | None = None,
        *,
        session: Session | None = None,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        budget: int = 8_000,
        images: bool = True,
        approval_mode: Literal["always_require", "never_require"] = "never_require",
        on_output: OnOutput | None = None,
    ) -> None:
        """Take either `pool` or `session`.

        Args:
            pool: gives each conversation its own session.
            session: serves all conversations.
            session_per_call: each call gets a new session of the pool, deleted after it. The tool that runs code is
                then the only one, and the agent needs no session.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without one
                there is no tool `upload_file`.
            timeout: the time limit of code in seconds; by default that of the session or the pool.
            budget: the maximum number of characters that a model reads of one result.
            images: whether models are sent figures. Chat clients of services that do not take pictures in results
                leave them out; a model that does not take any might refuse them.
            approval_mode: whether the framework asks the application for approval before it runs code.
            on_output: called with each piece of output while code runs. Its exception ends the code.

        Raises:
            InvalidRequest: an option breaks its rule, or two options cannot be combined.
        """
        self._toolset = Toolset(
            "agent-framework",
            _ADVICE,
            pool=pool,
            session=session,
            session_per_call=session_per_call,
            uploads=uploads,
            timeout=timeout,
            budget=budget,
            images=images,
        )
        self._on_output = on_output
        functions = {
            "run_python": self._run_python,
            "run_javascript": self._run_javascript,
            "run_shell": self._run_shell,
            "list_files": self._list_files,
            "read_file": self._read_file,
            "download_file": self._download_file,
            "upload_file": self._upload_file,
        }
        code, *for_files = self._toolset.names
        self.code_tool = self._tool(code, functions[code], approval_mode=approval_mode)
        """The tool that runs code, for agents that should not have the others."""
        self._tools = [self.code_tool, *(self._tool(name, functions[name]) for name in for_files)]

    def __iter__(self) -> Iterator[FunctionTool]:
        """Iterate over the tools that can work."""
        return iter(self._tools)

    def session_for(self, conversation: AgentSession | str) -> Session:
        """Return the session of a conversation, for the application's own uploads and downloads.

        The application deletes it at the end of the conversation: with one call, `await
        tools.session_for(conversation).adelete()`, or by holding it in `async with
        tools.session_for(conversation): ...`.

        Args:
            conversation: the session that the agent runs with, or its `session_id`.

        Raises:
            InvalidRequest: sessions end with their calls.
        """
        return self._toolset.session_for(conversation if isinstance(conversation, str) else conversation.session_id)

    def _tool(self, name: str, function: Callable[..., Awaitable[list[Content]]], **options: Any) -> FunctionTool:
        return FunctionTool(name=name, description=self._toolset.describe(name), func=function, **options)

    async def _run_python(self, code: Annotated[str, adapters.CODE], ctx: FunctionInvocationContext) -> list[Content]:
        return await self._call(ctx, "run_python", code=code)

    async def _run_javascript(
        self, code: Annotated[str, adapters.JAVASCRIPT], ctx: FunctionInvocationContext
    ) -> list[Content]:
        return await self._call(ctx, "run_javascript", code=code)

    async def _run_shell(
        self, command: Annotated[str, adapters.COMMAND], ctx: FunctionInvocationContext
    ) -> list[Content]:
        return await self._call(ctx, "run_shell", command=command)

    async def _list_files(
        self, ctx: FunctionInvocationContext, directory: Annotated[str, adapters.DIRECTORY] = adapters.DATA_DIR
    ) -> list[Content]:
        return await self._call(ctx, "list_files", directory=directory)

    async def _read_file(self, path: FilePath, ctx: FunctionInvocationContext) -> list[Content]:
        return await self._call(ctx, "read_file", path=path)

    async def _download_file(self, path: FilePath, ctx: FunctionInvocationContext) -> list[Content]:
        return await self._call(ctx, "download_file", path=path)

    async def _upload_file(self, name: Annotated[str, adapters.NAME], ctx: FunctionInvocationContext) -> list[Content]:
        return await self._call(ctx, "upload_file", name=name)

    async def _call(self, ctx: FunctionInvocationContext, tool: str, **arguments: str) -> list[Content]:
        conversation = None if ctx.session is None else ctx.session.session_id
        on_output = adapters.with_context(self._on_output, ctx)
        try:
            return contents_of(await self._toolset.acall(conversation, tool, on_output=on_output, **arguments))
        except GreenroomError as error:
            # Any other exception would become a result without its message, and the run would continue.
            raise MiddlewareFailure(str(error)) from error
