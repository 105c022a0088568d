"""The conformance suite of adapters, through Semantic Kernel's kernel."""

from collections.abc import Mapping
from typing import Any

import pytest
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_calling_utils import (
    kernel_function_metadata_to_function_call_format,
)
from semantic_kernel.exceptions import KernelInvokeException
from semantic_kernel.functions import KernelArguments

from greenroom import Session, SessionPool
from greenroom.testing import AdapterDriver, AdapterSuite, ToolDescription, ToolResult
from greenroom_semantic_kernel import DownloadText, GreenroomPlugin, execution_of


class SemanticKernel(AdapterDriver):
    """Invokes the functions of the plugin with a thread's id among the arguments."""

    shows_figures = False
    gives_each_call_a_session = True
    makes_tool_spans = True

    def __init__(self, **options: Any) -> None:
        self._plugin = GreenroomPlugin(**options)
        self._kernel = Kernel()
        self._functions = self._kernel.add_plugin(self._plugin)

    def tools(self) -> Mapping[str, ToolDescription]:
        schemas = {
            function.name: kernel_function_metadata_to_function_call_format(function.metadata)["function"]
            for function in self._functions
        }
        return {
            name: ToolDescription(schema["description"], schema["parameters"]["properties"])
            for name, schema in schemas.items()
        }

    async def call(self, conversation: str | None, tool: str, /, **arguments: str) -> ToolResult:
        given: dict[str, Any] = {**arguments} if conversation is None else {**arguments, "thread_id": conversation}
        try:
            result = await self._kernel.invoke(
                plugin_name="greenroom", function_name=tool, arguments=KernelArguments(**given)
            )
        except KernelInvokeException as error:
            raise (error.__cause__ or error) from None
        value: Any = result.value if result else None
        return ToolResult(
            text=str(value),
            failed=None,
            execution=execution_of(result),
            download=(value.download.mime, value.download.data) if isinstance(value, DownloadText) else None,
        )

    def session(self, conversation: str) -> Session:
        return self._plugin.session_for(conversation)


_LOGGED = {
    "test_no_program_is_logged": "Semantic Kernel logs the arguments of each call, unless its loggers are told not to"
}


class TestAwaited(AdapterSuite):
    driver = SemanticKernel
    known_differences = _LOGGED


class TestInSandboxes(AdapterSuite):
    driver = SemanticKernel
    known_differences = _LOGGED

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, sandboxes: SessionPool) -> SessionPool:
        return sandboxes
