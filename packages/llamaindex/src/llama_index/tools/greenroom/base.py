"""The tool spec: the tools of a session, for agents and workflows."""

# Without `from __future__ import annotations`: LlamaIndex finds the parameter for its context, which it hides
# from models, by the value of the annotation.

import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from inspect import isawaitable
from typing import Annotated, Any, TypeAlias, cast

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.tools import AsyncBaseTool, FunctionTool, ToolMetadata
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec
from llama_index.core.workflow import Context
from workflows.errors import ContextStateError

from greenroom import InvalidRequest, Output, Session, SessionPool, StreamText, ToolLimits, adapters
from greenroom.adapters import Toolset
from llama_index.tools.greenroom.approval import Approval, decided, edited, rejected
from llama_index.tools.greenroom.functions import Functions, InnerTools
from llama_index.tools.greenroom.memory import keep_figures
from llama_index.tools.greenroom.results import CodeOutput, ModelBlocks, ToolWithStatus
from llama_index.tools.greenroom.sessions import ADVICE, SessionSource

_Code = Annotated[str, adapters.CODE]
_JavaScript = Annotated[str, adapters.JAVASCRIPT]
_Command = Annotated[str, adapters.COMMAND]
_Directory = Annotated[str, adapters.DIRECTORY]
_FilePath = Annotated[str, adapters.PATH]
_Name = Annotated[str, adapters.NAME]
_Started = Annotated[str, adapters.STARTED]
_ExecutionId = Annotated[str, adapters.EXECUTION_ID]
_Ctx = Context[Any]
_NO_CTX = cast("Context[Any]", None)  # LlamaIndex does not recognize `Context | None`

OnOutput: TypeAlias = Callable[[StreamText | Output, Context[Any] | None], Awaitable[None] | None]
"""Called with each piece of output while code runs, and the workflow's context; it may be asynchronous where the tool
is awaited."""


class GreenroomToolSpec(SessionSource, BaseToolSpec):
    """Lets agents run Python in a session that lasts as long as the conversation, and use its files.

    The tool that runs code is `run_javascript` or `run_shell` where the container type is NodeLTS or Shell.

    Each conversation has its own session. The conversation is the workflow's `Context`: pass the same one to each run,
    `agent.run(user_msg=…, ctx=ctx)`. A run without one is a separate conversation, whose session cools down; with
    `session_per_run` it ends with the run. Outside of a workflow there is no conversation, and the tools raise, as a
    guess could give two users the same session. There, give the spec a session, which all of its users share, or
    `session_per_call`.

    An error that a model can recover from, such as an exception in its code or a missing file, is an output with
    `is_error`. Any other, such as `PoolFull` or `EngineUnavailable`, is raised. LlamaIndex's agents send these to the
    model too; the application finds them as the output's `exception`.
    """

    spec_functions: list[SPEC_FUNCTION_TYPE]

    def __init__(
        self,
        pool: SessionPool | None = None,
        *,
        session: Session | None = None,
        session_per_run: bool = False,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        images: bool = True,
        budget: int = 8_000,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
        tools: Functions = (),
        tool_limits: ToolLimits | None = None,
        approval: Approval = False,
        background: bool = False,
        reset: bool = False,
    ) -> None:
        """Take `pool` or `session`; with neither, the pool is that of `greenroom.connect()`, opened with the first use.

        Args:
            pool: gives each conversation its own session.
            session: serves all conversations.
            session_per_run: whether each run gets a new session of the pool, even if it continues with a `ctx`. The
                session is deleted as soon as nothing refers to the run's context any more: with `await agent.run(…)`,
                when the run ends.
            session_per_call: whether each call gets a new session of the pool, deleted after the call. Then the tool
                that runs code is the only one, as files are not kept.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without
                one there is no tool `upload_file`.
            images: whether models are sent the figures; the text names them, and the application gets them,
                either way. ReActAgent, CodeActAgent and some integrations of models pass on only the text.
            budget: the maximum number of characters that a model reads of one result.
            timeout: the time limit of code in seconds; by default that of the session or the pool.
            on_output: called with each piece of output while code runs. Its exception ends the code.
            tools: functions that code can call while it runs: tools of LlamaIndex, or plain functions. The event
                stream has an `InnerToolCall` and an `InnerToolCallResult` for each call.
            tool_limits: limits on the calls of one execution.
            approval: whether a person approves code before it runs, asked by a `CodeApprovalRequired` on the event
                stream; or a function that decides this for one piece of code.
            background: offers tools that start code, look at it and stop it, while the model does something else.
            reset: offers a tool that empties the session.

        Raises:
            InvalidRequest: an option breaks its rule, or two options cannot be combined.
        """
        if session_per_run and (session is not None or session_per_call):
            raise InvalidRequest("session_per_run=True takes a session of a pool for each run: pass only pool=.")
        self._inner = InnerTools(tools)
        super().__init__(
            Toolset(
                "llamaindex",
                ADVICE,
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
            ),
            per_run=session_per_run,
        )
        self.spec_functions = [(name, f"a{name}") for name in self._toolset.names]
        self._on_output = on_output
        self._approval = approval

    # For the application

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """Return the tools for `FunctionAgent(tools=…)` and the others; the arguments are those of `BaseToolSpec`.

        The `raw_output` of each is a `ModelBlocks`, and `execution_of` finds the execution in an event.
        """
        given = func_to_metadata_mapping or {}
        return [
            ToolWithStatus.from_defaults(
                getattr(self, name),
                async_fn=getattr(self, async_name, None),
                description=(
                    self._toolset.describe(name) if name in self._toolset.names else inspect.getdoc(getattr(self, name))
                ),
                tool_metadata=given.get(name) or given.get(async_name),
            )
            for name, async_name in (
                names if isinstance(names, tuple) else (names, f"a{names}")
                for names in spec_functions or self.spec_functions
            )
        ]

    @property
    def functions(self) -> list[AsyncBaseTool]:
        """The functions that code can call, for the prompt of a `CodeActAgent(tools=…)`."""
        return list(self._inner.tools)

    def to_code_execute_fn(self) -> Callable[..., Coroutine[Any, Any, ModelBlocks]]:
        """Return the function for `CodeActAgent(code_execute_fn=…, tools=spec.functions)`.

        Raises:
            InvalidRequest: the container type is not PythonLTS: these agents write Python.
        """
        if self._toolset.code_tool != "run_python":
            raise InvalidRequest(
                "The tool of a CodeActAgent, which writes Python, must be run_python, not "
                f"{self._toolset.code_tool}. Give the tools of to_tool_list() to a FunctionAgent."
            )
        return self.arun_python

    # For models

    def run_python(self, code: _Code, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Run Python code in the session."""
        return self._call(ctx, "run_python", code=code)

    async def arun_python(self, code: _Code, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `run_python`, with a `CodeOutput` on the workflow's event stream for each piece of output.

        Cancelling the call interrupts the code in the sandbox.
        """
        return await self._arun(ctx, "run_python", code=code)

    def run_javascript(self, code: _JavaScript, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Run JavaScript in the session, where the container type is NodeLTS."""
        return self._call(ctx, "run_javascript", code=code)

    async def arun_javascript(self, code: _JavaScript, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `arun_python`, for JavaScript."""
        return await self._arun(ctx, "run_javascript", code=code)

    def run_shell(self, command: _Command, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Run a command in the session, where the container type is Shell."""
        return self._call(ctx, "run_shell", command=command)

    async def arun_shell(self, command: _Command, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `arun_python`, for a shell command."""
        return await self._arun(ctx, "run_shell", command=command)

    def list_files(self, directory: _Directory = adapters.DATA_DIR, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """List the files of the session."""
        return self._call(ctx, "list_files", directory=directory)

    async def alist_files(self, directory: _Directory = adapters.DATA_DIR, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `list_files`."""
        return await self._acall(ctx, "list_files", directory=directory)

    def read_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Read a text file of the session, of at most 1 MiB."""
        return self._call(ctx, "read_file", path=path)

    async def aread_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `read_file`."""
        return await self._acall(ctx, "read_file", path=path)

    def download_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Send the application a file of the session, of at most 20 MiB, as a `Download`."""
        return self._call(ctx, "download_file", path=path)

    async def adownload_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `download_file`."""
        return await self._acall(ctx, "download_file", path=path)

    def upload_file(self, name: _Name, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Copy a file of the directory `uploads` into the session."""
        return self._call(ctx, "upload_file", name=name)

    async def aupload_file(self, name: _Name, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `upload_file`."""
        return await self._acall(ctx, "upload_file", name=name)

    def start_execution(self, code: _Started, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Start code in the background."""
        return self._call(ctx, "start_execution", **{self._toolset.code_parameter: code})

    async def astart_execution(self, code: _Started, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `start_execution`."""
        return await self._arun(ctx, "start_execution", **{self._toolset.code_parameter: code})

    def look_at_execution(self, execution_id: _ExecutionId, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Look at code in the background."""
        return self._call(ctx, "look_at_execution", execution_id=execution_id)

    async def alook_at_execution(self, execution_id: _ExecutionId, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `look_at_execution`."""
        return await self._acall(ctx, "look_at_execution", execution_id=execution_id)

    def stop_execution(self, execution_id: _ExecutionId, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Stop code in the background."""
        return self._call(ctx, "stop_execution", execution_id=execution_id)

    async def astop_execution(self, execution_id: _ExecutionId, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `stop_execution`."""
        return await self._acall(ctx, "stop_execution", execution_id=execution_id)

    def reset_session(self, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Empty the session."""
        return self._call(ctx, "reset_session")

    async def areset_session(self, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `reset_session`."""
        return await self._acall(ctx, "reset_session")

    async def _arun(self, ctx: _Ctx, tool: str, **arguments: str) -> ModelBlocks:
        [(parameter, code)] = arguments.items()
        decision = await decided(ctx, tool, code, self._approval)
        if decision.decision == "reject":
            return ModelBlocks.of(adapters.ToolAnswer(rejected(decision), None))
        blocks = await self._acall(ctx, tool, **{parameter: code if decision.code is None else decision.code})
        if decision.code not in {None, code}:
            blocks.insert(0, TextBlock(text=edited(decision)))
        if any(isinstance(block, ImageBlock) for block in blocks):
            await keep_figures(ctx)
        return blocks

    def _call(self, ctx: _Ctx, tool: str, **arguments: str) -> ModelBlocks:
        if tool in {self._toolset.code_tool, "start_execution"} and self._approval:
            raise InvalidRequest("Nothing was run: a person must approve the code, so the tool must be awaited.")
        on_output = adapters.with_context(self._on_output, ctx)
        functions = self._inner.bound(ctx)
        conversation, run = self._conversation(ctx), self._run(ctx)
        call = self._toolset.call
        return ModelBlocks.of(call(conversation, tool, run=run, on_output=on_output, functions=functions, **arguments))

    async def _acall(self, ctx: _Ctx, tool: str, **arguments: str) -> ModelBlocks:
        conversation, run = await self._aconversation(ctx), self._run(ctx)
        on_output, functions = self._event_stream(ctx), self._inner.bound(ctx)
        call = self._toolset.acall
        return ModelBlocks.of(
            await call(conversation, tool, run=run, on_output=on_output, functions=functions, **arguments)
        )

    def _event_stream(self, ctx: _Ctx | None) -> adapters.OnOutput | None:
        callback = self._on_output
        if ctx is None and callback is None:
            return None

        async def write(output: StreamText | Output) -> None:
            if ctx is not None and isinstance(output, StreamText):
                with suppress(ContextStateError):  # no event stream outside of a run
                    ctx.write_event_to_stream(CodeOutput(stream=output.stream, text=output.text))
            if callback is not None and isawaitable(returned := callback(output, ctx)):
                await returned

        return write
