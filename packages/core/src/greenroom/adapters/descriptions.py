"""The descriptions of the tools and their parameters, as models read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType

# The parameters

CODE = "The Python code to run."
JAVASCRIPT = "The JavaScript code to run."
COMMAND = "The command to run, for bash."
DIRECTORY = "A directory in /mnt/data."
PATH = "A file in /mnt/data, such as report.csv."
NAME = "The file's name, such as sales.csv."
STARTED = "The code to run, as for the tool that waits for the end of the code."
EXECUTION_ID = "The execution ID that was returned when it was started."


@dataclass(frozen=True, slots=True)
class CodeTool:
    """The tool that runs code in the sandboxes of one container type."""

    name: str
    parameter: str
    parameter_description: str
    languages: frozenset[str]
    """The language names that can follow a Markdown fence, in lower case."""
    means: str
    """Completes "Read it with …", for files that no other tool can read."""
    purpose: str
    state_kept: str
    state_not_kept: str
    returned: str
    """Completes "You get back …"; can contain `{figures}`."""

    def describe(self, *, state_kept: bool = True, figures_seen: bool = True) -> str:
        """Return the description; the arguments are those of `describe_tools`."""
        returned = self.returned.format(figures="its figures" if figures_seen else "the names of its figures")
        return (
            f"{self.purpose} {self.state_kept if state_kept else self.state_not_kept} You get back {returned}. "
            "Keep files in /mnt/data. There may be no network."
        )


CODE_TOOLS: Mapping[ContainerType, CodeTool] = MappingProxyType(
    {
        ContainerType.PYTHON_LTS: CodeTool(
            name="run_python",
            parameter="code",
            parameter_description=CODE,
            languages=frozenset(("python", "python3", "py", "py3", "ipython", "ipython3")),
            means="Python",
            purpose="Run Python code in an isolated sandbox, like a notebook cell.",
            state_kept="Variables, imports and files are kept from call to call.",
            state_not_kept="Each call starts afresh: no variable, import or file is kept for the next.",
            returned="what the code prints, the value of its last expression, {figures}, and its error if it fails",
        ),
        ContainerType.NODE_LTS: CodeTool(
            name="run_javascript",
            parameter="code",
            parameter_description=JAVASCRIPT,
            languages=frozenset(("javascript", "js", "node")),
            means="JavaScript",
            purpose=(
                "Run JavaScript in Node.js, in an isolated sandbox, like a notebook cell: require() and top-level "
                "await work."
            ),
            state_kept="Variables, functions and files are kept from call to call.",
            state_not_kept="Each call starts afresh: no variable, function or file is kept for the next.",
            returned=(
                "what the code writes to the console, the value of its last expression, {figures} (shown with "
                "$$.png(base64)), and its error if it fails"
            ),
        ),
        ContainerType.SHELL: CodeTool(
            name="run_shell",
            parameter="command",
            parameter_description=COMMAND,
            languages=frozenset(("bash", "sh", "shell")),
            means="a command",
            purpose="Run a command with bash in the directory /mnt/data of an isolated sandbox.",
            state_kept=(
                "Each call is a new shell: files are kept from call to call, variables and the working directory are "
                "not."
            ),
            state_not_kept="Each call starts afresh: no file, variable or working directory is kept for the next.",
            returned="what the command prints, and its exit code if it fails",
        ),
    }
)
"""The tool that runs code, by the container type of its pool."""


def code_tool_of(container_type: ContainerType) -> CodeTool:
    """Return the tool that runs code in pools of a container type.

    Raises:
        InvalidRequest: its sandboxes do not run code.
    """
    if (tool := CODE_TOOLS.get(container_type)) is None:
        raise InvalidRequest(
            f"The pool of these tools must be of type {', '.join(CODE_TOOLS)}, not {container_type}: custom "
            "containers accept requests instead. Send them with session.request(…), for example in a tool of your "
            "own."
        )
    return tool


_BACKGROUND = {
    "start_execution": (
        "Start code in the background, as for {code}, and get its execution ID immediately. Other code in the session "
        "waits until it has ended."
    ),
    "look_at_execution": "Look at code that was started in the background: its output so far, or its result.",
    "stop_execution": "Stop code that was started in the background, and get what it wrote. Variables are kept.",
}
_RESET = {"reset_session": "Start over: end the interpreter, and delete all variables and files."}


def describe_tools(
    container_type: ContainerType = ContainerType.PYTHON_LTS, *, state_kept: bool = True, figures_seen: bool = True
) -> Mapping[str, str]:
    """Return the description of each tool, by name.

    Args:
        container_type: the pool's container type.
        state_kept: whether a call finds the variables and files of the previous one.
        figures_seen: whether the model receives the pictures themselves.

    Raises:
        InvalidRequest: sandboxes of this type do not run code.
    """
    code = code_tool_of(container_type)
    return {
        code.name: code.describe(state_kept=state_kept, figures_seen=figures_seen),
        "list_files": "List the files in /mnt/data and the directories below it, with their sizes.",
        "read_file": f"Read a text file. The middle of a long file is left out: read that part with {code.means}.",
        "download_file": "Send the user a file that you saved, such as a report or a chart.",
        "upload_file": "Copy a file that the user provided into /mnt/data.",
        **{name: text.format(code=code.name) for name, text in _BACKGROUND.items()},
        **_RESET,
    }


TOOLS: Mapping[str, str] = MappingProxyType(describe_tools())
"""The description of each tool of a Python pool, by name."""


def offered_tools(
    container_type: ContainerType = ContainerType.PYTHON_LTS,
    *,
    session_per_call: bool = False,
    uploads: bool = False,
    background: bool = False,
    reset: bool = False,
) -> tuple[str, ...]:
    """Return the names of the tools that are offered with these options. The first is the tool that runs code.

    Args:
        container_type: the pool's container type.
        session_per_call: whether a session ends with its call, so that files are not kept.
        uploads: whether the application names a directory to upload from.
        background: whether code can be started, looked at and stopped.
        reset: whether a session can be emptied.

    Raises:
        InvalidRequest: sandboxes of this type do not run code, or two options cannot be combined.
    """
    names = tuple(describe_tools(container_type))
    if session_per_call:
        for option, value in (("uploads=", uploads), ("background=True", background), ("reset=True", reset)):
            if value:
                raise InvalidRequest(
                    f"session_per_call=True cannot be combined with {option}: sessions would not be kept."
                )
        return names[:1]
    left_out = {
        *(() if uploads else ("upload_file",)),
        *(() if background else _BACKGROUND),
        *(() if reset else _RESET),
    }
    return tuple(name for name in names if name not in left_out)
