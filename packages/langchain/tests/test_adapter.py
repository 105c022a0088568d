"""The conformance suite of adapters, for both ways of calling LangChain's tools."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.utils.function_calling import convert_to_openai_tool

from greenroom import Session, SessionPool
from greenroom.testing import AdapterDriver, AdapterSuite, ToolDescription, ToolResult
from langchain_greenroom import GreenroomToolkit, execution_of


class LangChain(AdapterDriver):
    """Awaits the tools."""

    def __init__(self, **options: Any) -> None:
        self._toolkit = GreenroomToolkit(**options, images=True)
        self._tools = {tool.name: tool for tool in self._toolkit.get_tools()}

    def tools(self) -> Mapping[str, ToolDescription]:
        schemas = [convert_to_openai_tool(tool)["function"] for tool in self._tools.values()]
        return {
            schema["name"]: ToolDescription(schema["description"], schema["parameters"]["properties"])
            for schema in schemas
        }

    async def call(self, conversation: str | None, tool: str, /, **arguments: str) -> ToolResult:
        config: RunnableConfig = {} if conversation is None else {"configurable": {"thread_id": conversation}}
        call = {"type": "tool_call", "id": "1", "name": tool, "args": arguments}
        message = await self._invoke(tool, call, config)
        blocks: list[Any] = message.content_blocks
        file: Any = message.artifact if tool == "download_file" else None
        return ToolResult(
            text="".join(block["text"] for block in blocks if block["type"] == "text"),
            failed=message.status == "error",
            figures=tuple(
                (block["mime_type"], base64.b64decode(block["base64"])) for block in blocks if block["type"] == "image"
            ),
            execution=execution_of(message),
            download=(file["mime_type"], base64.b64decode(file["base64"])) if file else None,
        )

    async def _invoke(self, tool: str, call: Any, config: RunnableConfig) -> ToolMessage:
        return await self._tools[tool].ainvoke(call, config)

    def session(self, conversation: str) -> Session:
        return self._toolkit.session_for(conversation)


class BlockingLangChain(LangChain):
    """Calls the tools, each in a thread."""

    async def _invoke(self, tool: str, call: Any, config: RunnableConfig) -> ToolMessage:
        return await asyncio.to_thread(self._tools[tool].invoke, call, config)


class TestAwaited(AdapterSuite):
    driver = LangChain


class TestBlocking(AdapterSuite):
    driver = BlockingLangChain
    not_run = AdapterSuite.not_for_blocking_calls


class TestInSandboxes(AdapterSuite):
    driver = LangChain

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, sandboxes: SessionPool) -> SessionPool:
        return sandboxes
