"""The plugin: the tools of a session, as kernel functions."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from semantic_kernel.functions import KernelArguments, kernel_function

from greenroom import Output, Session, SessionPool, StreamText, adapters
from greenroom.adapters import Toolset
from greenroom_semantic_kernel.results import text_of

if TYPE_CHECKING:
    from semantic_kernel.agents import AgentThread

OnOutput: TypeAlias = Callable[[StreamText | Output, KernelArguments], Awaitable[None] | None]
"""Called with each piece of output while code runs, and the arguments of its invocation; it may be asynchronous."""

Invocation: TypeAlias = Annotated[KernelArguments | None, {"include_in_function_choices": False}]
"""All arguments of an invocation. A parameter named `arguments` gets them; no model sees or sets it."""

FilePath: TypeAlias = Annotated[str, adapters.PATH]

_ADVICE = "Invoke with arguments=KernelArguments(thread_id=thread.id)."


class GreenroomPlugin:
    """Lets a model run Python in a session that lasts as long as the conversation, and use its files.

    The function that runs code is `run_javascript` or `run_shell` where the container type is NodeLTS or Shell.

    With a pool, each conversation has its own session. The conversation is the entry `thread_id` of the
    `KernelArguments`, as Semantic Kernel passes nothing else of a thread to functions::

        await agent.get_response(question, thread=thread, arguments=KernelArguments(thread_id=thread.id))

    Without that entry the functions raise `InvalidRequest`: any guess could bring two users together.

    With a session, all users of the plugin share it. That suits agents that Semantic Kernel itself invokes, without
    arguments (in an orchestration, or as another agent's plugin), and all cases in which the arguments do not come from
    the application (behind an MCP server).

    An error that a model can recover from, such as in its code or by a missing file, is a function's result. Any other,
    such as `PoolFull` or `EngineUnavailable`, is raised.
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
    ) -> None:
        """Take either `pool` or `session`.

        Args:
            pool: gives each conversation its own session.
            session: serves all conversations.
            session_per_call: each call gets a new session of the pool, deleted after it. The function that runs code
                is then the only one, and no `thread_id` is needed.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without one
                there is no function `upload_file`.
            timeout: the time limit of code in seconds; by default that of the session or the pool.
            budget: the maximum number of characters that a model reads of one result.
            on_output: called with each piece of output while code runs. Its exception ends the code.

        Raises:
            InvalidRequest: an option breaks its rule, or two options cannot be combined.
        """
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
        )
        self._on_output = on_output
        # A kernel takes the functions that it finds on the object; those that cannot work are hidden from it.
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
    async def run_python(self, code: Annotated[str, adapters.CODE], arguments: Invocation = None) -> str:
        """Run code. If it ran, successfully or not, the result is an `ExecutionText`."""
        return await self._call(arguments, "run_python", code=code)

    @kernel_function
    async def run_javascript(self, code: Annotated[str, adapters.JAVASCRIPT], arguments: Invocation = None) -> str:
        """As `run_python`, where the container type is NodeLTS."""
        return await self._call(arguments, "run_javascript", code=code)

    @kernel_function
    async def run_shell(self, command: Annotated[str, adapters.COMMAND], arguments: Invocation = None) -> str:
        """As `run_python`, where the container type is Shell."""
        return await self._call(arguments, "run_shell", command=command)

    @kernel_function
    async def list_files(
        self, directory: Annotated[str, adapters.DIRECTORY] = adapters.DATA_DIR, arguments: Invocation = None
    ) -> str:
        """List the files of the session."""
        return await self._call(arguments, "list_files", directory=directory)

    @kernel_function
    async def read_file(self, path: FilePath, arguments: Invocation = None) -> str:
        """Read a file of at most 1 MiB."""
        return await self._call(arguments, "read_file", path=path)

    @kernel_function
    async def download_file(self, path: FilePath, arguments: Invocation = None) -> str:
        """Send the application a file of at most 20 MiB; the result is a `DownloadText`."""
        return await self._call(arguments, "download_file", path=path)

    @kernel_function
    async def upload_file(self, name: Annotated[str, adapters.NAME], arguments: Invocation = None) -> str:
        """Copy a file of the directory `uploads` into the session."""
        return await self._call(arguments, "upload_file", name=name)

    async def _call(self, arguments: KernelArguments | None, tool: str, **given: str) -> str:
        invocation = KernelArguments() if arguments is None else arguments
        conversation = _name(cast("dict[str, Any]", invocation).get("thread_id"))
        on_output = adapters.with_context(self._on_output, invocation)
        return text_of(await self._toolset.acall(conversation, tool, on_output=on_output, **given))


def _name(conversation: object) -> str | None:
    return conversation if isinstance(conversation, str) else None


def _described(function: Callable[..., Awaitable[str]], description: str) -> Callable[..., Awaitable[str]]:
    """A kernel function as `function`, a method, with its description for models."""

    @kernel_function(description=description)
    @functools.wraps(function)
    async def described(*args: Any, **kwargs: Any) -> str:
        return await function(*args, **kwargs)

    return described
