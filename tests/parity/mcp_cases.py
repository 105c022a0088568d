"""What Azure's MCP endpoint does, as its tutorials show it. It has no api-version; it is of previews of ARM."""

from __future__ import annotations

from typing import Any

import httpx

from .azure import Azure, Evidence, case
from .cases import CASES

__all__ = ["CASES"]

SECTION = "MCP"
CALL = "`POST mcp`, `tools/call`"
IN_PREVIEW: list[Evidence | None] = [None, None, None, "documented", "inferred"]


def ask(azure: Azure, method: str, **params: Any) -> Any:
    """Send a request as Azure's tutorials do, with curl: the result."""
    message = {"jsonrpc": "2.0", "id": "1", "method": method, **({"params": params} if params else {})}
    response = azure.client.post("mcp", json=message, headers={"Accept": "*/*"})
    assert response.status_code == 200, response.text
    return response.json()["result"]


def use(azure: Azure, tool: str, **arguments: str) -> Any:
    return ask(azure, "tools/call", name=tool, arguments=arguments)["structuredContent"]


@case(SECTION, "`POST mcp`, `initialize`", IN_PREVIEW)
def initialize_needs_no_params(azure: Azure) -> None:
    """`initialize` without params returns 2025-03-26 and the tools' capabilities `call` and `list`."""
    answer = ask(azure, "initialize")
    assert answer["protocolVersion"] == "2025-03-26"
    assert answer["capabilities"]["tools"] == {"call": True, "list": True}


@case(SECTION, "`POST mcp`, `initialize`", IN_PREVIEW, differs="the server has its own name, `greenroom`")
def the_server_has_a_name(azure: Azure) -> None:
    """The server's name is `Microsoft Container Apps MCP Server`."""
    assert ask(azure, "initialize")["serverInfo"]["name"] == "Microsoft Container Apps MCP Server"


@case(SECTION, CALL, IN_PREVIEW)
def an_environment_runs_python(azure: Azure) -> None:
    """`launchShell` returns an `environmentId`, in which `runPythonCodeInRemoteEnvironment` runs code."""
    environment = use(azure, "launchShell")["environmentId"]
    ran = use(azure, "runPythonCodeInRemoteEnvironment", environmentId=environment, pythonCode="print('Hello')")
    assert ran["stdout"] == "Hello\n"


@case(SECTION, CALL, IN_PREVIEW)
def an_environment_runs_commands(azure: Azure) -> None:
    """`runShellCommandInRemoteEnvironment` runs a command and returns `stdout`, in Python pools too."""
    environment = use(azure, "launchShell")["environmentId"]
    ran = use(azure, "runShellCommandInRemoteEnvironment", environmentId=environment, shellCommand="echo Hello")
    assert ran["stdout"] == "Hello\n"


@case(SECTION, CALL, IN_PREVIEW)
def the_former_name_launches_too(azure: Azure) -> None:
    """`launchPythonEnvironment`, from an earlier tutorial, does the same as `launchShell`."""
    assert use(azure, "launchPythonEnvironment")["environmentId"]


@case(SECTION, "`POST mcp`", IN_PREVIEW)
def a_key_is_needed(azure: Azure) -> None:
    """The key is in the header `x-ms-apikey`."""
    message = {"jsonrpc": "2.0", "id": "1", "method": "tools/list"}
    key = azure.client.headers["Authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=azure.client.base_url, timeout=60) as stranger:
        assert stranger.post("mcp", json=message, headers={"x-ms-apikey": "another"}).status_code == 401
        assert stranger.post("mcp", json=message, headers={"x-ms-apikey": key}).status_code == 200
