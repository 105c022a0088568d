"""Faults that integrations of Azure's sessions have, by name; this one has none of them.

The two about tokens and about identifiers in URLs belong to the client of Azure, which this package is not.
"""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.function_calling_utils import (
    kernel_function_metadata_to_function_call_format,
)
from semantic_kernel.exceptions import KernelInvokeException

from greenroom import PoolFull, SessionPool
from greenroom.testing import ScriptedBackend
from greenroom_semantic_kernel import GreenroomPlugin

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 100

MakeAgent = Callable[..., ChatCompletionAgent]


@pytest.fixture
def plugin(pool: SessionPool) -> GreenroomPlugin:
    return GreenroomPlugin(session=pool.session())


async def test_a_full_pool_whose_advice_is_dropped(plugin: GreenroomPlugin, backend: ScriptedBackend) -> None:
    backend.answer = PoolFull("All 5 sessions are taken.", sessions=5, retry_after=30)
    kernel = Kernel()
    kernel.add_plugin(plugin)
    with pytest.raises(KernelInvokeException) as raised:
        await kernel.invoke(plugin_name="greenroom", function_name="run_python", code="1")
    assert isinstance(raised.value.__cause__, PoolFull)
    assert raised.value.__cause__.retry_after == 30


@pytest.mark.parametrize("options", [{"uploads": "."}, {"session_per_call": True}], ids=["all", "session_per_call"])
def test_a_schema_that_leaks_internal_parameters(pool: SessionPool, options: dict[str, Any]) -> None:
    plugin = GreenroomPlugin(pool=pool, **options)
    functions = Kernel().add_plugin(plugin)
    schemas = [kernel_function_metadata_to_function_call_format(function.metadata) for function in functions]
    parameters = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    code = parameters["greenroom-run_python"]
    assert code["required"] == list(code["properties"]) == ["code"]
    assert code["properties"]["code"]["type"] == "string"
    assert {name for each in parameters.values() for name in each["properties"]} <= {
        "code",
        "directory",
        "path",
        "name",
    }


async def test_whole_programs_in_the_log(
    plugin: GreenroomPlugin, agent_with: MakeAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # Semantic Kernel logs the arguments of each call itself. These are the loggers that the documentation names.
    for name in ("semantic_kernel.kernel", "semantic_kernel.functions.kernel_function"):
        caplog.set_level(logging.WARNING, name)
    await agent_with(plugin).get_response("password = 'hunter2'")
    assert "hunter2" not in caplog.text
