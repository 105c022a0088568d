"""The official SDK, of version 2: over both transports, without and with a handshake."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
import pytest
from conftest import COMMAND
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, LoggingMessageNotificationParams, ResourceLink, TextContent
from serving import Server

FIGURE = "import matplotlib.pyplot as plt; _ = plt.plot([1, 3, 2]); plt.show()"
ENDLESS = "print('begun', flush=True)\nwhile True: pass"

pytestmark = pytest.mark.parametrize(
    ("transport", "mode", "version"),
    [
        ("http", "auto", "2026-07-28"),
        ("http", "legacy", "2025-11-25"),
        ("stdio", "auto", "2026-07-28"),
        ("stdio", "legacy", "2025-11-25"),
    ],
)


@asynccontextmanager
async def connected(server: Server, transport: str, mode: str, **options: Any) -> AsyncGenerator[Client]:
    if transport == "stdio":
        command = StdioServerParameters(command=COMMAND[0], args=list(COMMAND[1:]))
        async with Client(command, mode=mode, log_level="info", **options) as client:
            yield client
        return
    headers = {"Authorization": f"Bearer {server.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=100) as http:
        streams = streamable_http_client(f"{server.endpoint}/mcp", http_client=http)
        async with Client(streams, mode=mode, log_level="info", **options) as client:
            yield client


def fields(result: CallToolResult) -> dict[str, Any]:
    """The structured result, which the client has checked against its schema."""
    return cast("dict[str, Any]", result.structured_content)


async def test_everything_that_a_client_needs(server: Server, transport: str, mode: str, version: str) -> None:
    logged: list[LoggingMessageNotificationParams] = []

    async def log(message: LoggingMessageNotificationParams) -> None:
        logged.append(message)

    async with connected(server, transport, mode, logging_callback=log) as client:
        assert client.protocol_version == version
        assert client.server_info is not None
        assert client.server_info.name == "greenroom"
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"run_python", "run_shell", "read_file", "list_sessions"} <= tools.keys()
        assert ("launchShell" in tools) == (transport == "http")

        # State over calls.
        first = await client.call_tool("run_python", {"code": "x = 20"})
        session = fields(first)["session_id"]
        assert isinstance(first.content[0], TextContent)
        assert session in first.content[0].text
        second = await client.call_tool("run_python", {"code": "print('out'); x + 1", "session_id": session})
        assert (fields(second)["result"], fields(second)["stdout"]) == ("21", "out\n")
        assert "".join(str(message.data) for message in logged if message.logger == "stdout") == "out\n"

        # A figure is an image.
        shown = await client.call_tool("run_python", {"code": FIGURE, "session_id": session})
        (image,) = (part for part in shown.content if isinstance(part, ImageContent))
        assert image.mime_type == "image/png"
        assert base64.b64decode(image.data).startswith(b"\x89PNG")

        # A file is a resource.
        code = "open('/mnt/data/größe 1.csv', 'w').write('a,b')"
        written = await client.call_tool("run_python", {"code": code, "session_id": session})
        (link,) = (part for part in written.content if isinstance(part, ResourceLink))
        (content,) = (await client.read_resource(link.uri)).contents
        assert getattr(content, "text", None) == "a,b"
        assert link.uri in [each.uri for each in (await client.list_resources()).resources]
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template.startswith("greenroom://sessions/{session}/")
        with pytest.raises(MCPError):
            await client.read_resource(f"{link.uri}.missing")

        # The code's error is a result; a handle of nobody is one, too.
        failed = await client.call_tool("run_python", {"code": "1 / 0", "session_id": session})
        assert (failed.is_error, fields(failed)["error"]["name"]) == (True, "ZeroDivisionError")
        assert (await client.call_tool("run_python", {"code": "1", "session_id": "another"})).is_error

        ended = await client.call_tool("end_session", {"session_id": session})
        assert not ended.is_error
        assert (await client.call_tool("list_files", {"session_id": session})).is_error


async def test_progress_comes_before_the_end_and_cancelling_ends_the_code(
    server: Server, transport: str, mode: str, version: str
) -> None:
    del version
    begun = asyncio.Event()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        assert progress >= 0
        assert total is None
        if message == "begun":
            begun.set()

    async with connected(server, transport, mode) as client:
        session = fields(await client.call_tool("run_python", {"code": "x = 20"}))["session_id"]
        arguments = {"code": ENDLESS, "session_id": session}
        running = asyncio.create_task(client.call_tool("run_python", arguments, progress_callback=progressed))
        await begun.wait()
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # Executions of a session run one after the other, so this one tells that the other has ended.
        async with asyncio.timeout(60):
            after = await client.call_tool("run_python", {"code": "x + 1", "session_id": session})
        assert fields(after)["result"] == "21"
        await client.call_tool("end_session", {"session_id": session})
