"""Advice about the error that ended an execution, or about a command that failed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenroom.models import Execution, ExecutionError

_LONGEST = 10_000
"""Characters of each source that are searched."""

# A dotted name is a submodule of a package that exists: Python imports the package first.
_MISSING_MODULE = re.compile(r"No module named '([A-Za-z]\w*)'(?:$|\n)")
_MISSING_OPTIONAL = re.compile(
    r"""
    Missing[ ]optional[ ]dependency[ ]'([\w.-]{1,100})'
    | `Import[ ]([\w.-]{1,100})`[ ]failed
    | ^([\w.-]{1,100})[ ]not[ ]found,[ ]please[ ]install[ ]it
    | Unable[ ]to[ ]find[ ]a[ ]usable[ ]engine;[ ]tried[ ]using:[ ]'([\w.-]{1,100})'
    """,
    re.VERBOSE,
)

# A terminal ends the lines of a command with "\r\n", unlike text in the code and in files that it prints.
_FAILED_INSTALLATION = re.compile(
    r"^ERROR: No matching distribution found for ([A-Za-z0-9][\w.-]{0,99})[^\n]{0,200}\n", re.MULTILINE
)
_NO_INSTALLER = re.compile(
    r"^\S{1,200}(?: \d{1,6}:)?(?: line \d{1,6}:)? (?:No module named pip"
    r"|(?:pip3?|uv|conda|mamba|apt|apt-get): (?:command )?not found)\r?\n",
    re.MULTILINE,
)
_PIP_COMMAND = re.compile(r"\bpip3?['\", ]{1,5}install\b")
_COMMAND_LINE = re.compile(r"^[^\n]{0,1000}\r\n", re.MULTILINE)

_NO_NETWORK = re.compile(
    r"Temporary failure in name resolution|Name or service not known|No address associated with hostname"
    r"|Network is unreachable|nodename nor servname|[Ff]ailed to lookup address|EAI_AGAIN"
    r"|(?i:could not|couldn't|failed to|unable to) resolve |Temporary failure resolving"
)
_NETWORK_ERRORS = frozenset(
    (
        *("APIConnectionError", "ClientConnectionError", "ClientConnectorDNSError", "ClientConnectorError"),
        *("ConnectError", "ConnectTimeout", "ConnectTimeoutError", "ConnectionError", "HTTPError", "HfHubHTTPError"),
        *("LocalEntryNotFoundError", "MaxRetryError", "NameResolutionError", "NewConnectionError", "OSError"),
        *("ProxyError", "TimeoutException", "URLError", "gaierror"),
    )
)
_ALWAYS_OF_THE_NETWORK = frozenset(("APIConnectionError", "ConnectTimeout", "NameResolutionError", "gaierror"))

# From Node.js. A path is a file of the session.
_MISSING_NODE_PACKAGE = re.compile(r"^Cannot find (?:module|package) '((?:@[\w.-]{1,100}/)?[\w-][\w.-]{0,100})[/']")
_NPM_COMMAND = re.compile(r"^Command failed: (?:npm|npx|pnpm|yarn|corepack) ")
_NODE_WITHOUT_NETWORK = re.compile(r"\b(?:EAI_AGAIN|ENETUNREACH|ENOTFOUND)\b")

_NOT_UTF_8 = re.compile(r"'utf-8' codec can't decode byte 0x([0-9a-f]{2}) in position (\d+)")


def hints(execution: Execution) -> Iterator[str]:
    """Yield sentences that say what to do instead."""
    error = execution.error
    if error is not None and error.name == "ExitCode":  # from a shell command
        output = execution.stderr[-_LONGEST:] + "\n"
    else:
        output = "".join(_COMMAND_LINE.findall(execution.stderr[-_LONGEST:] + "\n" + execution.stdout[-_LONGEST:]))
    yield from filter(
        None,
        (
            _with_a_way(execution, _about_a_package(error) if error else ""),
            _with_a_way(execution, _about_a_node_package(error) if error else "", is_node=True),
            _about_node(error) if error else "",
            _with_a_way(execution, _about_an_installation(error, output)),
            _about_the_network(error, output),
            _about_an_encoding(error) if error else "",
            _about_memory(error) if error else "",
        ),
    )


def _about_a_package(error: ExecutionError) -> str:
    value = error.value[:_LONGEST]
    if error.name == "ModuleNotFoundError" and (missing := _MISSING_MODULE.search(value)):
        name = missing[1]
        if f"/{name}.py" in error.summary or f"/{name}/" in error.summary:
            return ""  # a file of the session
        return f"The package {name!r} is not installed here. Use another one."
    if error.name in {"ImportError", "ModuleNotFoundError"} and (missing := _MISSING_OPTIONAL.search(value)):
        name = missing[missing.lastindex or 0]
        return f"This call needs the package {name!r}, which is not installed here. Choose one that works without it."
    return ""


def _with_a_way(execution: Execution, hint: str, *, is_node: bool = False) -> str:
    """Return a hint about packages, and how the owner of the pool can add some."""
    if not hint or execution.packages_from is None:
        return hint
    given = "package-lock.json" if is_node else "requirements.txt"
    if execution.packages_from == "option":
        way = f'packages="{given}" when opening the pool'
    else:
        way = f"greenroom image build{' --container-type NodeLTS' if is_node else ''} --with {given}"
    return f"{hint} The application can add packages: {way}."


def _about_a_node_package(error: ExecutionError) -> str:
    value = error.value[:_LONGEST]
    if missing := _MISSING_NODE_PACKAGE.match(value):
        return f"The package {missing[1]!r} is not installed here. Use another one."
    if _NPM_COMMAND.match(value):
        return "Packages cannot be installed here. Use the installed ones."
    return ""


def _about_node(error: ExecutionError) -> str:
    value = error.value[:_LONGEST]
    is_of_fetch = error.name == "TypeError" and value == "fetch failed"
    if (is_of_fetch or error.name == "Error") and _NODE_WITHOUT_NETWORK.search(
        error.summary[:_LONGEST] if is_of_fetch else value
    ):
        return "This sandbox probably has no network access. Work with the files in /mnt/data."
    return ""


def _about_an_installation(error: ExecutionError | None, output: str) -> str:
    if failed := _FAILED_INSTALLATION.search(output):
        return f"The package {failed[1]!r} cannot be installed here. Use the installed packages."
    if _NO_INSTALLER.search(output) or (
        error and error.name == "CalledProcessError" and _PIP_COMMAND.search(error.value[:_LONGEST])
    ):
        return "Packages cannot be installed here. Use the installed ones."
    return ""


def _about_the_network(error: ExecutionError | None, output: str) -> str:
    is_of_the_network = error is not None and (
        error.name in _ALWAYS_OF_THE_NETWORK
        or (error.name in _NETWORK_ERRORS and _NO_NETWORK.search(error.value[:_LONGEST]))
    )
    if is_of_the_network or _NO_NETWORK.search(output):
        return "This sandbox probably has no network access. Work with the files in /mnt/data."
    return ""


def _about_an_encoding(error: ExecutionError) -> str:
    found = _NOT_UTF_8.search(error.value[:_LONGEST]) if error.name == "UnicodeDecodeError" else None
    match found and found.groups():
        case None:
            return ""
        case "fe" | "ff", "0":
            return "The file is not UTF-8. Try encoding='utf-16'."
        case "8b", "1":
            return "The file is compressed. Try compression='gzip', or gzip.open."
        case _:
            return "The file is not UTF-8. Try encoding='cp1252' and sep=None, engine='python'."


def _about_memory(error: ExecutionError) -> str:
    # Without a position, the process was killed, and the error says why.
    if error.name.lstrip("_") in {"ArrayMemoryError", "MemoryError"} and (error.summary or error.traceback):
        return "The session's memory is limited. Process the data in parts."
    return ""
