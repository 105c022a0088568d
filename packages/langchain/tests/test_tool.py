"""The part of the adapter that is LangChain's own: messages, callbacks, configs and checkpoints."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import ValidationError

from greenroom import (
    ContainerType,
    Execution,
    ExecutionError,
    InvalidRequest,
    Output,
    SessionPool,
)
from greenroom.adapters import CODE_TOOLS
from greenroom.testing import ScriptedBackend, scripted_pool
from langchain_greenroom import OUTPUT_EVENT, GreenroomTool, execution_of

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

PNG = b"\x89PNG\r\n\x1a\n, and so on"
JPEG = b"\xff\xd8\xff, and so on"
FAILURE = Execution(
    "1",
    "failed",
    stdout="before\n",
    error=ExecutionError("NameError", "name 'x' is not defined", "NameError: name 'x' is not defined"),
)


def figure(mime: str = "image/png", data: bytes = PNG) -> Output:
    return Output({mime: data.decode() if mime == "image/svg+xml" else base64.b64encode(data).decode()})


def of(thread_id: object, *callbacks: BaseCallbackHandler) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}, "callbacks": [*callbacks]}


def call(code: str, name: str = "run_python") -> dict[str, Any]:
    return {"type": "tool_call", "id": "call-1", "name": name, "args": {"code": code}}


@pytest.fixture
def tool(pool: SessionPool) -> GreenroomTool:
    return GreenroomTool(pool=pool)


# What the model sees


def test_the_schema_has_the_code_and_nothing_else(tool: GreenroomTool) -> None:
    assert convert_to_openai_tool(tool) == {
        "type": "function",
        "function": {
            "name": "run_python",
            "description": "Run Python code in an isolated sandbox, like a notebook cell. "
            "Variables, imports and files are kept from call to call. "
            "You get back what the code prints, the value of its last expression, the names of its figures, and "
            "its error if it fails. Keep files in /mnt/data. There may be no network.",
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "The Python code to run."}},
                "required": ["code"],
            },
        },
    }


def test_the_description_of_a_session_per_call_promises_no_state(pool: SessionPool) -> None:
    tool = GreenroomTool(pool=pool, session_per_call=True)
    assert "Each call starts afresh" in tool.description
    assert "are kept" not in tool.description


def test_the_description_promises_figures_only_where_the_model_gets_them(pool: SessionPool) -> None:
    assert "its figures" in GreenroomTool(pool=pool, images=True).description


def test_a_description_of_the_applications_own_stays(pool: SessionPool) -> None:
    assert GreenroomTool(pool=pool, session_per_call=True, description="Mine.").description == "Mine."


def test_figures_follow_the_text_as_standard_image_blocks_if_asked_for(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    backend.answers["plot"] = Execution(
        "1", "succeeded", stdout="done\n", outputs=(figure(), figure("image/jpeg", JPEG))
    )
    message = GreenroomTool(pool=pool, images=True).invoke(call("plot"), of("a"))
    assert message.content == [
        {"type": "text", "text": "stdout:\ndone\n\nfigures:\nfigure-1.png, figure-2.jpg"},
        {"type": "image", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/png"},
        {"type": "image", "base64": base64.b64encode(JPEG).decode(), "mime_type": "image/jpeg"},
    ]
    assert message.content_blocks == message.content
    assert [image.data for image in message.artifact.images] == [PNG, JPEG]


def test_an_image_that_models_cannot_see_is_only_named(pool: SessionPool, backend: ScriptedBackend) -> None:
    backend.answers["plot"] = Execution("1", "succeeded", outputs=(figure("image/svg+xml", b"<svg/>"),))
    message = GreenroomTool(pool=pool, images=True).invoke(call("plot"), of("a"))
    assert message.content == "figures:\nfigure-1.svg"
    assert message.artifact.images[0].data == b"<svg/>"


def test_no_image_reaches_a_model_that_may_refuse_it_unless_requested(
    tool: GreenroomTool, backend: ScriptedBackend
) -> None:
    backend.answers["plot"] = Execution("1", "succeeded", outputs=(figure(),))
    message = tool.invoke(call("plot"), of("a"))
    assert message.content == "figures:\nfigure-1.png"
    assert message.artifact.images[0].data == PNG


# What fails


def test_a_failed_execution_has_the_status_error_and_its_artifact(
    tool: GreenroomTool, backend: ScriptedBackend
) -> None:
    backend.answers["x"] = FAILURE
    message = tool.invoke(call("x"), of("a"))
    assert message.status == "error"
    assert message.artifact is FAILURE
    assert message.tool_call_id == "call-1"
    assert message.name == "run_python"
    assert message.content.startswith("The code failed.")
    assert "before" in message.content
    assert "NameError" in message.content


async def test_a_failed_execution_has_the_status_error_for_an_async_caller_too(
    tool: GreenroomTool, backend: ScriptedBackend
) -> None:
    backend.answers["x"] = FAILURE
    message = await tool.ainvoke(call("x"), of("a"))
    assert (message.status, message.artifact) == ("error", FAILURE)


def test_callbacks_learn_of_the_failure(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    backend.answers["x"] = FAILURE
    seen: list[ToolMessage] = []

    class Watch(BaseCallbackHandler):
        def on_tool_end(self, output: Any, **_: Any) -> None:
            seen.append(output)

    tool.invoke(call("x"), of("a", Watch()))
    assert [(message.status, message.artifact) for message in seen] == [("error", FAILURE)]


def test_figures_of_a_failed_execution_are_seen_too(pool: SessionPool, backend: ScriptedBackend) -> None:
    backend.answers["x"] = Execution("1", "timed_out", outputs=(figure(),), error=ExecutionError("TimeoutError", ""))
    message = GreenroomTool(pool=pool, images=True).invoke(call("x"), of("a"))
    assert message.status == "error"
    assert [block["type"] for block in message.content] == ["text", "image"]


def test_a_failed_execution_outside_of_a_tool_call_is_its_text(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    backend.answers["x"] = FAILURE
    assert tool.invoke({"code": "x"}, of("a")) == FAILURE.text_for_model()
    assert tool.invoke("x", of("a")) == FAILURE.text_for_model()


def test_internal_parameters_of_the_model_are_ignored(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    smuggled: dict[str, Any] = {
        "session_id": "b",
        "config": of("b"),
        "tool_call_id": "b",
        "timeout": 1,
        "kwargs": {},
    }
    tool.invoke({**call("x"), "args": {"code": "x", **smuggled}}, of("a"))
    assert backend.runs == [("langchain.a", "x", None)]


# One conversation, one session


def test_without_a_conversation_the_call_is_refused_instead_of_shared(
    tool: GreenroomTool, backend: ScriptedBackend
) -> None:
    configs: list[RunnableConfig | None] = [None, {}, of(None), of("")]
    for config in configs:
        with pytest.raises(InvalidRequest, match="thread_id"):
            tool.invoke(call("x"), config)
    assert backend.runs == []


def test_a_thread_id_can_be_other_than_text(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    tool.invoke("x", of(UUID(int=7)))
    tool.invoke("x", of(7))
    assert backend.identifiers == [
        "langchain.00000000-0000-0000-0000-000000000007",
        "langchain.7",
    ]


async def test_a_conversation_and_its_session_end_together(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    with tool.conversation() as config:
        tool.invoke("x", config)
    async with tool.aconversation("ann") as config:
        await tool.ainvoke("y", config)
    used = backend.identifiers
    assert used[1] == "langchain.ann"
    assert backend.deleted == used


def test_two_new_conversations_are_separate(tool: GreenroomTool) -> None:
    with tool.conversation() as one, tool.conversation() as other:
        assert one != other


async def test_deleting_a_session_is_one_call(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    tool.delete_session("ann")
    await tool.adelete_session(of("bob"))
    assert backend.deleted == ["langchain.ann", "langchain.bob"]


def test_a_tool_takes_a_pool_or_a_session(pool: SessionPool) -> None:
    with pytest.raises(ValidationError, match="Pass either"):
        GreenroomTool(pool=pool, session=pool.session())
    with pytest.raises(ValidationError, match="from a pool"):
        GreenroomTool(session=pool.session(), session_per_call=True)


# Events and checkpoints


async def test_output_is_streamed_to_callbacks_as_custom_events(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    backend.answers["count"] = Execution("1", "succeeded", stdout="1\n2\n")
    expected = [{"stream": "stdout", "text": "1\n"}, {"stream": "stdout", "text": "2\n"}]
    streamed = [
        event["data"]
        async for event in tool.astream_events(call("count"), of("a"), version="v2")
        if event["event"] == "on_custom_event" and event["name"] == OUTPUT_EVENT
    ]
    assert streamed == expected

    seen: list[Any] = []

    class Watch(BaseCallbackHandler):
        def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            seen.append(data)

    tool.invoke(call("count"), of("a", Watch()))
    assert seen == expected


def test_an_execution_is_the_same_after_a_checkpoint(tool: GreenroomTool, backend: ScriptedBackend) -> None:
    backend.answers["plot"] = Execution("1", "succeeded", outputs=(figure(),))
    message = tool.invoke(call("plot"), of("a"))
    serde = JsonPlusSerializer()
    restored = serde.loads_typed(serde.dumps_typed(message))
    assert execution_of(message) == message.artifact
    assert execution_of(restored) == message.artifact
    assert execution_of(ToolMessage.model_validate(json.loads(message.model_dump_json()))) == message.artifact


def test_the_message_of_another_tool_has_no_execution() -> None:
    for artifact in (None, {"type": "file"}, [1]):
        assert execution_of(ToolMessage("x", tool_call_id="1", artifact=artifact)) is None
    assert execution_of(HumanMessage("x")) is None


# Other container types


@pytest.mark.parametrize("container_type", CODE_TOOLS)
async def test_a_plain_text_is_the_code_whatever_its_name(container_type: ContainerType) -> None:
    backend = ScriptedBackend(container_type)
    with scripted_pool(backend) as pool:
        tool = GreenroomTool(pool=pool)
        assert tool.name == CODE_TOOLS[container_type].name
        assert [*tool.args] == [CODE_TOOLS[container_type].parameter]
        assert tool.invoke("1", of("ann")) == await tool.ainvoke("2", of("ann")) == "stdout:\nran"
    assert backend.codes == ["1", "2"]


def test_a_name_and_a_description_of_the_applications_own_are_kept() -> None:
    with scripted_pool(ScriptedBackend(ContainerType.SHELL)) as pool:
        tool = GreenroomTool(pool=pool, name="bash", description="Run it.")
        message = tool.invoke({**call("", "bash"), "args": {"command": "ls"}}, of("ann"))
        assert (tool.name, tool.description, message.name, message.text) == ("bash", "Run it.", "bash", "stdout:\nran")
