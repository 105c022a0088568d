"""FastMCP's client and Agent Framework's tool."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from agent_framework import Content, MCPStdioTool, MCPStreamableHTTPTool
from conftest import COMMAND
from fastmcp import Client
from fastmcp.client.transports import ClientTransport, StdioTransport, StreamableHttpTransport
from mcp_types import ImageContent, TextResourceContents
from serving import Server
from test_sdk import ENDLESS, FIGURE


def transport_of(server: Server, kind: str) -> ClientTransport:
    if kind == "stdio":
        return StdioTransport(COMMAND[0], list(COMMAND[1:]), keep_alive=False)
    return StreamableHttpTransport(f"{server.endpoint}/mcp", headers={"x-ms-apikey": server.key})


@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_fastmcp_has_state_figures_files_progress_and_cancellation(server: Server, kind: str) -> None:
    begun = asyncio.Event()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        if message == "begun":
            begun.set()

    async with Client(transport_of(server, kind)) as client:
        first = await client.call_tool("run_python", {"code": "x = 20; open('/mnt/data/kept.txt', 'w').write('kept')"})
        assert first.structured_content is not None
        session, (file,) = first.structured_content["session_id"], first.structured_content["files"]
        (content,) = await client.read_resource(file["uri"])
        assert isinstance(content, TextResourceContents)
        assert content.text == "kept"
        shown = await client.call_tool("run_python", {"code": FIGURE, "session_id": session})
        (image,) = (part for part in shown.content if isinstance(part, ImageContent))
        assert base64.b64decode(image.data).startswith(b"\x89PNG")
        arguments = {"code": ENDLESS, "session_id": session}
        running = asyncio.create_task(client.call_tool("run_python", arguments, progress_handler=progressed))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(60):
            after = await client.call_tool("run_python", {"code": "x + 1", "session_id": session})
        assert after.structured_content is not None
        assert after.structured_content["result"] == "21"
        await client.call_tool("end_session", {"session_id": session})


@asynccontextmanager
async def agent_tool(server: Server, kind: str) -> AsyncGenerator[MCPStreamableHTTPTool | MCPStdioTool]:
    """By default, this framework shows its model the structured result alone, and so no figure."""
    if kind == "stdio":
        tool = MCPStdioTool(
            "greenroom",
            command=COMMAND[0],
            args=list(COMMAND[1:]),
            load_prompts=False,
            tool_result_content="content_first",
        )
    else:
        tool = MCPStreamableHTTPTool(
            "greenroom",
            url=f"{server.endpoint}/mcp",
            static_headers={"Authorization": f"Bearer {server.key}"},
            load_prompts=False,
            tool_result_content="content_first",
        )
    async with tool:
        yield tool


@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_agent_framework_runs_code_and_sees_figures(server: Server, kind: str) -> None:
    async with agent_tool(server, kind) as tool:
        assert {"run_python", "run_shell"} <= {function.name for function in tool.functions}
        first = re.match(r"New session_id: (\S+)", text_of(await tool.call_tool("run_python", code="x = 20")))
        assert first is not None
        session = first[1]
        assert "21" in text_of(await tool.call_tool("run_python", code="x + 1", session_id=session))
        shown = await tool.call_tool("run_python", code=FIGURE, session_id=session)
        assert isinstance(shown, list)
        assert "image/png" in [part.media_type for part in shown if part.type == "data"]
        await tool.call_tool("end_session", session_id=session)


def text_of(result: str | list[Content]) -> str:
    return result if isinstance(result, str) else "".join(part.text or "" for part in result if part.type == "text")
