"""Faults that integrations of Azure's sessions have, by name; this one has none of them.

The two about tokens and about identifiers in URLs belong to the client of Azure, which this package is not.
"""

import asyncio
import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.connectors.ai.function_calling_utils import (
    kernel_function_metadata_to_function_call_format,
)
from semantic_kernel.exceptions import KernelInvokeException
from semantic_kernel.functions import KernelArguments

from greenroom import Execution, ExecutionError, Output, PoolFull, SessionPool
from greenroom.testing import ENDLESS, ScriptedBackend, until
from greenroom_semantic_kernel import GreenroomPlugin

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 100

MakeAgent = Callable[..., ChatCompletionAgent]


@pytest.fixture
def plugin(pool: SessionPool) -> GreenroomPlugin:
    return GreenroomPlugin(session=pool.session())


@pytest.mark.parametrize("code", ["python_version = 3", "py = 1\npy", "  x = `1`", "s = '''\n```py\n1\n```\n'''"])
async def test_a_clean_up_that_changes_code(plugin: GreenroomPlugin, backend: ScriptedBackend, code: str) -> None:
    await plugin.run_python(code)
    assert backend.codes == [code]


@pytest.mark.parametrize("fence", ["```", "```py", "```python"])
async def test_a_fence_whose_language_becomes_code(
    plugin: GreenroomPlugin, backend: ScriptedBackend, fence: str
) -> None:
    await plugin.run_python(f"{fence}\nprint(1)\n```")
    assert backend.codes == ["print(1)"]


async def test_a_full_pool_whose_advice_is_dropped(plugin: GreenroomPlugin, backend: ScriptedBackend) -> None:
    backend.answer = PoolFull("All 5 sessions are taken.", sessions=5, retry_after=30)
    kernel = Kernel()
    kernel.add_plugin(plugin)
    with pytest.raises(KernelInvokeException) as raised:
        await kernel.invoke(plugin_name="greenroom", function_name="run_python", code="1")
    assert isinstance(raised.value.__cause__, PoolFull)
    assert raised.value.__cause__.retry_after == 30


async def test_code_that_runs_without_end(sandboxes: SessionPool) -> None:
    async with sandboxes.session() as session:
        text = await GreenroomPlugin(session=session, timeout=1).run_python("while True: pass")
    assert text.execution.status == "timed_out"
    assert text == text.execution.text_for_model()


async def test_a_limit_on_time_that_is_not_the_callers(pool: SessionPool, backend: ScriptedBackend) -> None:
    session = pool.session(timeout=100)
    await GreenroomPlugin(session=session).run_python("1")
    await GreenroomPlugin(session=session, timeout=7).run_python("1")
    assert backend.timeouts == [100, 7]


async def test_a_failure_that_looks_like_a_success(plugin: GreenroomPlugin, backend: ScriptedBackend) -> None:
    backend.answer = Execution("1", "failed", stdout="fine so far", error=ExecutionError("KeyError", "'year'"))
    assert (await plugin.run_python("table['year']")).startswith("The code failed")


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


async def test_images_that_are_stripped_or_that_the_model_is_never_told_of(
    plugin: GreenroomPlugin, backend: ScriptedBackend
) -> None:
    encoded = base64.b64encode(PNG).decode()
    backend.answer = Execution("1", "succeeded", outputs=(Output({"image/png": encoded}, is_result=True),))
    text = await plugin.run_python("figure")
    assert "figure-1.png" in text
    assert encoded[:20] not in text
    assert text.execution.images[0].data == PNG


async def test_a_call_that_blocks_the_loop_and_cannot_be_cancelled(
    plugin: GreenroomPlugin, backend: ScriptedBackend
) -> None:
    task = asyncio.create_task(plugin.run_python(ENDLESS))
    await until(lambda: bool(backend.runs))  # this loop turns while the code runs
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: backend.interrupted == backend.identifiers)


async def test_sessions_that_nobody_deletes(pool: SessionPool, backend: ScriptedBackend) -> None:
    plugin, thread = GreenroomPlugin(pool=pool), ChatHistoryAgentThread()
    async with plugin.session(thread) as session:
        await plugin.run_python("1", KernelArguments(thread_id=thread.id))
    assert backend.deleted == backend.identifiers == [session.identifier]
    await plugin.session("another").adelete()
    assert backend.deleted[1:] == [plugin.session("another").identifier]


async def test_one_session_shared_by_all_users_of_a_plugin(pool: SessionPool, backend: ScriptedBackend) -> None:
    plugin = GreenroomPlugin(pool=pool)
    for user in ("alice", "bob"):
        await plugin.run_python("1", KernelArguments(thread_id=user))
    assert len(set(backend.identifiers)) == 2


async def test_identifiers_that_inject_a_parameter(pool: SessionPool, backend: ScriptedBackend) -> None:
    plugin = GreenroomPlugin(pool=pool)
    for thread_id in ("a", "a&x=1", "a/../b", "Ä ü", "A"):
        await plugin.run_python("1", KernelArguments(thread_id=thread_id))
    assert len(set(backend.identifiers)) == 5
    assert not set("".join(backend.identifiers)) & set("&=/?#% ")


async def test_whole_programs_in_the_log(
    plugin: GreenroomPlugin, agent_with: MakeAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # Semantic Kernel logs the arguments of each call itself. These are the loggers that the documentation names.
    for name in ("semantic_kernel.kernel", "semantic_kernel.functions.kernel_function"):
        caplog.set_level(logging.WARNING, name)
    await agent_with(plugin).get_response("password = 'hunter2'")
    assert "hunter2" not in caplog.text


async def test_local_files_within_reach_of_the_model(
    pool: SessionPool, backend: ScriptedBackend, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    uploads = tmp_path / "uploads"
    (uploads / "nested").mkdir(parents=True)
    (uploads / "link.txt").symlink_to(secret)
    plugin = GreenroomPlugin(session=pool.session(), uploads=uploads)
    for name in (
        "../secret.txt",
        str(secret),
        "link.txt",
        "nested",
        "nested/../../secret.txt",
        ".",
        "",
        "\0",
    ):
        answer = await plugin.upload_file(name)
        assert answer.endswith("There are: none.")
    assert backend.contents == {}
