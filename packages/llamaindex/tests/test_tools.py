"""The results of the tools for the model and the application."""

from __future__ import annotations

import base64
import json

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.tools.calling import acall_tool  # pyright: ignore[reportUnknownVariableType]

from greenroom import (
    ContainerType,
    Execution,
    ExecutionError,
    InvalidRequest,
    Output,
    SessionPool,
)
from greenroom.testing import ScriptedBackend, scripted_pool
from llama_index.tools.greenroom import GreenroomToolSpec, ModelBlocks, execution_of

PNG = b"\x89PNG\r\n\x1a\n and the rest of a picture"
SVG = b"<svg/>"
FAILURE = Execution(
    "1",
    "failed",
    stdout="before\n",
    outputs=(Output({"image/png": base64.b64encode(PNG).decode()}),),
    error=ExecutionError("NameError", "name 'x' is not defined", "NameError: name 'x' is not defined"),
)


def chart(**data: str) -> Execution:
    return Execution("1", "succeeded", outputs=(Output(data), Output({"text/plain": "no picture"})))


@pytest.fixture
def spec(pool: SessionPool) -> GreenroomToolSpec:
    return GreenroomToolSpec(session=pool.session("one-for-all"))


@pytest.fixture
def run_python(spec: GreenroomToolSpec) -> FunctionTool:
    return spec.to_tool_list()[0]


def test_the_model_reads_one_text_and_sees_the_figures(run_python: FunctionTool, backend: ScriptedBackend) -> None:
    backend.answers["plot()"] = chart(**{"image/png": base64.b64encode(PNG).decode()})
    text, image = run_python.call(code="plot()").blocks
    assert isinstance(text, TextBlock)
    assert "figure-1.png" in text.text
    assert isinstance(image, ImageBlock)
    assert image.image_mimetype == "image/png"
    assert image.resolve_image().read() == PNG


def test_the_model_sees_no_figure_in_a_format_that_makes_providers_refuse_the_conversation(
    run_python: FunctionTool, backend: ScriptedBackend
) -> None:
    backend.answers["plot()"] = chart(**{"image/svg+xml": SVG.decode()})
    output = run_python.call(code="plot()")
    assert [type(block) for block in output.blocks] == [TextBlock]
    execution = execution_of(output)
    assert execution is not None
    assert [(image.mime, image.data) for image in execution.images] == [("image/svg+xml", SVG)]


def test_figures_can_be_kept_from_the_model_and_still_reach_the_application(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    backend.answers["plot()"] = chart(**{"image/png": base64.b64encode(PNG).decode()})
    output = GreenroomToolSpec(session=pool.session(), images=False).to_tool_list()[0].call(code="plot()")
    assert [type(block) for block in output.blocks] == [TextBlock]
    assert "figure-1.png" in output.content
    execution = execution_of(output)
    assert execution is not None
    assert [(image.mime, image.data) for image in execution.images] == [("image/png", PNG)]


def test_a_failure_keeps_what_the_code_printed_and_drew_before_it(
    run_python: FunctionTool, backend: ScriptedBackend
) -> None:
    backend.answers["x"] = FAILURE
    output = run_python.call(code="x")
    assert output.is_error
    assert "before" in output.content
    assert [type(block) for block in output.blocks] == [TextBlock, ImageBlock]
    assert execution_of(output) == FAILURE


@pytest.mark.parametrize("code", ["", " \n", "```python\n```", "\ud800"])
async def test_invalid_code_is_a_retryable_tool_error(
    run_python: FunctionTool, backend: ScriptedBackend, code: str
) -> None:
    for output in (run_python.call(code=code), await run_python.acall(code=code)):
        assert output.is_error
        assert "code" in output.content
        assert isinstance(output.exception, InvalidRequest)
    assert not backend.runs


async def test_both_spellings_give_the_same(spec: GreenroomToolSpec, backend: ScriptedBackend) -> None:
    backend.answers["x"] = FAILURE
    blocks = spec.run_python("x")
    assert blocks == await spec.arun_python("x")
    assert blocks.artifact == FAILURE


async def test_another_name_for_the_parameter_is_understood(run_python: FunctionTool, backend: ScriptedBackend) -> None:
    output = await acall_tool(run_python, {"python_code": "1 + 1"})
    assert not output.is_error
    assert backend.codes == ["1 + 1"]


def test_an_application_can_describe_a_tool_in_its_own_words(spec: GreenroomToolSpec) -> None:
    own = ToolMetadata("Runs R. Just kidding.", name="calculator")
    (tool,) = spec.to_tool_list(["run_python"], {"run_python": own})
    assert tool.metadata is own


def test_an_application_can_add_its_own_tools(pool: SessionPool) -> None:
    class Extended(GreenroomToolSpec):
        def today(self) -> str:
            """Say which day it is."""
            return "Monday"

    (tool,) = Extended(pool).to_tool_list(["today"])
    assert tool.metadata.description == "Say which day it is."
    assert tool.call().content == "Monday"


def test_an_output_survives_the_serialization_of_a_workflow(run_python: FunctionTool, backend: ScriptedBackend) -> None:
    backend.answers["x"] = FAILURE
    output = run_python.call(code="x")
    again = ToolOutput(**json.loads(output.model_dump_json()))
    assert again.blocks == output.blocks
    assert again.is_error


def test_a_result_of_another_tool_has_no_execution(spec: GreenroomToolSpec) -> None:
    list_files = next(tool for tool in spec.to_tool_list() if tool.metadata.name == "list_files")
    assert execution_of(list_files.call()) is None
    assert execution_of(ToolOutput("other", "text", raw_input={}, raw_output={"artifact": 1})) is None


def test_a_call_of_the_function_itself_returns_the_blocks_of_a_message(spec: GreenroomToolSpec) -> None:
    blocks = spec.run_python("1")
    assert isinstance(blocks, ModelBlocks)
    assert ChatMessage(role="tool", blocks=blocks).content == "stdout:\nran"


def test_an_agent_that_writes_python_takes_a_python_pool_only() -> None:
    with scripted_pool(ScriptedBackend(ContainerType.NODE_LTS)) as pool:
        spec = GreenroomToolSpec(pool)
        with pytest.raises(InvalidRequest, match="must be run_python, not run_javascript"):
            spec.to_code_execute_fn()
