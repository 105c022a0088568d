"""The tools of one adapter: their names, descriptions and calls, with the options that all adapters share."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from greenroom.adapters.attended import Attendance
from greenroom.adapters.background import (
    alook_at_code,
    areset_session,
    astart_code,
    astop_code,
    look_at_code,
    reset_session,
    start_code,
    stop_code,
)
from greenroom.adapters.descriptions import code_tool_of, describe_tools, offered_tools
from greenroom.adapters.execution import OnOutput, answer_of, arun_code, run_code
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
from greenroom.adapters.functions import FUNCTIONS_BUDGET, read_functions
from greenroom.adapters.results import RETRYABLE, Artifact, ToolAnswer
from greenroom.adapters.routing import SessionRouter
from greenroom.errors import InvalidRequest
from greenroom.models import Execution
from greenroom.sessions import Session, SessionPool
from greenroom.sessions.rules import check_limit, check_timeout
from greenroom.text import check_budget
from greenroom.tools import Tool, ToolLimits
from greenroom.tools.definitions import ToolLike
from greenroom.untrusted import brief


class _Tool(NamedTuple):
    parameter: str
    required: bool
    call: Callable[..., ToolAnswer[Artifact]]
    acall: Callable[..., Awaitable[ToolAnswer[Artifact]]]


_OTHER_TOOLS: Mapping[str, _Tool] = {
    "list_files": _Tool("directory", False, list_files, alist_files),
    "read_file": _Tool("path", True, read_file, aread_file),
    "download_file": _Tool("path", True, download_file, adownload_file),
    "upload_file": _Tool("name", True, upload_file, aupload_file),
    "look_at_execution": _Tool("execution_id", True, look_at_code, alook_at_code),
    "stop_execution": _Tool("execution_id", True, stop_code, astop_code),
    "reset_session": _Tool("", False, reset_session, areset_session),
}


class Toolset:
    """The parts of an adapter that are the same for every framework: options, descriptions and calls."""

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
        background: bool = False,
        reset: bool = False,
        functions: Iterable[ToolLike] | None = None,
        functions_budget: int = FUNCTIONS_BUDGET,
        function_limits: ToolLimits | None = None,
    ) -> None:
        """Take `pool` or `session`; with neither, the pool is `default_pool()`, opened with the first use.

        Args:
            scope: the framework that names the conversations, as for `conversation_identifier`.
            advice: a sentence on how a call of this framework names its conversation.
            pool: gives each conversation its own session.
            session: serves all conversations.
            session_per_call: each call gets a new session of the pool, deleted after the call; the tool that runs code
                is then the only one.
            uploads: a directory whose files a model may copy into its session; without it there is no `upload_file`.
            timeout: the time limit of code in seconds; by default that of the session or the pool.
            budget: the maximum number of characters that a model reads of one result.
            images: whether models are sent figures.
            read_limit: the maximum size of a file that a model reads, in bytes.
            download_limit: the maximum size of a file that a model sends to the user, in bytes.
            background: offers `start_execution`, `look_at_execution` and `stop_execution`.
            reset: offers `reset_session`.
            functions: functions that code can call while it runs, as `tools` of `Session.execute`.
            functions_budget: as for `read_functions`.
            function_limits: limits on the calls of one execution.

        Raises:
            InvalidRequest: an option breaks its rule, two options cannot be combined, or the pool's sandboxes do not
                run code.
        """
        self._router = SessionRouter(scope, advice, pool=pool, session=session, per_call=session_per_call)
        container_type = self._router.container_type
        code = code_tool_of(container_type)
        self.code_tool = code.name
        """The tool that runs code: `run_python`, `run_javascript` or `run_shell`, by the container type."""
        self.code_parameter = code.parameter
        """The name of its parameter and that of `start_execution`: `code` or `command`."""
        self.names = offered_tools(
            container_type,
            session_per_call=session_per_call,
            uploads=uploads is not None,
            background=background,
            reset=reset,
        )
        """The tools that are offered to models."""
        self._descriptions = describe_tools(container_type, state_kept=not session_per_call, figures_seen=images)
        self._tools = {
            code.name: _Tool(code.parameter, True, run_code, arun_code),
            "start_execution": _Tool(code.parameter, True, start_code, astart_code),
            **_OTHER_TOOLS,
        }
        given = () if functions is None else tuple(functions)
        self.functions = read_functions(given, functions_budget)
        """The functions that code can call, with their description for models."""
        budget, timeout = check_budget(budget), check_timeout(timeout)
        self._options: Mapping[str, Mapping[str, Any]] = {
            code.name: {
                "budget": budget,
                "timeout": timeout,
                "images": images,
                "tools": self.functions.with_search(given),
                "tool_limits": function_limits,
            },
            "start_execution": {"timeout": timeout},
            "look_at_execution": {"budget": budget, "images": images},
            "stop_execution": {"budget": budget, "images": images},
            "reset_session": {},
            "list_files": {"budget": budget},
            "read_file": {"budget": budget, "limit": check_limit(read_limit)},
            "download_file": {"limit": check_limit(download_limit)},
            "upload_file": {"budget": budget, "uploads": check_uploads(uploads)},
        }

    @property
    def follows_conversations(self) -> bool:
        """Whether the session depends on the conversation."""
        return self._router.follows_conversations

    def describe(self, tool: str) -> str:
        """Return the description of a tool for models; for the tool that runs code, it includes the functions."""
        text = self._descriptions[tool]
        return f"{text}\n\n{self.functions.text}" if tool == self.code_tool and self.functions.text else text

    def session_for(self, conversation: str | None, run: object = None) -> Session:
        """Return the session of a conversation, or of a run without one, for the application's own use.

        Raises:
            InvalidRequest: the conversation has no name and there is no run, or sessions end with their calls.
        """
        return self._router.for_conversation(conversation, run)

    async def asession_for(self, conversation: str | None, run: object = None) -> Session:
        """As `session_for`, without blocking the event loop while a default pool is opened."""
        await self._router.open()
        return self._router.for_conversation(conversation, run)

    def call(
        self,
        conversation: str | None,
        tool: str,
        /,
        *,
        run: object = None,
        on_output: OnOutput | None = None,
        functions: Iterable[ToolLike] | None = None,
        **arguments: Any,
    ) -> ToolAnswer[Artifact]:
        """Call a tool in the session of a conversation.

        Args:
            conversation: its name; `None` or empty if unknown.
            tool: one of `names`.
            run: the object of the agent's run, as for `session_of_run`; used if there is no conversation.
            on_output: called with each piece of output while code runs; it must not be asynchronous here.
            functions: the constructor's functions in their form for this call, if it differs between calls.
            arguments: the arguments that the model passed.

        Returns:
            The answer. An error after which the model can retry is returned as an answer, with the error as its
            artifact.

        Raises:
            GreenroomError: an error that a model cannot fix, such as `PoolFull`.
            InvalidRequest: the tool is not offered, or the call names neither its conversation nor its run.
        """
        tool_, options = self._bound(tool, on_output, functions)
        with self._router.for_call(conversation, run) as session:
            try:
                return tool_.call(session, *_checked(tool, tool_, arguments), **options)
            except RETRYABLE as error:
                return ToolAnswer(str(error), error)

    async def acall(
        self,
        conversation: str | None,
        tool: str,
        /,
        *,
        run: object = None,
        on_output: OnOutput | None = None,
        functions: Iterable[ToolLike] | None = None,
        **arguments: Any,
    ) -> ToolAnswer[Artifact]:
        """As `call`; `on_output` may be asynchronous. Cancelling the call interrupts its code."""
        tool_, options = self._bound(tool, on_output, functions)
        await self._router.open()
        async with self._router.for_call(conversation, run) as session:
            try:
                return await tool_.acall(session, *_checked(tool, tool_, arguments), **options)
            except RETRYABLE as error:
                return ToolAnswer(str(error), error)

    def attend(
        self,
        session: Session,
        execution_id: str,
        functions: Iterable[Tool],
        *,
        turn: str,
        on_output: OnOutput | None = None,
    ) -> Attendance:
        """Return an attendance of code that may have to wait for a person; the arguments are those of `Attendance`."""
        tools = [*functions, *([] if self.functions.search is None else [self.functions.search])]
        return Attendance(session, execution_id, tools, turn=turn, on_output=on_output)

    def begin(self, attendance: Attendance, code: str) -> None:
        """Start a model's code with these options.

        Raises:
            InvalidRequest: as `Attendance.begin`.
        """
        options = self._options[self.code_tool]
        attendance.begin(code, timeout=options["timeout"], limits=options["tool_limits"])

    def answer(self, execution: Execution) -> ToolAnswer[Execution]:
        """Return the text that a model reads about an execution with these options."""
        options = self._options[self.code_tool]
        return answer_of(execution, options["budget"], options["images"])

    def _bound(
        self, tool: str, on_output: OnOutput | None, functions: Iterable[ToolLike] | None
    ) -> tuple[_Tool, Mapping[str, Any]]:
        if tool not in self.names:
            raise InvalidRequest(f"The tool must be one of {', '.join(self.names)}, not {brief(tool)}.")
        options = self._options[tool]
        if tool == self.code_tool:
            options = {**options, "on_output": on_output}
            if functions is not None:
                options["tools"] = self.functions.with_search(functions)
        return self._tools[tool], options


def _checked(name: str, tool: _Tool, arguments: Mapping[str, Any]) -> Iterable[Any]:
    """Return the arguments if they match the tool's parameters, so that a model cannot set other options."""
    if [*arguments] == [tool.parameter] or not (arguments or tool.required):
        return arguments.values()
    names = ", ".join(map(brief, arguments)) or "none"
    raise InvalidRequest(f"The argument of {name} must be {tool.parameter!r}, not {names}.")
