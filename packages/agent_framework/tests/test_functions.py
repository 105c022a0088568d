"""Code that calls functions of the application, and runs without a conversation, over real sandboxes."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from agent_framework import (
    AgentSession,
    FunctionInvocationContext,
    MiddlewareFailure,
    SkillsProvider,
    function_middleware,
    tool,
)

from greenroom import InvalidRequest, SessionPool
from greenroom_agent_framework import GreenroomMiddleware, GreenroomProvider, GreenroomScriptRunner, GreenroomTools

from .doubles import agent_with, call, play, results

GATHER = """
import asyncio
parts = await asyncio.gather(*(get_orders(customer=c) for c in (1, 2)))
sum(order["total"] for part in parts for order in part)
"""


def get_orders(customer: int) -> list[dict[str, float]]:
    """Return the orders of a customer."""
    if customer > 90:
        raise LookupError(f"There is no customer {customer}.")
    return [{"total": 10.0 * customer}]


class Seen(list[str]):
    """The names of functions that a middleware sees."""

    def middleware(self) -> Callable[..., Awaitable[None]]:
        @function_middleware
        async def see(context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
            self.append(context.function.name)
            await call_next()

        return see


@pytest.mark.parametrize("way", ["middleware", "provider"])
async def test_function_middleware_sees_the_calls_of_code(sandboxes: SessionPool, way: str) -> None:
    tools, seen = GreenroomTools(pool=sandboxes, tools=[get_orders]), Seen()
    script = play([call("run_python", code=GATHER)], "Done.")
    session = AgentSession()
    async with tools.session_for(session):
        if way == "provider":
            providers = [GreenroomProvider(tools)]
            agent = agent_with(None, script, middleware=[seen.middleware()], context_providers=providers)
            response = await agent.run("Go.", session=session)
        else:
            agent = agent_with(tools, script, middleware=[GreenroomMiddleware()])
            response = await agent.run("Go.", session=session, middleware=[seen.middleware()])
    assert results(response.messages) == ["result:\n30.0"]
    assert seen == ["run_python", "get_orders", "get_orders"]


async def test_the_code_gets_the_result_that_a_middleware_returns(sandboxes: SessionPool) -> None:
    @function_middleware
    async def redact(context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
        await call_next()
        if context.function.name == "get_orders":
            context.result[0].text = '["redacted"]'

    tools = GreenroomTools(pool=sandboxes, tools=[get_orders])
    agent = agent_with(
        tools, play([call("run_python", code="get_orders(1)")], "Done."), middleware=[GreenroomMiddleware(), redact]
    )
    assert results((await agent.run("Go.")).messages) == ["result:\n['redacted']"]


async def test_a_function_that_fails_is_an_error_of_the_code(sandboxes: SessionPool) -> None:
    tools = GreenroomTools(pool=sandboxes, tools=[get_orders])
    agent = agent_with(tools, play([call("run_python", code="get_orders(99)")], "Done."))
    assert "ToolError: There is no customer 99." in results((await agent.run("Go.")).messages)[0]


async def test_a_middleware_that_ends_the_run_ends_the_code(sandboxes: SessionPool) -> None:
    @function_middleware
    async def forbid(context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
        if context.function.name == "get_orders":
            raise MiddlewareFailure("Forbidden.")
        await call_next()

    tools = GreenroomTools(pool=sandboxes, tools=[get_orders])
    code = "try:\n    get_orders(1)\nfinally:\n    get_orders(2)"
    agent = agent_with(
        tools, play([call("run_python", code=code)], "Done."), middleware=[GreenroomMiddleware(), forbid]
    )
    with pytest.raises(MiddlewareFailure, match="Forbidden"):
        await agent.run("Go.")


def test_a_function_that_asks_for_approval_needs_it_for_the_whole_code(pool: SessionPool) -> None:
    @tool(approval_mode="always_require")
    def pay(amount: int) -> str:
        """Pay."""
        return "paid"

    with pytest.raises(InvalidRequest, match="cannot ask while code runs"):
        GreenroomTools(pool=pool, tools=[pay])
    GreenroomTools(pool=pool, tools=[pay], approval_mode="always_require")


async def test_a_script_of_a_skill_runs_in_the_session(sandboxes: SessionPool, tmp_path: Path) -> None:
    skill = tmp_path / "skills" / "adding"
    (skill / "scripts").mkdir(parents=True)
    (skill / "SKILL.md").write_text("---\nname: adding\ndescription: Adds numbers.\n---\nRun scripts/add.py.\n")
    (skill / "scripts" / "add.py").write_text("import sys\nprint(sum(map(int, sys.argv[1:])))\n")
    tools, session = GreenroomTools(pool=sandboxes), AgentSession()
    skills = SkillsProvider.from_paths(tmp_path / "skills", script_runner=GreenroomScriptRunner(tools))
    run = call("run_skill_script", skill_name="adding", script_name="scripts/add.py", args=["1", "2"])
    agent = agent_with(tools, play([run], "Done."), context_providers=[skills])
    async with tools.session_for(session):
        response = await agent.run("Add.", session=session)
        for request in response.user_input_requests:
            response = await agent.run(request.to_function_approval_response(True), session=session)
    assert "3" in json.dumps(results(response.messages))
