"""The plugin: what a model can do with a session, and which session a conversation has."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from semantic_kernel.functions import KernelArguments, kernel_function

from greenroom import (
    Event,
    Execution,
    FileMissing,
    FileRefused,
    InvalidRequest,
    Output,
    RemoteFile,
    SandboxLost,
    Session,
    SessionPool,
    StreamText,
)
from greenroom.conversation import conversation_identifier
from greenroom.modelcode import strip_fence
from greenroom.modeltext import shorten
from greenroom_semantic_kernel.results import DownloadText, ExecutionText

if TYPE_CHECKING:
    from semantic_kernel.agents import AgentThread

OnOutput: TypeAlias = Callable[[StreamText | Output, KernelArguments], Awaitable[None]]
"""Awaited for each piece of output as it comes, with the arguments of the invocation that it belongs to."""

Invocation: TypeAlias = Annotated[KernelArguments | None, {"include_in_function_choices": False}]
"""All arguments of an invocation. A parameter named `arguments` gets them; no model sees or sets it."""

FilePath: TypeAlias = Annotated[str, "A file in /mnt/data, such as report.csv."]

_RUN_PYTHON = (
    "Run Python code in an isolated sandbox, as a cell of a notebook. {state} "
    "You get back what the code prints, the value of its last expression, the names of its figures, and its error if "
    "it fails. Keep files in /mnt/data. There may be no network."
)
_STATE_KEPT = "Variables, imports and files are kept from call to call."
_STATE_LOST = "Each call starts afresh: no variable, import or file is kept for the next."

_READ_LIMIT = 1 << 20
_DOWNLOAD_LIMIT = 20 << 20  # it stays in memory with the thread's messages


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
        if (pool is None) == (session is None):
            raise InvalidRequest("Pass either pool=, for a session of its own to each conversation, or session=.")
        if session_per_call and (pool is None or uploads is not None):
            raise InvalidRequest("session_per_call=True takes its sessions from pool=, and goes without uploads=.")
        if uploads is not None and not Path(uploads).is_dir():
            raise InvalidRequest(f"The uploads {os.fspath(uploads)!r} are not valid: they are no directory.")
        if timeout is not None and not 0 < timeout < float("inf"):
            raise InvalidRequest(f"The timeout {timeout!r} is not valid: it takes a positive number of seconds.")
        self._pool = pool
        self._fixed = session
        self._session_per_call = session_per_call
        self._uploads = Path(uploads or "")
        self._timeout = timeout
        self._budget = budget
        self._on_output = on_output
        # A kernel takes the functions that it finds on the object. A model need not know what cannot work.
        if session_per_call:
            self._hide("list_files", "read_text_file", "download_file", "upload_file")
            vars(self)["run_python"] = _described(self.run_python, _RUN_PYTHON.format(state=_STATE_LOST))
        elif uploads is None:
            self._hide("upload_file")

    def session(self, thread: AgentThread | str | None = None) -> Session:
        """The session of a conversation, for the application's own use.

        It uploads and downloads with it. At the end of the conversation it deletes it: with one call, `await
        plugin.session(thread).adelete()`, or by having held it in `async with plugin.session(thread): ...`.

        Args:
            thread: a thread, or the `thread_id` among the arguments of its invocations.

        Raises:
            InvalidRequest: the plugin has a pool, and the conversation is unknown or has no session.
        """
        if self._fixed is not None:
            return self._fixed
        if self._pool is None or self._session_per_call:
            raise InvalidRequest("With session_per_call=True a session ends with its call, so there is none.")
        conversation = thread if isinstance(thread, str) else getattr(thread, "id", None)
        if not isinstance(conversation, str) or not conversation:
            raise InvalidRequest(
                f"The thread_id {conversation!r:.200} names no conversation, and each conversation has a session of "
                "its own. Invoke with arguments=KernelArguments(thread_id=thread.id), or give the plugin a fixed "
                "session: GreenroomPlugin(session=pool.session())."
            )
        return self._pool.session(conversation_identifier("semantic-kernel", conversation))

    @kernel_function(description=_RUN_PYTHON.format(state=_STATE_KEPT))
    async def run_python(self, code: Annotated[str, "The Python code to run."], arguments: Invocation = None) -> str:
        """Run code. Where it ran, well or not, the result is an `ExecutionText`."""
        if self._pool is not None and self._session_per_call:
            async with self._pool.session() as session:
                return await _mendable(self._run(session, code, arguments))
        return await _mendable(self._run(self._of(arguments), code, arguments))

    @kernel_function(description="List the files in /mnt/data, with their sizes.")
    async def list_files(self, arguments: Invocation = None) -> str:
        """List all files of the session."""
        return await _mendable(_list(self._of(arguments), self._budget))

    @kernel_function(description="Read a text file. Of a long one the middle is left out: use Python for that.")
    async def read_text_file(self, path: FilePath, arguments: Invocation = None) -> str:
        """Read a file of at most 1 MiB."""
        return await _mendable(_read(self._of(arguments), path, self._budget))

    @kernel_function(description="Hand a file to the user, such as a report or a chart that you have saved.")
    async def download_file(self, path: FilePath, arguments: Invocation = None) -> str:
        """Bring the application a file of at most 20 MiB; the result is a `DownloadText`."""
        return await _mendable(_download(self._of(arguments), path))

    @kernel_function(description="Put a file that the user provided into /mnt/data.")
    async def upload_file(
        self, name: Annotated[str, "The file's name, such as sales.csv."], arguments: Invocation = None
    ) -> str:
        """Copy a file of the directory `uploads` into the session."""
        return await _mendable(_upload(self._of(arguments), self._uploads, name, self._budget))

    def _of(self, arguments: KernelArguments | None) -> Session:
        return self.session(cast("dict[str, Any]", arguments or {}).get("thread_id"))

    async def _run(self, session: Session, code: str, arguments: KernelArguments | None) -> str:
        code = strip_fence(code)
        if (on_output := self._on_output) is None:
            execution = await session.aexecute(code, timeout=self._timeout)
        else:
            invocation = KernelArguments() if arguments is None else arguments
            events = session.astream(code, timeout=self._timeout)
            execution = await _watch(events, lambda output: on_output(output, invocation))
        return ExecutionText.of(execution, self._budget)

    def _hide(self, *functions: str) -> None:
        vars(self).update(dict.fromkeys(functions))


def _described(function: Callable[..., Awaitable[str]], description: str) -> Callable[..., Awaitable[str]]:
    """A kernel function as `function`, a method, with a description that is not that of its class."""

    @kernel_function(description=description)
    @functools.wraps(function)
    async def described(*args: Any, **kwargs: Any) -> str:
        return await function(*args, **kwargs)

    return described


async def _mendable(work: Coroutine[Any, Any, str]) -> str:
    """The result of `work`, or in its place the error that a model can do something about.

    A lost sandbox is one: the next call gets a new one, and the message says that nothing is in it.
    """
    try:
        return await work
    except (InvalidRequest, FileMissing, FileRefused, SandboxLost) as error:
        return str(error)


async def _watch(
    events: AsyncGenerator[Event, None], tell: Callable[[StreamText | Output], Awaitable[None]]
) -> Execution:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Execution):
                return event
            await tell(event)
    raise AssertionError("a stream ends with its execution")


async def _list(session: Session, budget: int) -> str:
    files = [file for file in await session.afiles(recursive=True) if not file.is_directory]
    return shorten("\n".join(map(_line, files)), budget) or "There are no files."


async def _read(session: Session, path: str, budget: int) -> str:
    file = await session.afile(path)
    if file.size > _READ_LIMIT:
        return f"{_line(file)} is over the limit of {_READ_LIMIT} bytes. Read a part of it with Python."
    content = await session.adownload(path)
    try:
        return shorten(content.decode(), budget) or "The file is empty."
    except UnicodeDecodeError:
        return f"{_line(file)} is not a text file in UTF-8. Read it with Python."


async def _download(session: Session, path: str) -> str:
    file = await session.afile(path)
    if file.size > _DOWNLOAD_LIMIT:
        return f"{_line(file)} is over the limit of {_DOWNLOAD_LIMIT} bytes. Make a smaller one with Python."
    return DownloadText.of(file, await session.adownload(path))


async def _upload(session: Session, directory: Path, name: str, budget: int) -> str:
    provided = await asyncio.to_thread(_provided, directory)
    if name not in provided:
        names = ", ".join(sorted(provided)) or "none"
        return shorten(f"The user has provided no file {name!r:.200}. There are: {names}.", budget)
    return f"The file is at {_line(await session.aupload(provided[name], name))}."


def _provided(directory: Path) -> dict[str, Path]:
    # A model's name is looked up here and never becomes a path, so none leads out of the directory.
    return {path.name: path for path in directory.iterdir() if path.is_file() and not path.is_symlink()}


def _line(file: RemoteFile) -> str:
    return f"{file.path} ({file.size} bytes)"
