"""The tools of a session, for agents of the framework."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

# At run time too: the framework reads the types of functions.
from agent_framework import AgentSession, Content, FunctionInvocationContext, FunctionTool, MiddlewareFailure

from greenroom import Execution, GreenroomError, Output, Session, SessionPool, StreamText, ToolLimits, adapters
from greenroom.adapters import Toolset
from greenroom_agent_framework.functions import Functions, InnerTools
from greenroom_agent_framework.results import contents_of
from greenroom_agent_framework.runs import place_of

OnOutput: TypeAlias = Callable[[StreamText | Output, FunctionInvocationContext], Awaitable[None] | None]
"""Called with each piece of output while code runs, and the context of its invocation; it may be asynchronous."""

FilePath: TypeAlias = Annotated[str, adapters.PATH]

ExecutionId: TypeAlias = Annotated[str, adapters.EXECUTION_ID]

T = TypeVar("T")

_ADVICE = "Run the agent with a session: agent.run(…, session=agent.create_session())."


class GreenroomTools:
    """Lets agents run Python in a session that lasts as long as the conversation, and use its files.

    Pass it to an agent as its tools::

        agent = Agent(client, tools=GreenroomTools())
        await agent.run(question, session=agent.create_session())

    The tool that runs code is `run_javascript` or `run_shell` where the container type is NodeLTS or Shell.

    Each conversation has its own session, determined by the `session_id` of the `AgentSession` that the agent runs
    with. A run without an `AgentSession` has a session that ends with the run. With `session=`, all agents and
    conversations share that session.

    An error that a model can recover from, such as an exception in its code or a missing file, is a function result.
    Any other, such as `PoolFull` or `EngineUnavailable`, ends the agent's run: it is the cause of a
    `MiddlewareFailure`.
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
        tools: Functions = (),
        tool_limits: ToolLimits | None = None,
        background: bool = False,
        reset: bool = False,
    ) -> None:
        """Take `pool` or `session`; with neither, the pool is that of `greenroom.connect()`, opened with the first use.

        Args:
            pool: gives each conversation its own session.
            session: serves all conversations.
            session_per_call: each call gets a new session of the pool, deleted after the call. The tool that runs code
                is then the only one, and the agent needs no session.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without one
                there is no tool `upload_file`.
            timeout: the time limit of code in seconds; by default that of the session or the pool.
            budget: the maximum number of characters that a model reads of one result.
            images: whether models are sent figures. Chat clients for services that do not accept pictures in results
                drop them; a model that accepts no pictures may reject them.
            approval_mode: whether the framework asks the application for approval before it runs code.
            on_output: called with each piece of output while code runs. Its exception ends the code.
            tools: functions that code can call while it runs: tools of the framework, or plain functions. With
                `GreenroomMiddleware` or a `GreenroomProvider`, function middleware sees each call.
            tool_limits: limits on the calls of one execution.
            background: offers tools that start code, look at it and stop it, while the model does something else.
            reset: offers a tool that empties the session.

        Raises:
            InvalidRequest: an option breaks its rule, or two options cannot be combined.
        """
        self._inner = InnerTools(tools)
        if approval_mode == "never_require":
            self._inner.refuse_approval()
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
            background=background,
            reset=reset,
            functions=self._inner.described,
            function_limits=tool_limits,
        )
        self._on_output = on_output
        self._budget = budget
        self._images = images
        functions = {
            "run_python": self._run_python,
            "run_javascript": self._run_javascript,
            "run_shell": self._run_shell,
            "list_files": self._list_files,
            "read_file": self._read_file,
            "download_file": self._download_file,
            "upload_file": self._upload_file,
            "start_execution": self._start_execution,
            "look_at_execution": self._look_at_execution,
            "stop_execution": self._stop_execution,
            "reset_session": self._reset_session,
        }
        code, *others = self._toolset.names
        self.code_tool = self._tool(code, functions[code], approval_mode=approval_mode)
        """The tool that runs code, for agents that should have only this one."""
        options = {"start_execution": {"approval_mode": approval_mode}}  # it also runs code
        self._tools = [self.code_tool, *(self._tool(name, functions[name], **options.get(name, {})) for name in others)]

    def __iter__(self) -> Iterator[FunctionTool]:
        """Iterate over the tools that are offered."""
        return iter(self._tools)

    @property
    def instructions(self) -> str | None:
        """What an agent should know in addition to the tools' descriptions; `None` if code cannot call functions."""
        if not self._inner.functions:
            return None
        return (
            f"Functions that {self.code_tool.name} can call are not tools. Call them in one program, with loops and "
            "asyncio.gather, and print only what you need to read."
        )

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

    async def session_of(self, ctx: FunctionInvocationContext | None) -> Session:
        """Return the session of the conversation or the run that calls a tool, for the application's own tools.

        Args:
            ctx: the context of the tool's invocation.

        Raises:
            InvalidRequest: sessions end with their calls, or neither the conversation nor the run is known.
        """
        if ctx is None:
            return await self._toolset.asession_for(None)
        return await self._toolset.asession_for(*place_of(ctx))

    def contents_of(self, execution: Execution) -> list[Content]:
        """Return the result of one of the application's own tools that has run something in a session."""
        return contents_of(adapters.answer_of(execution, self._budget, self._images))

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

    async def _start_execution(
        self, code: Annotated[str, adapters.STARTED], ctx: FunctionInvocationContext
    ) -> list[Content]:
        return await self._call(ctx, "start_execution", **{self._toolset.code_parameter: code})

    async def _look_at_execution(self, execution_id: ExecutionId, ctx: FunctionInvocationContext) -> list[Content]:
        return await self._call(ctx, "look_at_execution", execution_id=execution_id)

    async def _stop_execution(self, execution_id: ExecutionId, ctx: FunctionInvocationContext) -> list[Content]:
        return await self._call(ctx, "stop_execution", execution_id=execution_id)

    async def _reset_session(self, ctx: FunctionInvocationContext) -> list[Content]:
        return await self._call(ctx, "reset_session")

    async def _call(self, ctx: FunctionInvocationContext, tool: str, **arguments: str) -> list[Content]:
        on_output = adapters.with_context(self._on_output, ctx)
        signal: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        def escape(raised: BaseException) -> None:
            if not signal.done():
                signal.set_result(raised)

        conversation, run = place_of(ctx)
        try:
            functions = self._inner.bound(ctx, escape) if tool == self._toolset.code_tool else None
            call = self._toolset.acall(
                conversation, tool, run=run, on_output=on_output, functions=functions, **arguments
            )
            return contents_of(await _unless(signal, call))
        except GreenroomError as error:
            # Any other exception would become a result without its message, and the run would continue.
            raise MiddlewareFailure(str(error)) from error


async def _unless(signal: asyncio.Future[BaseException], call: Coroutine[Any, Any, T]) -> T:
    """Return the result of a call; if a signal for the agent's run comes first, cancel the call and raise it."""
    running = asyncio.ensure_future(call)
    try:
        await asyncio.wait((running, signal), return_when=asyncio.FIRST_COMPLETED)
        if signal.done():
            raise signal.result()
        return await running
    finally:
        if not running.done():
            running.cancel()
            with contextlib.suppress(BaseException):
                await running
