"""Code that calls kernel functions, and runs without a conversation, over real sandboxes."""

# pyright: reportUnknownMemberType=false
# (the filters of a kernel are partly untyped)

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.filters import FilterTypes, FunctionInvocationContext
from semantic_kernel.functions import KernelArguments, kernel_function

from greenroom import InvalidRequest, SessionPool
from greenroom.testing import memory_pool
from greenroom_semantic_kernel import GreenroomPlugin, executions

from .doubles import ScriptedModel, call, play

MakeAgent = Callable[..., ChatCompletionAgent]


def get_orders(customer: int) -> list[dict[str, int]]:
    """Return the orders of a customer."""
    if customer > 90:
        raise LookupError(f"There is no customer {customer}.")
    return [{"total": 10 * customer}]


class Notes:
    @kernel_function
    def note(self, text: str, arguments: KernelArguments) -> str:
        """Write down a text."""
        return f"{arguments['thread_id']}: {text}"


@pytest.fixture
def kernel(sandboxes: SessionPool) -> Kernel:
    kernel = Kernel()
    kernel.add_plugin(GreenroomPlugin(pool=sandboxes, tools=[get_orders, Notes().note]))
    return kernel


async def run(kernel: Kernel, code: str) -> str:
    arguments = KernelArguments(code=code, thread_id="notes-1")
    return str(await kernel.invoke(plugin_name="greenroom", function_name="run_python", arguments=arguments))


async def test_filters_see_the_calls_of_code(kernel: Kernel) -> None:
    seen: list[str] = []

    async def see(
        context: FunctionInvocationContext,
        next: Callable[[FunctionInvocationContext], Awaitable[None]],  # noqa: A002
    ) -> None:
        seen.append(context.function.name)
        await next(context)

    kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, see)
    code = "import asyncio\nparts = await asyncio.gather(get_orders(customer=1), get_orders(customer=2))\nparts"
    assert await run(kernel, code) == "result:\n[[{'total': 10}], [{'total': 20}]]"
    assert seen == ["run_python", "get_orders", "get_orders"]


async def test_a_filter_that_stops_a_call_is_an_error_of_the_code(kernel: Kernel) -> None:
    async def stop(
        context: FunctionInvocationContext,
        next: Callable[[FunctionInvocationContext], Awaitable[None]],  # noqa: A002
    ) -> None:
        if context.function.name != "get_orders":
            await next(context)

    kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, stop)
    assert "ToolError: A filter stopped get_orders." in await run(kernel, "get_orders(1)")


async def test_a_function_gets_the_applications_arguments_which_code_cannot_set(kernel: Kernel) -> None:
    assert await run(kernel, "note('hello')") == "result:\n'notes-1: hello'"
    assert "unexpected keyword argument" in await run(kernel, "note('hello', thread_id='other')")
    assert "unexpected keyword argument" in await run(kernel, "note('hello', arguments={})")


async def test_a_function_that_fails_is_an_error_of_the_code(kernel: Kernel) -> None:
    assert "ToolError: There is no customer 99." in await run(kernel, "get_orders(99)")


def test_an_object_that_is_not_a_function_is_refused(pool: SessionPool) -> None:
    with pytest.raises(InvalidRequest, match="must be a kernel function"):
        GreenroomPlugin(pool=pool, tools=[7])  # pyright: ignore[reportArgumentType]


async def runs_of_two_users(pool: SessionPool, agent_with: MakeAgent, number: int) -> None:
    plugin = GreenroomPlugin(pool=pool)

    async def user(name: str) -> None:
        for run in range(number):
            secret = f"{name}-{run}"
            codes = f"before = globals().get('secret')\nsecret = {secret!r}", "before, secret"
            script = play(*([call("run_python", code=code)] for code in codes), "Done.")
            agent = agent_with(plugin, ScriptedModel(ai_model_id="scripted", script=script))
            thread = ChatHistoryAgentThread()
            await agent.get_response("Go.", thread=thread)
            results = executions([message async for message in thread.get_messages()])
            assert [execution.result for execution in results] == [None, f"(None, {secret!r})"]

    await asyncio.gather(user("ann"), user("bob"))


async def test_two_agents_without_a_conversation_never_meet(agent_with: MakeAgent) -> None:
    with memory_pool() as pool:
        await runs_of_two_users(pool, agent_with, 20)


async def test_two_agents_without_a_conversation_never_meet_in_sandboxes(
    sandboxes: SessionPool, agent_with: MakeAgent
) -> None:
    await runs_of_two_users(sandboxes, agent_with, 4)
