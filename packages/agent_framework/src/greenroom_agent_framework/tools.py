"""The tools: what a model can do with a session, and which session a conversation has."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, Literal, TypeAlias

# At run time too: the framework reads the types of functions.
from agent_framework import AgentSession, Content, FunctionInvocationContext, FunctionTool, MiddlewareFailure

from greenroom import GreenroomError, Output, Session, SessionPool, StreamText, adapters
from greenroom.adapters import RETRYABLE, SessionRouter, ToolAnswer
from greenroom_agent_framework.results import contents_of

OnOutput: TypeAlias = Callable[[StreamText | Output, FunctionInvocationContext], Awaitable[None]]
"""Awaited for each piece of output as it comes, with the context of the invocation that it belongs to."""

_Tell: TypeAlias = Callable[[StreamText | Output], Awaitable[None]]

FilePath: TypeAlias = Annotated[str, adapters.PATH]

_ADVICE = "Run the agent with a session: agent.run(…, session=agent.create_session())."


class GreenroomTools:
    """Lets agents run Python in a session that lasts as long as the conversation, and use its files.

    It is a collection of tools, as the framework takes them::

        agent = Agent(client, tools=GreenroomTools(pool=pool))
        await agent.run(question, session=agent.create_session())

    With a pool, each conversation has a session of its own: the one that belongs to the `session_id` of the
    `AgentSession` that the agent runs with. With a session, all agents and conversations share that one.

    What a model can mend, such as code that fails or a file that is not there, is a function's result. The rest,
    such as `PoolFull` or `EngineUnavailable`, ends the agent's run: it is the cause of a `MiddlewareFailure`.
    """

    def __init__(
        self,
        *,
        pool: SessionPool | None = None,
        session: Session | None = None,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        budget: int = 8_000,
        images: bool = True,
        approval_mode: Literal["always_require", "never_require"] = "never_require",
        on_output: OnOutput | None = None,
    ) -> None:
        """Give either `pool` or `session`.

        Args:
            pool: gives each conversation its session.
            session: serves all conversations.
            session_per_call: each call gets a new session of the pool, deleted after it. `run_python` is then the
                only tool, and the agent needs no session.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without one
                there is no tool `upload_file`.
            timeout: seconds that code may run; by default what the session or the pool says.
            budget: the most characters that a model reads of one result.
            images: whether results carry figures. Chat clients of services that take none in results leave them
                out; a model that takes no pictures at all may refuse them.
            approval_mode: whether the framework asks the application before it runs code.
            on_output: is told what code writes and shows while it runs. An exception of it ends the code.

        Raises:
            InvalidRequest: there is not exactly one of `pool` and `session`, or another argument breaks a rule.
        """
        self._router = SessionRouter("agent-framework", _ADVICE, pool=pool, session=session, per_call=session_per_call)
        self._uploads = adapters.check_uploads(uploads)
        self._timeout = adapters.check_timeout(timeout)
        self._budget = adapters.check_budget(budget)
        self._images = images
        self._on_output = on_output
        self.run_python = FunctionTool(
            name="run_python",
            description=adapters.describe_run_python(state_kept=not session_per_call, figures_seen=images),
            func=self._run_python,
            approval_mode=approval_mode,
        )
        """The tool that runs code, for agents that are not to have the others."""
        for_files = {
            "list_files": self._list_files,
            "read_file": self._read_file,
            "download_file": self._download_file,
            "upload_file": self._upload_file,
        }
        offered = adapters.offered_tools(session_per_call=session_per_call, uploads=uploads is not None)
        self._tools = [self.run_python] + [
            FunctionTool(name=name, description=adapters.TOOLS[name], func=function)
            for name, function in for_files.items()
            if name in offered
        ]

    def __iter__(self) -> Iterator[FunctionTool]:
        """The tools: those that can work."""
        return iter(self._tools)

    def session_for(self, conversation: AgentSession | str) -> Session:
        """The session of a conversation, for the application's own use.

        It uploads and downloads with it. At the end of the conversation it deletes it: with one call, `await
        tools.session_for(conversation).adelete()`, or by having held it in `async with
        tools.session_for(conversation): ...`.

        Args:
            conversation: the session that the agent runs with, or its `session_id`.

        Raises:
            InvalidRequest: no conversation has a session of its own, as sessions last for a call.
        """
        return self._router.for_conversation(conversation if isinstance(conversation, str) else conversation.session_id)

    async def _run_python(self, code: Annotated[str, adapters.CODE], ctx: FunctionInvocationContext) -> list[Content]:
        tell = self._on_output
        on_output: _Tell | None = None if tell is None else lambda output: tell(output, ctx)
        return await self._work(
            ctx,
            lambda session: adapters.arun_python(
                session, code, budget=self._budget, timeout=self._timeout, on_output=on_output
            ),
        )

    async def _list_files(
        self, ctx: FunctionInvocationContext, directory: Annotated[str, adapters.DIRECTORY] = adapters.DATA_DIR
    ) -> list[Content]:
        return await self._work(ctx, lambda session: adapters.alist_files(session, directory, budget=self._budget))

    async def _read_file(self, path: FilePath, ctx: FunctionInvocationContext) -> list[Content]:
        return await self._work(ctx, lambda session: adapters.aread_file(session, path, budget=self._budget))

    async def _download_file(self, path: FilePath, ctx: FunctionInvocationContext) -> list[Content]:
        return await self._work(ctx, lambda session: adapters.adownload_file(session, path))

    async def _upload_file(self, name: Annotated[str, adapters.NAME], ctx: FunctionInvocationContext) -> list[Content]:
        return await self._work(
            ctx, lambda session: adapters.aupload_file(session, self._uploads, name, budget=self._budget)
        )

    async def _work(
        self, ctx: FunctionInvocationContext, work: Callable[[Session], Awaitable[ToolAnswer[Any]]]
    ) -> list[Content]:
        conversation = None if ctx.session is None else ctx.session.session_id
        try:
            async with self._router.for_call(conversation) as session:
                try:
                    return contents_of(await work(session), images=self._images)
                except RETRYABLE as error:
                    return [Content.from_text(str(error))]
        except GreenroomError as error:
            # Any other exception would become a result that says nothing, and the run would go on.
            raise MiddlewareFailure(str(error)) from error
