"""The results of a call for the model, a filter and the application."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (the arguments and filters of a kernel are partly untyped)

import base64
import copy
import pickle
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
from semantic_kernel import Kernel
from semantic_kernel.contents import FunctionCallContent, FunctionResultContent
from semantic_kernel.exceptions import KernelInvokeException
from semantic_kernel.filters import FilterTypes, FunctionInvocationContext
from semantic_kernel.functions import FunctionResult, KernelArguments, KernelPlugin

from greenroom import (
    EngineUnavailable,
    Execution,
    ExecutionError,
    Output,
    PoolClosed,
    PoolFull,
    SessionPool,
    StreamText,
)
from greenroom.testing import ENDLESS_CODE, ScriptedBackend, wait_until
from greenroom_semantic_kernel import (
    DownloadText,
    ExecutionText,
    GreenroomPlugin,
    execution_of,
    executions,
    image_contents,
)

Next: TypeAlias = Callable[[FunctionInvocationContext], Awaitable[None]]

PIXEL = b"\x89PNG\r\n\x1a\n pixel"
SVG = "<svg/>"
FIGURES = Execution(
    id="1",
    status="succeeded",
    stdout="drawn\n",
    outputs=(
        Output({"image/png": base64.b64encode(PIXEL).decode(), "text/plain": "<Figure>"}),
        Output({"image/svg+xml": SVG, "text/plain": "<Drawing>"}),
    ),
)
FAILED = Execution(id="1", status="failed", error=ExecutionError("NameError", "name 'x' is not defined"))


def text_of(execution: Execution) -> ExecutionText:
    return ExecutionText.of(execution.text_for_model(), execution)


@pytest.fixture
def plugin(pool: SessionPool) -> GreenroomPlugin:
    return GreenroomPlugin(session=pool.session())


@pytest.fixture
def kernel(plugin: GreenroomPlugin) -> Kernel:
    kernel = Kernel()
    kernel.add_plugin(plugin)
    return kernel


async def run(kernel: Kernel, code: str) -> FunctionResult:
    result = await kernel.invoke(plugin_name="greenroom", function_name="run_python", code=code)
    assert result is not None
    return result


async def test_a_result_brings_the_whole_execution(kernel: Kernel, backend: ScriptedBackend) -> None:
    backend.answer = FIGURES
    text = (await run(kernel, "draw()")).value
    assert isinstance(text, ExecutionText)
    assert [(image.mime, image.data) for image in text.execution.images] == [
        ("image/png", PIXEL),
        ("image/svg+xml", SVG.encode()),
    ]


def test_a_result_outlives_copying_and_pickling() -> None:
    text = text_of(FIGURES)
    for duplicate in (copy.copy(text), copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert (duplicate, duplicate.execution) == (text, FIGURES)


@pytest.mark.parametrize(
    "error",
    [
        PoolFull("All 2 sessions are taken.", sessions=2, retry_after=9),
        EngineUnavailable("Install bubblewrap."),
        PoolClosed("Closed."),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_that_are_not_retryable_are_raised(
    kernel: Kernel, backend: ScriptedBackend, error: Exception
) -> None:
    backend.answer = error
    with pytest.raises(KernelInvokeException) as raised:
        await run(kernel, "1")
    assert raised.value.__cause__ is error


async def test_filters_see_arguments_and_results(kernel: Kernel, backend: ScriptedBackend) -> None:
    backend.answer = FIGURES
    seen: list[tuple[str, Execution]] = []

    async def watch(context: FunctionInvocationContext, next: Next) -> None:  # noqa: A002  the kernel's name
        await next(context)
        assert context.result is not None
        seen.append((context.arguments["code"], context.result.value.execution))

    kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, watch)
    await run(kernel, "draw()")
    assert seen == [("draw()", FIGURES)]


async def test_filters_can_change_the_code(kernel: Kernel, backend: ScriptedBackend) -> None:
    async def replace(context: FunctionInvocationContext, next: Next) -> None:  # noqa: A002  as above
        context.arguments["code"] = "print(2)"
        await next(context)

    kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, replace)
    await run(kernel, "print(1)")
    assert backend.codes == ["print(2)"]


def test_figures_become_image_content_where_the_application_asks() -> None:
    contents = image_contents(FIGURES)
    assert [(content.mime_type, content.data) for content in contents] == [("image/png", PIXEL)]
    assert str(contents[0]) == "data:image/png;base64," + base64.b64encode(PIXEL).decode()


def test_executions_are_found_in_messages() -> None:
    request = FunctionCallContent(id="1", name="greenroom-run_python", arguments="{}")
    results = [
        FunctionResultContent.from_function_call_content_and_result(request, value)
        for value in (
            text_of(FAILED),
            "the text of another function",
            text_of(FIGURES),
        )
    ]
    assert executions(result.to_chat_message_content() for result in results) == [FAILED, FIGURES]
    assert [execution_of(result) for result in results] == [FAILED, None, FIGURES]


async def test_on_output_gets_output_while_code_runs_with_the_arguments_of_its_invocation(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    backend.answer = Execution(id="1", status="succeeded", stdout="one\ntwo\n")
    told: list[tuple[object, str]] = []

    async def tell(output: StreamText | Output, arguments: KernelArguments) -> None:
        assert isinstance(output, StreamText)
        told.append((arguments["request"], output.text))

    kernel = Kernel()
    kernel.add_plugin(GreenroomPlugin(session=pool.session(), on_output=tell))
    result = await kernel.invoke(plugin_name="greenroom", function_name="run_python", code="go()", request=7)
    assert told == [(7, "one\n"), (7, "two\n")]
    assert str(result) == backend.answer.text_for_model()


async def test_an_exception_of_on_output_ends_the_code(pool: SessionPool, backend: ScriptedBackend) -> None:
    backend.answer = Execution(id="1", status="succeeded", stdout="one\n")

    async def tell(output: StreamText | Output, arguments: KernelArguments) -> None:
        raise ConnectionResetError("The browser is gone.")

    plugin = GreenroomPlugin(session=pool.session(), on_output=tell)
    with pytest.raises(ConnectionResetError):
        await plugin.run_python(ENDLESS_CODE)
    await wait_until(lambda: backend.interrupted == backend.identifiers)


async def test_the_plugin_works_under_another_name(plugin: GreenroomPlugin) -> None:
    kernel = Kernel()
    kernel.add_plugin(KernelPlugin.from_object("python", plugin))
    result = await kernel.invoke(plugin_name="python", function_name="run_python", code="1")
    assert result is not None
    assert result.value.execution.succeeded


async def test_the_application_can_call_the_functions_itself(plugin: GreenroomPlugin, backend: ScriptedBackend) -> None:
    backend.answer = FIGURES
    assert (await plugin.run_python("draw()")).execution is FIGURES


async def test_a_download_gives_the_application_the_bytes_and_the_model_a_note(pool: SessionPool) -> None:
    session = pool.session()
    await session.aupload(PIXEL, "charts/trend.png")
    text = await GreenroomPlugin(session=session).download_file("charts/trend.png")
    assert isinstance(text, DownloadText)
    assert text == f"/mnt/data/charts/trend.png ({len(PIXEL)} bytes) was sent to the user."
    download = text.download
    assert (download.file.name, download.mime, download.data) == ("charts/trend.png", "image/png", PIXEL)
