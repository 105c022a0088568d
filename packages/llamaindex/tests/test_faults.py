"""Faults of other integrations of code sandboxes, each with the test that keeps it away."""

# pyright: reportDeprecated=false
# Every call of an agent's `run` with a message matches its deprecated signature first.

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from typing import TYPE_CHECKING, Any, Literal

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ImageBlock, ToolCallBlock
from llama_index.core.workflow import Context
from workflows.errors import WorkflowCancelledByUser

from greenroom import Execution, ExecutionError, Output, PoolFull, SessionPool
from greenroom.testing import ENDLESS, until
from llama_index.tools.greenroom import CONVERSATION_KEY, GreenroomToolSpec, execution_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ScriptedModel
    from llama_index.core.tools import FunctionTool

    from greenroom.testing import ScriptedBackend

# LlamaIndex's agents look for their steps among all their attributes, deprecated ones of pydantic included.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")

PNG = b"\x89PNG\r\n\x1a\n and the rest of a picture"


def runs(code: str) -> ToolCallBlock:
    return ToolCallBlock(tool_call_id=code, tool_name="run_python", tool_kwargs={"code": code})


@pytest.fixture
def run_python(pool: SessionPool) -> FunctionTool:
    return GreenroomToolSpec(session=pool.session("one-for-all")).to_tool_list()[0]


@pytest.mark.parametrize(
    ("written", "run"),
    [
        ("python_version = 3", "python_version = 3"),
        ("  `x`", "  `x`"),
        ("```py\nprint(1)\n```", "print(1)"),
        ("```\nprint('```')\n```", "print('```')"),
        ("```python\nprint(1)", "```python\nprint(1)"),
    ],
)
async def test_a_clean_up_that_mangles_code(
    run_python: FunctionTool, backend: ScriptedBackend, written: str, run: str
) -> None:
    run_python.call(code=written)
    await run_python.acall(code=written)
    assert backend.codes == [run, run]


async def test_no_timeout_or_one_that_is_not_the_sandboxes(pool: SessionPool, backend: ScriptedBackend) -> None:
    spec = GreenroomToolSpec(session=pool.session(), timeout=100)
    spec.run_python("1")
    await spec.arun_python("1")
    assert backend.timeouts == [100, 100]


async def test_an_error_that_is_dropped(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    full = PoolFull("All 2 sessions are taken. Delete one.", sessions=2, retry_after=30)
    backend.answers["1"] = full
    agent = FunctionAgent(llm=scripted([runs("1")], "Later."), tools=GreenroomToolSpec(pool).to_tool_list())
    handler = agent.run(user_msg="go")
    outputs = [event.tool_output async for event in handler.stream_events() if "tool_output" in event.model_fields_set]
    assert [output.exception for output in outputs] == [full]
    assert outputs[0].is_error
    assert outputs[0].content == str(full)


@pytest.mark.parametrize("status", ["failed", "timed_out", "cancelled"])
async def test_a_failed_execution_that_looks_like_a_success(
    run_python: FunctionTool,
    backend: ScriptedBackend,
    status: Literal["failed", "timed_out", "cancelled"],
) -> None:
    error = ExecutionError("Error", "it broke")
    backend.answers["x"] = Execution("1", status, stdout="fine so far\n", error=error)
    for output in (run_python.call(code="x"), await run_python.acall(code="x")):
        assert output.is_error
        assert not output.content.startswith("stdout")
        assert "it broke" in output.content


def test_a_schema_that_leaks_internal_parameters(pool: SessionPool, tmp_path: Path) -> None:
    tools = GreenroomToolSpec(pool, uploads=tmp_path).to_tool_list()
    described: list[dict[str, Any]] = [tool.metadata.to_openai_tool()["function"] for tool in tools]
    shown = {each["name"]: list(each["parameters"]["properties"]) for each in described}
    assert shown == {
        "run_python": ["code"],
        "list_files": ["directory"],
        "read_file": ["path"],
        "download_file": ["path"],
        "upload_file": ["name"],
    }
    assert not any("ctx" in each["description"] for each in described)


def test_images_that_are_stripped_or_shown_as_base64(run_python: FunctionTool, backend: ScriptedBackend) -> None:
    encoded = base64.b64encode(PNG).decode()
    backend.answers["plot()"] = Execution("1", "succeeded", outputs=(Output({"image/png": encoded}, is_result=True),))
    output = run_python.call(code="plot()")
    assert any(isinstance(block, ImageBlock) for block in output.blocks)
    assert encoded[:16] not in output.content
    execution = execution_of(output)
    assert execution is not None
    assert [(image.mime, image.data) for image in execution.images] == [("image/png", PNG)]


async def test_async_that_is_a_thread_or_blocks_the_loop(run_python: FunctionTool, backend: ScriptedBackend) -> None:
    await run_python.acall(code="1")  # the pool's own thread
    before = threading.active_count()
    calls = [asyncio.create_task(run_python.acall(code=ENDLESS)) for _ in range(50)]
    await until(lambda: len(backend.runs) == 51)
    assert threading.active_count() == before
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_async_that_cannot_be_cancelled(run_python: FunctionTool, backend: ScriptedBackend) -> None:
    call = asyncio.create_task(run_python.acall(code=ENDLESS))
    await until(lambda: bool(backend.runs))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: backend.interrupted == ["one-for-all"])


async def test_a_cancelled_run_whose_code_runs_on(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    llm = scripted([runs(ENDLESS)])
    handler = FunctionAgent(llm=llm, tools=GreenroomToolSpec(pool).to_tool_list()).run(user_msg="go")
    await until(lambda: bool(backend.runs))
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    await until(lambda: backend.interrupted == backend.identifiers)


async def test_sessions_that_nobody_deletes(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    spec = GreenroomToolSpec(pool)
    agent = FunctionAgent(llm=scripted([runs("1")], "Done.", [runs("2")], "Done."), tools=spec.to_tool_list())
    ctx = Context(agent)
    async with await spec.asession_for(ctx):
        await agent.run(user_msg="go", ctx=ctx)
        assert backend.deleted == []
    assert backend.deleted == backend.identifiers

    handler = agent.run(user_msg="go")
    await handler
    spec.session_for(handler.ctx).delete()
    assert backend.deleted == backend.identifiers


async def test_one_session_that_all_users_of_a_tool_share(
    pool: SessionPool, backend: ScriptedBackend, scripted: Callable[..., ScriptedModel]
) -> None:
    tools = GreenroomToolSpec(pool).to_tool_list()
    names = ("alice", "bob", "carol")
    agents = [FunctionAgent(llm=scripted([runs(name)], "Done.", [runs(name)], "Done."), tools=tools) for name in names]
    conversations = [(agent, Context(agent)) for agent in agents]
    for _ in range(2):
        await asyncio.gather(*(agent.run(user_msg="go", ctx=ctx) for agent, ctx in conversations))
    assert len(backend.runs) == 6
    assert len({(session, code) for session, code, _ in backend.runs}) == 3
    assert len(set(backend.identifiers)) == 3


async def test_identifiers_that_are_not_encoded(pool: SessionPool, scripted: Callable[..., ScriptedModel]) -> None:
    ctx = Context(FunctionAgent(llm=scripted()))
    await ctx.store.set(CONVERSATION_KEY, "a&x=1/../?#")
    identifier = (await GreenroomToolSpec(pool).asession_for(ctx)).identifier
    assert not set(identifier) & set("&=/?#%")


async def test_whole_programs_in_the_log(run_python: FunctionTool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        run_python.call(code="secret = 42")
        await run_python.acall(code="secret = 42")
    assert "secret" not in caplog.text


async def test_local_files_that_the_model_reads_through_the_upload(
    pool: SessionPool, backend: ScriptedBackend, tmp_path: Path
) -> None:
    uploads = tmp_path / "uploads"
    (uploads / "nested").mkdir(parents=True)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (uploads / "link.txt").symlink_to(secret)
    spec = GreenroomToolSpec(session=pool.session("uploads"), uploads=uploads)
    upload_file = spec.to_tool_list(["upload_file"])[0]
    for name in (
        "../secret.txt",
        str(secret),
        "link.txt",
        "nested",
        "nested/../../secret.txt",
        "",
        ".",
        "\0",
    ):
        for output in (upload_file.call(name=name), await upload_file.acall(name=name)):
            assert output.is_error
            assert "secret" not in output.content.replace(repr(name), "")
    assert not backend.contents["uploads"]
