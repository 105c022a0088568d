"""Version 1 of MCP's official SDK, and the clients that LangChain and LlamaIndex build on it."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from langchain_mcp_adapters.client import MultiServerMCPClient
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec
from mcp import ClientSession, McpError, StdioServerParameters, stdio_client, types
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl
from serving import GREENROOM, POOLS, Server

FIGURE = "import matplotlib.pyplot as plt; _ = plt.plot([1, 3, 2]); plt.show()"
ENDLESS = "print('begun', flush=True)\nwhile True: pass"


@pytest.fixture(scope="session", params=["bubblewrap"])
def engine(request: pytest.FixtureRequest) -> str:
    """One engine: the others are the same to a client."""
    return request.param


@asynccontextmanager
async def connected(server: Server, transport: str, **options: Any) -> AsyncGenerator[ClientSession]:
    if transport == "stdio":
        command = StdioServerParameters(command=str(GREENROOM), args=["mcp", "--pool", POOLS["bubblewrap"]])
        async with (
            stdio_client(command, errlog=sys.__stderr__ or sys.stderr) as (read, write),
            ClientSession(read, write, **options) as session,
        ):
            yield session
        return
    async with (
        httpx.AsyncClient(headers={"x-ms-apikey": server.key}, timeout=100) as http,
        streamable_http_client(f"{server.endpoint}/mcp", http_client=http) as (read, write, _),
        ClientSession(read, write, **options) as session,
    ):
        yield session


def fields(result: types.CallToolResult) -> dict[str, Any]:
    assert result.structuredContent is not None
    return result.structuredContent


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_the_sdk_has_state_figures_files_progress_and_cancellation(server: Server, transport: str) -> None:
    logged: list[Any] = []
    begun = asyncio.Event()

    async def log(message: types.LoggingMessageNotificationParams) -> None:
        logged.append(message.data)

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        if message == "begun":
            begun.set()

    async with connected(server, transport, logging_callback=log) as client:
        assert (await client.initialize()).protocolVersion == "2025-11-25"
        await client.set_logging_level("info")
        await client.send_ping()
        assert "run_python" in {tool.name for tool in (await client.list_tools()).tools}
        first = await client.call_tool("run_python", {"code": "x = 20; open('/mnt/data/kept.txt', 'w').write('kept')"})
        session, (file,) = fields(first)["session_id"], fields(first)["files"]
        content = (await client.read_resource(AnyUrl(file["uri"]))).contents[0]
        assert isinstance(content, types.TextResourceContents)
        assert content.text == "kept"
        assert file["uri"] in {str(each.uri) for each in (await client.list_resources()).resources}
        with pytest.raises(McpError):
            await client.read_resource(AnyUrl(f"{file['uri']}.missing"))
        shown = await client.call_tool("run_python", {"code": FIGURE, "session_id": session})
        (image,) = (part for part in shown.content if isinstance(part, types.ImageContent))
        assert base64.b64decode(image.data).startswith(b"\x89PNG")

        arguments = {"code": ENDLESS, "session_id": session}
        running = asyncio.create_task(client.call_tool("run_python", arguments, progress_callback=progressed))
        await begun.wait()
        assert not running.done()
        assert "".join(logged).startswith("begun")
        # This version does not do it by itself; the number is that of the last request.
        number = vars(client)["_request_id"] - 1
        params = types.CancelledNotificationParams(requestId=number)
        await client.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
        async with asyncio.timeout(60):
            after = await client.call_tool("run_python", {"code": "x + 1", "session_id": session})
        assert fields(after)["result"] == "21"
        running.cancel()
        await client.call_tool("end_session", {"session_id": session})


async def test_langchain_runs_code_and_sees_figures(server: Server) -> None:
    url, headers = f"{server.endpoint}/mcp", {"Authorization": f"Bearer {server.key}"}
    client = MultiServerMCPClient({"greenroom": {"transport": "streamable_http", "url": url, "headers": headers}})
    tools = {tool.name: tool for tool in await client.get_tools()}
    run_python = tools["run_python"]

    async def run(**arguments: str) -> Any:
        return await run_python.ainvoke({"args": arguments, "id": "1", "name": "run_python", "type": "tool_call"})

    first = await run(code="x = 20")  # each call has a connection of its own
    session = first.artifact["structured_content"]["session_id"]
    second = await run(code="x + 1", session_id=session)
    assert second.artifact["structured_content"]["result"] == "21"
    shown = await run(code=FIGURE, session_id=session)
    assert [part["type"] for part in shown.content] == ["text", "image"]
    await tools["end_session"].ainvoke({"session_id": session})


async def test_llamaindex_runs_code(server: Server) -> None:
    client = BasicMCPClient(f"{server.endpoint}/mcp", headers={"Authorization": f"Bearer {server.key}"})
    tools = {tool.metadata.name: tool for tool in await McpToolSpec(client=client).to_tool_list_async()}
    first = await tools["run_python"].acall(code="x = 20")
    session = first.raw_output.structuredContent["session_id"]
    second = await tools["run_python"].acall(code="x + 1", session_id=session)
    assert json.loads(second.raw_output.structuredContent["result"]) == 21
    await tools["end_session"].acall(session_id=session)
