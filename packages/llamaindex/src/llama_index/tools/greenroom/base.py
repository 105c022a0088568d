"""The tool spec: what a model can do with a session, and which session a conversation has."""

# Without `from __future__ import annotations`: LlamaIndex knows the parameter for its context, which it hides
# from models, by the value of the annotation.

import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any, cast

from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec
from llama_index.core.workflow import Context
from workflows.errors import ContextStateError

from greenroom import Execution, Output, Session, SessionPool, StreamText, adapters
from greenroom.adapters import RETRYABLE, ToolAnswer
from llama_index.tools.greenroom.memory import keep_figures
from llama_index.tools.greenroom.results import Artifact, CodeOutput, GreenroomTool, ModelBlocks
from llama_index.tools.greenroom.sessions import SessionSource

_Code = Annotated[str, adapters.CODE]
_Directory = Annotated[str, adapters.DIRECTORY]
_FilePath = Annotated[str, adapters.PATH]
_Name = Annotated[str, adapters.NAME]
_Ctx = Context[Any]
_NO_CTX = cast("Context[Any]", None)  # LlamaIndex does not know `Context | None`


class GreenroomToolSpec(SessionSource, BaseToolSpec):
    """Lets agents run Python in a session that lasts as long as the conversation, and use its files.

    With a pool, each conversation has a session of its own. The conversation is the workflow's `Context`:
    pass the same one to each run, `agent.run(user_msg=…, ctx=ctx)`. Outside of a workflow there is none, and
    the tools raise, as any guess could bring two users together. Give the spec a session there, which all
    who use it share, or `session_per_call`.

    What a model can mend, such as code that fails or a file that is not there, is an output with `is_error`.
    The rest, such as `PoolFull` or `EngineUnavailable`, is raised. LlamaIndex's agents tell that to the
    model, too; the application finds it as the output's `exception`.
    """

    spec_functions: list[SPEC_FUNCTION_TYPE]

    def __init__(
        self,
        pool: SessionPool | None = None,
        *,
        session: Session | None = None,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        images: bool = True,
        budget: int = 8_000,
        timeout: float | None = None,
    ) -> None:
        """Give either `pool` or `session`.

        Args:
            pool: gives each conversation its session.
            session: serves all conversations.
            session_per_call: whether each call gets a new session of the pool, deleted after it. Then
                `run_python` is the only tool, as no file stays.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without
                one there is no tool `upload_file`.
            images: whether models are sent the figures; the text names them, and the application gets them,
                either way. ReActAgent, CodeActAgent and some integrations of models pass on the text alone.
            budget: the most characters that a model reads of one result.
            timeout: seconds that code may run; by default the pool's own limit.

        Raises:
            InvalidRequest: the options do not go together, or one of them breaks a rule.
        """
        super().__init__(pool, session, session_per_call)
        names = adapters.offered_tools(session_per_call=session_per_call, uploads=uploads is not None)
        self.spec_functions = [(name, f"a{name}") for name in names]
        description = adapters.describe_run_python(state_kept=not session_per_call, figures_seen=images)
        self._descriptions = {**adapters.TOOLS, "run_python": description}
        self._uploads = adapters.check_uploads(uploads)
        self._images = images
        self._budget = adapters.check_budget(budget)
        self._timeout = adapters.check_timeout(timeout)

    # For the application

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """The tools for `FunctionAgent(tools=…)` and the others; the arguments are those of `BaseToolSpec`.

        The `raw_output` of each is a `ModelBlocks`, and `execution_of` finds the execution in an event.
        """
        given = func_to_metadata_mapping or {}
        return [
            GreenroomTool.from_defaults(
                getattr(self, name),
                async_fn=getattr(self, async_name, None),
                description=self._descriptions.get(name) or inspect.getdoc(getattr(self, name)),
                tool_metadata=given.get(name) or given.get(async_name),
            )
            for name, async_name in (
                names if isinstance(names, tuple) else (names, f"a{names}")
                for names in spec_functions or self.spec_functions
            )
        ]

    def to_code_execute_fn(self) -> Callable[..., Coroutine[Any, Any, ModelBlocks]]:
        """The function for `CodeActAgent(code_execute_fn=…)`."""
        return self.arun_python

    # For models

    def run_python(self, code: _Code, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Run Python code in the session."""
        return self._work(
            ctx, lambda session: adapters.run_python(session, code, budget=self._budget, timeout=self._timeout)
        )

    async def arun_python(self, code: _Code, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `run_python`, with a `CodeOutput` on the workflow's event stream for each piece of output.

        Cancelling it interrupts the code in the sandbox.
        """
        blocks = await self._awork(
            ctx,
            lambda session: adapters.arun_python(
                session, code, budget=self._budget, timeout=self._timeout, on_output=_event_stream(ctx)
            ),
        )
        if len(blocks) > 1:
            await keep_figures(ctx)
        return blocks

    def list_files(self, directory: _Directory = adapters.DATA_DIR, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """List the files of the session."""
        return self._work(ctx, lambda session: adapters.list_files(session, directory, budget=self._budget))

    async def alist_files(self, directory: _Directory = adapters.DATA_DIR, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `list_files`."""
        return await self._awork(ctx, lambda session: adapters.alist_files(session, directory, budget=self._budget))

    def read_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Read a text file of the session, of at most 1 MiB."""
        return self._work(ctx, lambda session: adapters.read_file(session, path, budget=self._budget))

    async def aread_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `read_file`."""
        return await self._awork(ctx, lambda session: adapters.aread_file(session, path, budget=self._budget))

    def download_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Bring the application a file of the session, of at most 20 MiB, as a `Download`."""
        return self._work(ctx, lambda session: adapters.download_file(session, path))

    async def adownload_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `download_file`."""
        return await self._awork(ctx, lambda session: adapters.adownload_file(session, path))

    def upload_file(self, name: _Name, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Copy a file of the directory `uploads` into the session."""
        return self._work(ctx, lambda session: adapters.upload_file(session, self._uploads, name, budget=self._budget))

    async def aupload_file(self, name: _Name, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `upload_file`."""
        return await self._awork(
            ctx, lambda session: adapters.aupload_file(session, self._uploads, name, budget=self._budget)
        )

    def _work(self, ctx: _Ctx, work: Callable[[Session], ToolAnswer[Any]]) -> ModelBlocks:
        with self._router.for_call(self._conversation(ctx)) as session:
            try:
                return self._blocks(work(session))
            except RETRYABLE as error:
                return ModelBlocks(str(error), error)

    async def _awork(self, ctx: _Ctx, work: Callable[[Session], Awaitable[ToolAnswer[Any]]]) -> ModelBlocks:
        async with self._router.for_call(await self._aconversation(ctx)) as session:
            try:
                return self._blocks(await work(session))
            except RETRYABLE as error:
                return ModelBlocks(str(error), error)

    def _blocks(self, answer: ToolAnswer[Artifact]) -> ModelBlocks:
        text, artifact = answer
        figures = adapters.figures_for_models(artifact) if self._images and isinstance(artifact, Execution) else ()
        return ModelBlocks(text, artifact, figures)


def _event_stream(ctx: _Ctx | None) -> Callable[[StreamText | Output], Awaitable[None]] | None:
    if ctx is None:
        return None

    async def write(output: StreamText | Output) -> None:
        if isinstance(output, StreamText):
            with suppress(ContextStateError):  # outside of a run there is no stream of events
                ctx.write_event_to_stream(CodeOutput(stream=output.stream, text=output.text))

    return write
