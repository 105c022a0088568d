"""The conformance suite of adapters, through the framework's tools."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
from agent_framework import AgentSession, Content, FunctionInvocationContext, MiddlewareFailure

from greenroom import Session, SessionPool
from greenroom.testing import AdapterDriver, AdapterSuite, ToolDescription, ToolResult
from greenroom_agent_framework import GreenroomTools, downloads, execution_of


class AgentFramework(AdapterDriver):
    """Invokes the tools with a session in the context, as an agent's run does."""

    makes_tool_spans = True

    def __init__(self, **options: Any) -> None:
        self._collection = GreenroomTools(**options)
        self._tools = {tool.name: tool for tool in self._collection}

    def tools(self) -> Mapping[str, ToolDescription]:
        schemas = [tool.to_json_schema_spec()["function"] for tool in self._tools.values()]
        return {
            schema["name"]: ToolDescription(schema["description"], schema["parameters"]["properties"])
            for schema in schemas
        }

    async def call(self, conversation: str | None, tool: str, /, **arguments: str) -> ToolResult:
        # To the framework an empty name is none: it would make up another.
        session = AgentSession(session_id=conversation) if conversation else None
        context = FunctionInvocationContext(self._tools[tool], arguments, session=session)
        try:
            contents = await self._tools[tool].invoke(arguments=arguments, context=context)
        except MiddlewareFailure as failure:
            raise (failure.__cause__ or failure) from None
        files = downloads(contents)
        return ToolResult(
            text="".join(content.text or "" for content in contents if content.type == "text"),
            failed=None,
            figures=tuple(_decoded(content) for content in contents if content.type == "data"),
            execution=execution_of(contents),
            download=(files[0].mime, files[0].data) if files else None,
        )

    def session(self, conversation: str) -> Session:
        return self._collection.session_for(conversation)


def _decoded(content: Content) -> tuple[str, bytes]:
    return str(content.media_type), base64.b64decode(str(content.uri).partition(",")[2])


class TestAwaited(AdapterSuite):
    driver = AgentFramework


class TestInSandboxes(AdapterSuite):
    driver = AgentFramework

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, sandboxes: SessionPool) -> SessionPool:
        return sandboxes
