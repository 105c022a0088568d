"""The conformance suite of adapters, for both ways of calling LlamaIndex's tools."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.tools import ToolOutput
from llama_index.core.workflow import (
    Context,
    StartEvent,
    StopEvent,
    Workflow,
    step,  # pyright: ignore[reportUnknownVariableType]
)

from greenroom import Session, SessionPool
from greenroom.testing import AdapterDriver, AdapterSuite, ToolDescription, ToolResult
from llama_index.tools.greenroom import CONVERSATION_KEY, Download, GreenroomToolSpec, execution_of


class Empty(Workflow):
    """Something to have a context of."""

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


def context_of(conversation: str | None) -> Context[Any] | None:
    """A workflow's context with the name of its conversation."""
    if conversation is None:
        return None
    ctx: Context[Any] = Context(Empty())
    with ThreadPoolExecutor(1) as executor:  # a loop runs in this thread
        executor.submit(asyncio.run, ctx.store.set(CONVERSATION_KEY, conversation)).result()
    return ctx


class LlamaIndex(AdapterDriver):
    """Awaits the tools, with the context of a workflow for a conversation."""

    def __init__(self, **options: Any) -> None:
        self._spec = GreenroomToolSpec(**options)
        self._tools = {tool.metadata.get_name(): tool for tool in self._spec.to_tool_list()}

    def tools(self) -> Mapping[str, ToolDescription]:
        schemas = [tool.metadata.to_openai_tool()["function"] for tool in self._tools.values()]
        return {
            schema["name"]: ToolDescription(schema["description"], schema["parameters"]["properties"])
            for schema in schemas
        }

    async def call(self, conversation: str | None, tool: str, /, **arguments: str) -> ToolResult:
        output = await self._invoke(tool, {**arguments, "ctx": context_of(conversation)})
        download = getattr(output.raw_output, "artifact", None)
        return ToolResult(
            text=output.content,
            failed=output.is_error,
            figures=tuple(
                (block.image_mimetype or "", block.resolve_image().read())
                for block in output.blocks
                if isinstance(block, ImageBlock)
            ),
            execution=execution_of(output),
            download=(download.mime, download.data) if isinstance(download, Download) else None,
        )

    async def _invoke(self, tool: str, arguments: dict[str, Any]) -> ToolOutput:
        return await self._tools[tool].acall(**arguments)

    def session(self, conversation: str) -> Session:
        return self._spec.session_for(context_of(conversation))


class BlockingLlamaIndex(LlamaIndex):
    """Calls the tools, each in a thread."""

    async def _invoke(self, tool: str, arguments: dict[str, Any]) -> ToolOutput:
        return await asyncio.to_thread(self._tools[tool].call, **arguments)


class TestAwaited(AdapterSuite):
    driver = LlamaIndex


class TestBlocking(AdapterSuite):
    driver = BlockingLlamaIndex
    not_run = AdapterSuite.not_for_blocking_calls


class TestInSandboxes(AdapterSuite):
    driver = LlamaIndex

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, sandboxes: SessionPool) -> SessionPool:
        return sandboxes
