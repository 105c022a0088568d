"""LangChain's own standard tests for tools."""

from collections.abc import Iterator

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from greenroom import SessionPool
from langchain_greenroom import GreenroomTool


class Standard:
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return GreenroomTool

    @property
    def tool_invoke_params_example(self) -> dict[str, str]:
        return {"code": "1 + 1"}


class TestUnit(Standard, ToolsUnitTests):
    _pool: SessionPool

    @pytest.fixture(autouse=True)
    def _scripted(self, pool: SessionPool) -> None:
        self._pool = pool

    @property
    def tool_constructor_params(self) -> dict[str, SessionPool]:
        return {"pool": self._pool}


class TestIntegration(Standard, ToolsIntegrationTests):
    @pytest.fixture
    def tool(self, sandboxes: SessionPool) -> Iterator[BaseTool]:
        with sandboxes.session() as session:
            yield GreenroomTool(session=session)
