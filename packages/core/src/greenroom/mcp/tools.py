"""The tools that clients see, as data: names, descriptions, parameters and schemas.

Azure's are `launchShell`, `launchPythonEnvironment`, `runShellCommandInRemoteEnvironment` and
`runPythonCodeInRemoteEnvironment`; a pool has those of its container type, as in Azure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from greenroom.adapters.descriptions import CODE, CODE_TOOLS, COMMAND, DIRECTORY, PATH, describe_tools
from greenroom.config.values import MAX_TIMEOUT
from greenroom.errors import InvalidRequest
from greenroom.mcp.protocol import Json
from greenroom.models import ContainerType
from greenroom.untrusted import brief

Kind = Literal["string", "number"]

# Agent Framework reserves an argument named `session`.
SESSION = "The session to use, from an earlier result."
NEW_SESSION = "The session to continue, from an earlier result. Without it, a new session starts."
_STARTS = "Without a session_id, a new session starts, and the result includes its id."
_LIFETIME = "Sessions end after a period without use."


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a tool."""

    name: str
    description: str
    kind: Kind = "string"
    required: bool = True
    values: tuple[str, ...] = ()
    """The possible values; empty for any."""

    @property
    def schema(self) -> Json:
        limits: Json = {"exclusiveMinimum": 0, "maximum": MAX_TIMEOUT} if self.kind == "number" else {}
        values = {"enum": list(self.values)} if self.values else {}
        return {"type": self.kind, "description": self.description, **limits, **values}

    def check(self, value: Json) -> None:
        """Raise `InvalidRequest` if a value has another type."""
        fits = isinstance(value, str) if self.kind == "string" else _is_number(value)
        if not fits:
            raise InvalidRequest(f"The argument {self.name!r} must be a {self.kind}, not {brief(value)}.")
        if self.values and value not in self.values:
            raise InvalidRequest(f"The argument {self.name!r} must be {' or '.join(self.values)}, not {brief(value)}.")


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, and the function of `calls` that implements it."""

    name: str
    title: str
    description: str
    does: str
    """The name of the function in `calls.CALLS`."""
    parameters: tuple[Parameter, ...]
    output: Json
    """The JSON schema of its structured result."""
    reads_only: bool = False
    destroys: bool = False
    idempotent: bool = False
    open_world: bool = False
    is_azures: bool = False
    source: str = ""
    """The parameter with the code or the command, if it has one."""

    @property
    def session(self) -> str:
        """The name of the parameter for the session."""
        return "environmentId" if self.is_azures else "session_id"

    @property
    def definition(self) -> Json:
        """The tool as in `tools/list`."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": {
                "type": "object",
                "properties": {parameter.name: parameter.schema for parameter in self.parameters},
                "required": [parameter.name for parameter in self.parameters if parameter.required],
                "additionalProperties": False,
            },
            "outputSchema": self.output,
            "annotations": {
                "title": self.title,
                "readOnlyHint": self.reads_only,
                "destructiveHint": self.destroys,
                "idempotentHint": self.idempotent,
                "openWorldHint": self.open_world,
            },
        }

    def checked(self, arguments: Mapping[str, Json]) -> Mapping[str, Json]:
        """Return the arguments that are not `null`.

        Raises:
            InvalidRequest: one is missing, unknown, or of another type.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        known = {parameter.name: parameter for parameter in self.parameters}
        if unknown := sorted(given.keys() - known.keys()):
            names = ", ".join(known) or "none"
            raise InvalidRequest(f"The arguments of {self.name} must be among {names}, not {', '.join(unknown):.200}.")
        for parameter in self.parameters:
            if parameter.name in given:
                parameter.check(given[parameter.name])
            elif parameter.required:
                raise InvalidRequest(f"The tool {self.name} must be called with the argument {parameter.name!r}.")
        return given


def _object(properties: Mapping[str, Json], *optional: str) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


_TEXT: Json = {"type": "string"}
_TEXT_OR_NONE: Json = {"type": ["string", "null"]}
_INTEGER: Json = {"type": "integer"}
_SESSION: Json = {"type": "string", "description": "Pass it as `session_id` to continue."}
_FILE = _object({"path": _TEXT, "size": _INTEGER, "modified": _TEXT, "uri": _TEXT})
_FILES: Json = {"type": "array", "items": _FILE}
_ERROR: Json = {**_object({"name": _TEXT, "value": _TEXT, "traceback": _TEXT}), "type": ["object", "null"]}
_EXECUTION = _object(
    {
        "session_id": _SESSION,
        "status": {"type": "string", "enum": ["succeeded", "failed", "timed_out", "cancelled"]},
        "stdout": _TEXT,
        "stderr": _TEXT,
        "result": _TEXT_OR_NONE,
        "error": _ERROR,
        "exit_code": {"type": ["integer", "null"]},
        "figures": _INTEGER,
        "files": _FILES,
        "files_omitted": _INTEGER,
        "duration": {"type": "number", "description": "Seconds."},
        "state_lost": {"type": "boolean", "description": "Whether the variables were lost; files are kept."},
        "session_restarted": _TEXT_OR_NONE,
        "truncated": {
            "type": "integer",
            "description": "Bytes of output dropped because they exceeded the pool's limit.",
        },
    }
)
_ENVIRONMENT = _object({"environmentId": _TEXT})
_AZURES_EXECUTION = _object(
    {
        "environmentId": _TEXT,
        "stdout": _TEXT,
        "stderr": _TEXT,
        "result": _TEXT_OR_NONE,
        "exitCode": {"type": ["integer", "null"]},
        "executionTimeInMilliseconds": _INTEGER,
    }
)

_TIMEOUT = Parameter("timeout", "The time limit in seconds.", "number", required=False)
_OPTIONAL_SESSION = Parameter("session_id", NEW_SESSION, required=False)
_REQUIRED_SESSION = Parameter("session_id", SESSION)
_ENVIRONMENT_ID = Parameter("environmentId", "The id that launchShell returned.")


def tools_of(container_type: ContainerType, *, lists_sessions: bool, azures: bool) -> Mapping[str, Tool]:
    """Return the tools of a pool, by name, in the order in which clients see them.

    Args:
        container_type: the pool's container type.
        lists_sessions: whether the caller can list its sessions.
        azures: whether to include Azure's tools.

    Raises:
        InvalidRequest: sandboxes of this type cannot run code.
    """
    if container_type not in CODE_TOOLS:
        raise InvalidRequest(
            f"The pool must be of type {', '.join(CODE_TOOLS)} to have MCP tools, not {container_type}: its containers "
            "define their own HTTP interface."
        )
    listing = _LISTING if lists_sessions else ()
    tools = (*_own(container_type), *listing, *(_azures(container_type) if azures else ()))
    return {tool.name: tool for tool in tools}


def _own(container_type: ContainerType) -> tuple[Tool, ...]:
    descriptions = describe_tools(container_type)
    code, shell = CODE_TOOLS[container_type], CODE_TOOLS[ContainerType.SHELL]
    running = [code, shell] if code is not shell else [shell]
    return (
        *(
            Tool(
                name=each.name,
                title={"run_python": "Run Python", "run_javascript": "Run JavaScript"}.get(each.name, "Run a command"),
                description=f"{each.describe()} {_STARTS} {_LIFETIME}",
                does="run_command" if each is shell else "run_code",
                parameters=(
                    Parameter(each.parameter, each.parameter_description),
                    _OPTIONAL_SESSION,
                    _TIMEOUT,
                ),
                output=_EXECUTION,
                source=each.parameter,
                destroys=True,
                open_world=True,
            )
            for each in running
        ),
        Tool(
            name="list_files",
            title="List files",
            description=descriptions["list_files"],
            does="list_files",
            parameters=(_REQUIRED_SESSION, Parameter("directory", DIRECTORY, required=False)),
            output=_object({"session_id": _SESSION, "files": _FILES}),
            reads_only=True,
            idempotent=True,
        ),
        Tool(
            name="read_file",
            title="Read a file",
            description=descriptions["read_file"],
            does="read_file",
            parameters=(_REQUIRED_SESSION, Parameter("path", PATH)),
            output=_object({"session_id": _SESSION, "file": _FILE, "text": _TEXT}),
            reads_only=True,
            idempotent=True,
        ),
        Tool(
            name="write_file",
            title="Write a file",
            description=f"Write a file in /mnt/data, replacing any file of that name. {_STARTS}",
            does="write_file",
            parameters=(
                Parameter("path", PATH),
                Parameter("content", "The complete content."),
                Parameter(
                    "encoding",
                    "The encoding of the content: text (the default), or base64 for binary files.",
                    required=False,
                    values=("text", "base64"),
                ),
                _OPTIONAL_SESSION,
            ),
            output=_object({"session_id": _SESSION, "file": _FILE}),
            destroys=True,
            idempotent=True,
        ),
        Tool(
            name="delete_file",
            title="Delete a file",
            description="Delete a file in /mnt/data.",
            does="delete_file",
            parameters=(_REQUIRED_SESSION, Parameter("path", PATH)),
            output=_object({"session_id": _SESSION}),
            destroys=True,
            idempotent=True,
        ),
        Tool(
            name="reset_session",
            title="Reset a session",
            description="Reset a session: its variables, files and processes are removed, and it can be used again.",
            does="reset_session",
            parameters=(_REQUIRED_SESSION,),
            output=_object({"session_id": _SESSION}),
            destroys=True,
            idempotent=True,
        ),
        Tool(
            name="end_session",
            title="End a session",
            description="End a session that is no longer needed; its variables and files are deleted.",
            does="end_session",
            parameters=(_REQUIRED_SESSION,),
            output=_object({"session_id": _TEXT}),
            destroys=True,
            idempotent=True,
        ),
    )


_LISTING = (
    Tool(
        name="list_sessions",
        title="List sessions",
        description="List your sessions that have started and not ended.",
        does="list_sessions",
        parameters=(),
        output=_object(
            {
                "sessions": {
                    "type": "array",
                    "items": _object(
                        {"session_id": _TEXT, "created": _TEXT, "last_used": _TEXT, "expires": _TEXT_OR_NONE}
                    ),
                }
            }
        ),
        reads_only=True,
        idempotent=True,
    ),
)


def _azures(container_type: ContainerType) -> tuple[Tool, ...]:
    """Azure's tools. Azure documents two names for the one that launches; both exist."""
    launch = Tool(
        name="launchShell",
        title="Launch an environment",
        description="Create a new environment and return its environmentId. It starts with its first command.",
        does="launch",
        parameters=(),
        output=_ENVIRONMENT,
        is_azures=True,
    )
    shell = Tool(
        name="runShellCommandInRemoteEnvironment",
        title="Run a shell command in an environment",
        description="Run a shell command in an environment that launchShell created.",
        does="run_command",
        parameters=(_ENVIRONMENT_ID, Parameter("shellCommand", COMMAND)),
        output=_AZURES_EXECUTION,
        source="shellCommand",
        destroys=True,
        open_world=True,
        is_azures=True,
    )
    if container_type is not ContainerType.PYTHON_LTS:
        return (launch, shell)
    python = Tool(
        name="runPythonCodeInRemoteEnvironment",
        title="Run Python code in an environment",
        description="Run Python code in an environment that launchShell created.",
        does="run_code",
        parameters=(_ENVIRONMENT_ID, Parameter("pythonCode", CODE)),
        output=_AZURES_EXECUTION,
        source="pythonCode",
        destroys=True,
        open_world=True,
        is_azures=True,
    )
    named_otherwise = Tool(
        name="launchPythonEnvironment",
        title="Launch a Python environment",
        description="Create a new Python environment and return its environmentId, as launchShell does.",
        does="launch",
        parameters=(),
        output=_ENVIRONMENT,
        is_azures=True,
    )
    return (launch, named_otherwise, python, shell)
