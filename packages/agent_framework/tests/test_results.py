"""The results of a call for the model, a middleware and the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from agent_framework import (
    AgentSession,
    Content,
    FunctionInvocationContext,
    FunctionTool,
    Message,
    MiddlewareFailure,
    function_middleware,
    tool,
)

from greenroom import (
    EngineUnavailable,
    Execution,
    ExecutionError,
    GreenroomError,
    Output,
    PoolClosed,
    PoolFull,
    SandboxLost,
    Session,
    SessionPool,
    StreamText,
)
from greenroom.testing import ENDLESS_CODE, ScriptedBackend, wait_until
from greenroom_agent_framework import GreenroomTools, downloads, execution_of, executions

from .doubles import ScriptedClient, agent_with, call, play, results

FAILED = Execution("1", "failed", error=ExecutionError("NameError", "name 'x' is not defined"))
NOT_RETRYABLE = [
    PoolFull("All 2 sessions are taken.", sessions=2, retry_after=9),
    EngineUnavailable("Install bubblewrap."),
    PoolClosed("Closed."),
]


@pytest.fixture
def session(pool: SessionPool) -> Session:
    return pool.session()


@pytest.fixture
def tools(session: Session) -> GreenroomTools:
    return GreenroomTools(session=session)


async def test_a_failed_execution_is_a_result_and_the_run_continues(
    tools: GreenroomTools, backend: ScriptedBackend
) -> None:
    backend.answer = FAILED
    response = await agent_with(tools).run("x")
    assert response.text.startswith("The code failed")
    assert executions(response.messages) == [FAILED]


async def test_a_lost_sandbox_is_a_result_as_the_next_call_gets_a_new_one(
    tools: GreenroomTools, backend: ScriptedBackend
) -> None:
    backend.answer = SandboxLost("The sandbox ended; its variables and files are gone.")
    assert "are gone" in (await agent_with(tools).run("1")).text


@pytest.mark.parametrize("error", NOT_RETRYABLE, ids=lambda error: type(error).__name__)
async def test_an_error_that_is_not_retryable_ends_the_run(
    tools: GreenroomTools, backend: ScriptedBackend, error: GreenroomError
) -> None:
    backend.answer = error
    with pytest.raises(MiddlewareFailure, match=str(error)) as raised:
        await agent_with(tools).run("1")
    assert raised.value.__cause__ is error


async def test_an_error_that_is_not_retryable_ends_a_stream(tools: GreenroomTools, backend: ScriptedBackend) -> None:
    backend.answer = PoolClosed("Closed.")
    with pytest.raises(MiddlewareFailure):
        _ = [update async for update in agent_with(tools).run("1", stream=True)]


async def test_an_error_that_ends_the_run_interrupts_the_other_calls_of_its_turn(
    tools: GreenroomTools, backend: ScriptedBackend
) -> None:
    backend.answers["1"] = PoolClosed("Closed.")
    calls = [Content.from_function_call(code, "run_python", arguments={"code": code}) for code in (ENDLESS_CODE, "1")]
    with pytest.raises(MiddlewareFailure):
        await agent_with(tools, play(calls)).run("Go.")
    await wait_until(lambda: len(backend.interrupted) == 1)


async def test_a_middleware_sees_arguments_and_results_and_can_change_the_code(
    tools: GreenroomTools, backend: ScriptedBackend
) -> None:
    seen: list[tuple[Any, Execution | None]] = []

    @function_middleware
    async def replace(context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
        written = context.arguments["code"] if isinstance(context.arguments, dict) else None
        context.arguments = {"code": "print(2)"}
        await call_next()
        seen.append((written, execution_of(context.result)))

    await agent_with(tools, middleware=[replace]).run("print(1)")
    assert backend.codes == ["print(2)"]
    assert seen == [("print(1)", backend.answer)]


async def test_an_application_can_ask_its_user_before_code_runs(pool: SessionPool, backend: ScriptedBackend) -> None:
    agent = agent_with(
        GreenroomTools(pool=pool, approval_mode="always_require"),
        lambda messages: [call("run_python", code="1")] if messages[-1].role == "user" else "Done.",
    )
    session = AgentSession()
    response = await agent.run("Go.", session=session)
    assert backend.runs == []
    (request,) = response.user_input_requests
    response = await agent.run(Message("user", [request.to_function_approval_response(approved=True)]), session=session)
    assert backend.codes == ["1"]
    assert response.text == "Done."


async def test_only_code_asks_for_approval(pool: SessionPool) -> None:
    modes = {tool.name: tool.approval_mode for tool in GreenroomTools(pool=pool, approval_mode="always_require")}
    assert [name for name, mode in modes.items() if mode == "always_require"] == ["run_python"]


async def test_on_output_gets_output_while_code_runs_with_the_context_of_its_invocation(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    backend.answer = Execution("1", "succeeded", stdout="one\ntwo\n")
    told: list[tuple[AgentSession | None, str]] = []

    async def tell(output: StreamText | Output, context: FunctionInvocationContext) -> None:
        assert isinstance(output, StreamText)
        told.append((context.session, output.text))

    session = AgentSession()
    response = await agent_with(GreenroomTools(pool=pool, on_output=tell)).run("go()", session=session)
    assert told == [(session, "one\n"), (session, "two\n")]
    assert response.text == backend.answer.text_for_model()


async def test_an_exception_of_on_output_ends_the_code(session: Session, backend: ScriptedBackend) -> None:
    backend.answer = Execution("1", "succeeded", stdout="one\n")

    async def tell(output: StreamText | Output, context: FunctionInvocationContext) -> None:
        raise ConnectionResetError("The browser is gone.")

    tools = GreenroomTools(session=session, on_output=tell)
    with pytest.raises(ConnectionResetError):
        await tools.code_tool.invoke(arguments={"code": ENDLESS_CODE})
    await wait_until(lambda: backend.interrupted == backend.identifiers)


async def test_results_of_other_tools_bring_nothing(tools: GreenroomTools, backend: ScriptedBackend) -> None:
    @tool
    def clock() -> str:
        return "noon"

    script = play([call("clock"), call("run_python", code="1")], "Done.")
    response = await agent_with([tools, clock], script).run("Go.")
    assert results(response.messages)[0] == "noon"
    assert executions(response.messages) == [backend.answer]
    assert downloads(response.messages) == []


async def test_a_run_takes_the_tools_as_an_agent_does(tools: GreenroomTools, backend: ScriptedBackend) -> None:
    agent = agent_with(None)
    await agent.run("1", tools=tools)
    await agent.run("2", tools=[tools])
    await agent.run("3", tools=tools.code_tool)
    assert backend.codes == ["1", "2", "3"]


async def test_the_model_is_offered_the_tools_by_name(tools: GreenroomTools) -> None:
    client = ScriptedClient()
    await agent_with(tools, client=client).run("1")
    assert [tool.name for tool in client.tools] == ["run_python", "list_files", "read_file", "download_file"]


def test_a_tool_has_a_description_for_models_and_none_of_its_options(tools: GreenroomTools) -> None:
    for each in tools:
        assert isinstance(each, FunctionTool)
        shown = str(each.to_json_schema_spec())
        assert "ctx" not in shown
        assert "budget" not in shown
