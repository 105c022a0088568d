"""The tools of one adapter: their names, descriptions and calls, with the options that all adapters share."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from greenroom.adapters.descriptions import code_tool_of, describe_tools, offered_tools
from greenroom.adapters.execution import OnOutput, arun_code, run_code
from greenroom.adapters.files import (
    DOWNLOAD_LIMIT,
    READ_LIMIT,
    adownload_file,
    alist_files,
    aread_file,
    aupload_file,
    check_uploads,
    download_file,
    list_files,
    read_file,
    upload_file,
)
from greenroom.adapters.results import RETRYABLE, Artifact, ToolAnswer
from greenroom.adapters.routing import SessionRouter
from greenroom.errors import InvalidRequest
from greenroom.sessions import Session, SessionPool
from greenroom.sessions.rules import check_limit, check_timeout
from greenroom.text import check_budget
from greenroom.untrusted import brief


class _Tool(NamedTuple):
    parameter: str
    required: bool
    call: Callable[..., ToolAnswer[Artifact]]
    acall: Callable[..., Awaitable[ToolAnswer[Artifact]]]


_FILE_TOOLS: Mapping[str, _Tool] = {
    "list_files": _Tool("directory", False, list_files, alist_files),
    "read_file": _Tool("path", True, read_file, aread_file),
    "download_file": _Tool("path", True, download_file, adownload_file),
    "upload_file": _Tool("name", True, upload_file, aupload_file),
}


class Toolset:
    """The part of an adapter that is the same for every framework: options, descriptions and calls."""

    def __init__(
        self,
        scope: str,
        advice: str,
        *,
        pool: SessionPool | None = None,
        session: Session | None = None,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        budget: int = 8_000,
        images: bool = True,
        read_limit: int = READ_LIMIT,
        download_limit: int = DOWNLOAD_LIMIT,
    ) -> None:
        """Take either `pool` or `session`.

        Args:
            scope: the framework that names the conversations, as for `conversation_identifier`.
            advice: a sentence on how a call of this framework names its conversation.
            pool: gives each conversation its own session.
            session: serves all conversations.
            session_per_call: each call gets a new session of the pool, deleted after it; the tool that runs code is
                then the only one.
            uploads: a directory whose files a model may copy into its session; without it there is no `upload_file`.
            timeout: the time limit of code in seconds; by default that of the session or the pool.
            budget: the maximum number of characters that a model reads of one result.
            images: whether models are sent figures.
            read_limit: the maximum size of a file that a model reads, in bytes.
            download_limit: the maximum size of a file that a model sends to the user, in bytes.

        Raises:
            InvalidRequest: an option breaks its rule, two options cannot be combined, or the pool's sandboxes run no
                code.
        """
        self._router = SessionRouter(scope, advice, pool=pool, session=session, per_call=session_per_call)
        container_type = self._router.container_type
        code = code_tool_of(container_type)
        self.code_tool = code.name
        """The tool that runs code: `run_python`, `run_javascript` or `run_shell`, by the container type."""
        self.names = offered_tools(container_type, session_per_call=session_per_call, uploads=uploads is not None)
        """The tools that can work, and so are offered to models."""
        self._descriptions = describe_tools(container_type, state_kept=not session_per_call, figures_seen=images)
        self._tools = {code.name: _Tool(code.parameter, True, run_code, arun_code), **_FILE_TOOLS}
        budget = check_budget(budget)
        self._options: Mapping[str, Mapping[str, Any]] = {
            code.name: {"budget": budget, "timeout": check_timeout(timeout), "images": images},
            "list_files": {"budget": budget},
            "read_file": {"budget": budget, "limit": check_limit(read_limit)},
            "download_file": {"limit": check_limit(download_limit)},
            "upload_file": {"budget": budget, "uploads": check_uploads(uploads)},
        }

    @property
    def follows_conversations(self) -> bool:
        """Whether it matters which conversation calls."""
        return self._router.follows_conversations

    def describe(self, tool: str) -> str:
        """Return the description of a tool for models."""
        return self._descriptions[tool]

    def session_for(self, conversation: str | None) -> Session:
        """Return the session of a conversation, for the application's own use.

        Raises:
            InvalidRequest: the conversation has no name, or sessions end with their calls.
        """
        return self._router.for_conversation(conversation)

    def call(
        self, conversation: str | None, tool: str, /, *, on_output: OnOutput | None = None, **arguments: Any
    ) -> ToolAnswer[Artifact]:
        """Call a tool in the session of a conversation.

        Args:
            conversation: its name; `None` or empty if the caller does not know it.
            tool: one of `names`.
            on_output: called with each piece of output of code that runs; it must not be asynchronous here.
            arguments: what the model passed.

        Returns:
            The answer. An error that the model can retry after becomes an answer too, with the error as its artifact.

        Raises:
            GreenroomError: an error that a model cannot fix, such as `PoolFull`.
            InvalidRequest: the tool is not offered, or the call does not name its conversation.
        """
        tool_, options = self._bound(tool, on_output)
        with self._router.for_call(conversation) as session:
            try:
                return tool_.call(session, *_checked(tool, tool_, arguments), **options)
            except RETRYABLE as error:
                return ToolAnswer(str(error), error)

    async def acall(
        self, conversation: str | None, tool: str, /, *, on_output: OnOutput | None = None, **arguments: Any
    ) -> ToolAnswer[Artifact]:
        """As `call`; `on_output` may be asynchronous. Cancelling the call interrupts its code."""
        tool_, options = self._bound(tool, on_output)
        async with self._router.for_call(conversation) as session:
            try:
                return await tool_.acall(session, *_checked(tool, tool_, arguments), **options)
            except RETRYABLE as error:
                return ToolAnswer(str(error), error)

    def _bound(self, tool: str, on_output: OnOutput | None) -> tuple[_Tool, Mapping[str, Any]]:
        if tool not in self.names:
            raise InvalidRequest(f"The tool must be one of {', '.join(self.names)}, not {brief(tool)}.")
        options = self._options[tool]
        return self._tools[tool], {**options, "on_output": on_output} if tool == self.code_tool else options


def _checked(name: str, tool: _Tool, arguments: Mapping[str, Any]) -> Iterable[Any]:
    """Return the arguments if they are the tool's parameters, so that a model cannot set the options beside them."""
    if [*arguments] == [tool.parameter] or not (arguments or tool.required):
        return arguments.values()
    names = ", ".join(map(brief, arguments)) or "none"
    raise InvalidRequest(f"The argument of {name} must be {tool.parameter!r}, not {names}.")
