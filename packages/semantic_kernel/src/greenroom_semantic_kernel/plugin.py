"""The plugin: the tools of a session, as kernel functions."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from semantic_kernel import Kernel
from semantic_kernel.functions import FunctionResult, KernelArguments, kernel_function

from greenroom import Output, Session, SessionPool, StreamText, ToolLimits, adapters
from greenroom.adapters import Toolset
from greenroom_semantic_kernel.functions import Functions, InnerTools
from greenroom_semantic_kernel.results import ResultText, text_of
from greenroom_semantic_kernel.runs import run_of

if TYPE_CHECKING:
    from semantic_kernel.agents import AgentThread

OnOutput: TypeAlias = Callable[[StreamText | Output, KernelArguments], Awaitable[None] | None]
"""Called with each piece of output while code runs, and the arguments of its invocation; it may be asynchronous."""

Invocation: TypeAlias = Annotated[KernelArguments | None, {"include_in_function_choices": False}]
"""All arguments of an invocation, for a parameter named `arguments`, which models can neither see nor set."""

Invoker: TypeAlias = Annotated[Kernel | None, {"include_in_function_choices": False}]
"""The invoking kernel, for a parameter named `kernel`, which models can neither see nor set."""

ExecutionId: TypeAlias = Annotated[str, adapters.EXECUTION_ID]

FilePath: TypeAlias = Annotated[str, adapters.PATH]

_ADVICE = "Invoke with arguments=KernelArguments(thread_id=thread.id)."


class GreenroomPlugin:
    """Lets a model run Python in a session that lasts as long as the conversation, and use its files.

    The function that runs code is `run_javascript` or `run_shell` where the container type is NodeLTS or Shell.

    Each conversation has its own session, determined by the entry `thread_id` of the `KernelArguments`. Semantic Kernel
    passes functions nothing else about a thread::

        await agent.get_response(question, thread=thread, arguments=KernelArguments(thread_id=thread.id))

    Without that entry, the calls of one run share a session until the run ends. A run is all calls with the same chat
    history; the plugin adds a filter to the kernel that sees it.

    With `session=`, all users of the plugin share that session. Use it for agents that Semantic Kernel itself invokes
    without arguments (in an orchestration, or as another agent's plugin), and wherever the arguments do not come from
    the application (behind an MCP server).

    An error that a model can recover from, such as an exception in its code or a missing file, is a function result.
    Any other, such as `PoolFull` or `EngineUnavailable`, is raised.
    """

    name = "greenroom"
    """The plugin's default name in kernels and agents."""

    def __init__(
        self,
        pool: SessionPool | None = None,
        *,
        session: Session | None = None,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        budget: int = 8_000,
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
            session_per_call: each call gets a new session of the pool, deleted after the call. The function that runs
                code is then the only one, and no `thread_id` is needed.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without one
                there is no function `upload_file`.
            timeout: the time limit of code in seconds; by default that of the session or the pool.
            budget: the maximum number of characters that a model reads of one result.
            on_output: called with each piece of output while code runs. Its exception ends the code.
            tools: functions that code can call while it runs: kernel functions, plugins with all their functions, or
                plain functions. The kernel invokes them, so its function invocation filters and spans see each call.
            tool_limits: limits on the calls of one execution.
            background: offers functions that start code, look at it and stop it, while the model does something else.
            reset: offers a function that empties the session.

        Raises:
            InvalidRequest: an option breaks its rule, or two options cannot be combined.
        """
        self._inner = InnerTools(tools)
        self._toolset = Toolset(
            "semantic-kernel",
            _ADVICE,
            pool=pool,
            session=session,
            session_per_call=session_per_call,
            uploads=uploads,
            timeout=timeout,
            budget=budget,
            images=False,  # results of functions are text
            background=background,
            reset=reset,
            functions=self._inner.described,
            function_limits=tool_limits,
        )
        self._on_output = on_output
        # A kernel takes all functions of the object, so those that are not offered are hidden from it.
        functions = inspect.getmembers(self, lambda member: hasattr(member, "__kernel_function__"))
        vars(self).update(
            {
                name: _described(function, self._toolset.describe(name)) if name in self._toolset.names else None
                for name, function in functions
            }
        )

    def session_for(self, thread: AgentThread | str | None = None) -> Session:
        """Return the session of a conversation, for the application's own uploads and downloads.

        The application deletes it at the end of the conversation: with one call, `await
        plugin.session_for(thread).adelete()`, or by holding it in `async with plugin.session_for(thread): ...`.

        Args:
            thread: a thread, or the `thread_id` among the arguments of its invocations.

        Raises:
            InvalidRequest: the plugin has a pool, and the conversation is unknown or has no session.
        """
        return self._toolset.session_for(_name(thread if isinstance(thread, str) else getattr(thread, "id", None)))

    @kernel_function
    async def run_python(
        self, code: Annotated[str, adapters.CODE], arguments: Invocation = None, kernel: Invoker = None
    ) -> str:
        """Run code. If it ran, successfully or not, the result is an `ExecutionText`."""
        return await self._call(arguments, kernel, "run_python", code=code)

    @kernel_function
    async def run_javascript(
        self, code: Annotated[str, adapters.JAVASCRIPT], arguments: Invocation = None, kernel: Invoker = None
    ) -> str:
        """As `run_python`, where the container type is NodeLTS."""
        return await self._call(arguments, kernel, "run_javascript", code=code)

    @kernel_function
    async def run_shell(
        self, command: Annotated[str, adapters.COMMAND], arguments: Invocation = None, kernel: Invoker = None
    ) -> str:
        """As `run_python`, where the container type is Shell."""
        return await self._call(arguments, kernel, "run_shell", command=command)

    @kernel_function
    async def list_files(
        self,
        directory: Annotated[str, adapters.DIRECTORY] = adapters.DATA_DIR,
        arguments: Invocation = None,
        kernel: Invoker = None,
    ) -> str:
        """List the files of the session."""
        return await self._call(arguments, kernel, "list_files", directory=directory)

    @kernel_function
    async def read_file(self, path: FilePath, arguments: Invocation = None, kernel: Invoker = None) -> str:
        """Read a file of at most 1 MiB."""
        return await self._call(arguments, kernel, "read_file", path=path)

    @kernel_function
    async def download_file(self, path: FilePath, arguments: Invocation = None, kernel: Invoker = None) -> str:
        """Send the application a file of at most 20 MiB; the result is a `DownloadText`."""
        return await self._call(arguments, kernel, "download_file", path=path)

    @kernel_function
    async def upload_file(
        self, name: Annotated[str, adapters.NAME], arguments: Invocation = None, kernel: Invoker = None
    ) -> str:
        """Copy a file of the directory `uploads` into the session."""
        return await self._call(arguments, kernel, "upload_file", name=name)

    @kernel_function
    async def start_execution(
        self, code: Annotated[str, adapters.STARTED], arguments: Invocation = None, kernel: Invoker = None
    ) -> str:
        """Start code in the background, or a command where the container type is Shell."""
        return await self._call(arguments, kernel, "start_execution", **{self._toolset.code_parameter: code})

    @kernel_function
    async def look_at_execution(
        self, execution_id: ExecutionId, arguments: Invocation = None, kernel: Invoker = None
    ) -> str:
        """Look at code in the background; if it has ended, the result is an `ExecutionText`."""
        return await self._call(arguments, kernel, "look_at_execution", execution_id=execution_id)

    @kernel_function
    async def stop_execution(
        self, execution_id: ExecutionId, arguments: Invocation = None, kernel: Invoker = None
    ) -> str:
        """Stop code in the background; the result is an `ExecutionText`."""
        return await self._call(arguments, kernel, "stop_execution", execution_id=execution_id)

    @kernel_function
    async def reset_session(self, arguments: Invocation = None, kernel: Invoker = None) -> str:
        """Empty the session."""
        return await self._call(arguments, kernel, "reset_session")

    async def _call(self, arguments: KernelArguments | None, kernel: Kernel | None, tool: str, **given: str) -> Any:
        invocation = KernelArguments() if arguments is None else arguments
        conversation = _name(cast("dict[str, Any]", invocation).get("thread_id"))
        is_of_run = conversation is None and self._toolset.follows_conversations
        run, is_known = run_of(kernel) if is_of_run else (None, True)
        answer = await self._toolset.acall(
            conversation,
            tool,
            run=run,
            on_output=adapters.with_context(self._on_output, invocation),
            functions=self._inner.bound(kernel, invocation),
            **given,
        )
        text = text_of(answer)
        text.run = None if is_known else run
        return text if kernel is None else self._result(kernel, tool, text, {**given, "arguments": invocation})

    def _result(self, kernel: Kernel, tool: str, text: ResultText, used: dict[str, Any]) -> FunctionResult | ResultText:
        # The kernel's own would keep the kernel among the arguments, so that no history could be serialized.
        for plugin in kernel.plugins.values():
            function = plugin.functions.get(tool)
            if function is not None and getattr(function, "method", None) == getattr(self, tool):
                metadata = {"arguments": used["arguments"], "used_arguments": used}
                return FunctionResult(function=function.metadata, value=text, metadata=metadata)
        return text


def _name(conversation: object) -> str | None:
    # Any other value is a mistake, and is refused like an empty name.
    return conversation if conversation is None or isinstance(conversation, str) else ""


def _described(function: Callable[..., Awaitable[str]], description: str) -> Callable[..., Awaitable[str]]:
    """A kernel function as `function`, a method, with its description for models."""

    @kernel_function(description=description)
    @functools.wraps(function)
    async def described(*args: Any, **kwargs: Any) -> str:
        return await function(*args, **kwargs)

    return described
