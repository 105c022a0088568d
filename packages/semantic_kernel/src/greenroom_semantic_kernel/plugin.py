"""The plugin: what a model can do with a session, and which session a conversation has."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from semantic_kernel.functions import KernelArguments, kernel_function

from greenroom import Output, Session, SessionPool, StreamText, adapters
from greenroom.adapters import RETRYABLE, SessionRouter, ToolAnswer
from greenroom_semantic_kernel.results import text_of

if TYPE_CHECKING:
    from semantic_kernel.agents import AgentThread

OnOutput: TypeAlias = Callable[[StreamText | Output, KernelArguments], Awaitable[None]]
"""Awaited for each piece of output as it comes, with the arguments of the invocation that it belongs to."""

_Tell: TypeAlias = Callable[[StreamText | Output], Awaitable[None]]

Invocation: TypeAlias = Annotated[KernelArguments | None, {"include_in_function_choices": False}]
"""All arguments of an invocation. A parameter named `arguments` gets them; no model sees or sets it."""

FilePath: TypeAlias = Annotated[str, adapters.PATH]

_ADVICE = "Invoke with arguments=KernelArguments(thread_id=thread.id)."


class GreenroomPlugin:
    """Lets a model run Python in a session that lasts as long as the conversation, and use its files.

    With a pool, each conversation has a session of its own. The conversation is the entry `thread_id` of the
    `KernelArguments`, as Semantic Kernel passes nothing else of a thread to functions::

        await agent.get_response(question, thread=thread, arguments=KernelArguments(thread_id=thread.id))

    Without that entry the functions raise `InvalidRequest`: any guess could bring two users together.

    With a session, all who use the plugin share that one. It is the choice for agents that Semantic Kernel invokes
    by itself, without arguments (in an orchestration, or as another agent's plugin), and wherever others than the
    application write the arguments (behind an MCP server).

    What a model can mend, such as code that fails or a file that is not there, is a function's result. The rest,
    such as `PoolFull` or `EngineUnavailable`, is raised.
    """

    name = "greenroom"
    """What kernels and agents call this plugin, unless they are told otherwise."""

    def __init__(
        self,
        *,
        pool: SessionPool | None = None,
        session: Session | None = None,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        budget: int = 8_000,
        on_output: OnOutput | None = None,
    ) -> None:
        """Give either `pool` or `session`.

        Args:
            pool: gives each conversation its session.
            session: serves all conversations.
            session_per_call: each call gets a new session of the pool, deleted after it. `run_python` is then the
                only function, and no `thread_id` is needed.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without one
                there is no function `upload_file`.
            timeout: seconds that code may run; by default what the session or the pool says.
            budget: the most characters that a model reads of one result.
            on_output: is told what code writes and shows while it runs. An exception of it ends the code.

        Raises:
            InvalidRequest: there is not exactly one of `pool` and `session`, or another argument breaks a rule.
        """
        self._router = SessionRouter("semantic-kernel", _ADVICE, pool=pool, session=session, per_call=session_per_call)
        self._uploads = adapters.check_uploads(uploads)
        self._timeout = adapters.check_timeout(timeout)
        self._budget = adapters.check_budget(budget)
        self._on_output = on_output
        # A kernel takes the functions that it finds on the object. A model need not know what cannot work.
        offered = adapters.offered_tools(session_per_call=session_per_call, uploads=uploads is not None)
        vars(self).update(dict.fromkeys(adapters.TOOLS.keys() - offered))
        if session_per_call:
            description = adapters.describe_run_python(state_kept=False, figures_seen=False)
            vars(self)["run_python"] = _described(self.run_python, description)

    def session(self, thread: AgentThread | str | None = None) -> Session:
        """The session of a conversation, for the application's own use.

        It uploads and downloads with it. At the end of the conversation it deletes it: with one call, `await
        plugin.session(thread).adelete()`, or by having held it in `async with plugin.session(thread): ...`.

        Args:
            thread: a thread, or the `thread_id` among the arguments of its invocations.

        Raises:
            InvalidRequest: the plugin has a pool, and the conversation is unknown or has no session.
        """
        return self._router.for_conversation(_name(thread if isinstance(thread, str) else getattr(thread, "id", None)))

    @kernel_function(description=adapters.describe_run_python(figures_seen=False))
    async def run_python(self, code: Annotated[str, adapters.CODE], arguments: Invocation = None) -> str:
        """Run code. Where it ran, well or not, the result is an `ExecutionText`."""
        tell, invocation = self._on_output, KernelArguments() if arguments is None else arguments
        on_output: _Tell | None = None if tell is None else lambda output: tell(output, invocation)
        return await self._work(
            arguments,
            lambda session: adapters.arun_python(
                session, code, budget=self._budget, timeout=self._timeout, on_output=on_output
            ),
        )

    @kernel_function(description=adapters.TOOLS["list_files"])
    async def list_files(
        self, directory: Annotated[str, adapters.DIRECTORY] = adapters.DATA_DIR, arguments: Invocation = None
    ) -> str:
        """List the files of the session."""
        return await self._work(
            arguments, lambda session: adapters.alist_files(session, directory, budget=self._budget)
        )

    @kernel_function(description=adapters.TOOLS["read_file"])
    async def read_file(self, path: FilePath, arguments: Invocation = None) -> str:
        """Read a file of at most 1 MiB."""
        return await self._work(arguments, lambda session: adapters.aread_file(session, path, budget=self._budget))

    @kernel_function(description=adapters.TOOLS["download_file"])
    async def download_file(self, path: FilePath, arguments: Invocation = None) -> str:
        """Bring the application a file of at most 20 MiB; the result is a `DownloadText`."""
        return await self._work(arguments, lambda session: adapters.adownload_file(session, path))

    @kernel_function(description=adapters.TOOLS["upload_file"])
    async def upload_file(self, name: Annotated[str, adapters.NAME], arguments: Invocation = None) -> str:
        """Copy a file of the directory `uploads` into the session."""
        return await self._work(
            arguments, lambda session: adapters.aupload_file(session, self._uploads, name, budget=self._budget)
        )

    async def _work(
        self, arguments: KernelArguments | None, work: Callable[[Session], Awaitable[ToolAnswer[Any]]]
    ) -> str:
        thread_id = cast("dict[str, Any]", arguments or {}).get("thread_id")
        async with self._router.for_call(_name(thread_id)) as session:
            try:
                return text_of(await work(session))
            except RETRYABLE as error:
                return str(error)


def _name(conversation: object) -> str | None:
    return conversation if isinstance(conversation, str) else None


def _described(function: Callable[..., Awaitable[str]], description: str) -> Callable[..., Awaitable[str]]:
    """A kernel function as `function`, a method, with a description that is not that of its class."""

    @kernel_function(description=description)
    @functools.wraps(function)
    async def described(*args: Any, **kwargs: Any) -> str:
        return await function(*args, **kwargs)

    return described
