"""A Semantic Kernel agent that answers a question about a CSV file with pandas, in a sandbox."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (the types of filters and results are partly unknown)

import asyncio
from collections.abc import Awaitable, Callable

from models.for_semantic_kernel import chat_model
from question import DATA, INSTRUCTIONS, QUESTION
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.filters import AutoFunctionInvocationContext as Call
from semantic_kernel.filters import FilterTypes
from transcript import Transcript

import greenroom
from greenroom import Session
from greenroom_semantic_kernel import GreenroomPlugin, execution_of


async def ask(question: str, session: Session, transcript: Transcript) -> str:
    """Return the agent's answer; its turns go to the transcript as they happen."""
    agent = ChatCompletionAgent(
        name="Analyst",
        instructions=INSTRUCTIONS,
        service=chat_model(),
        plugins=[GreenroomPlugin(session=session)],
    )

    @agent.kernel.filter(FilterTypes.AUTO_FUNCTION_INVOCATION)
    async def watch(context: Call, next: Callable[[Call], Awaitable[None]]) -> None:  # noqa: A002  the kernel's own name
        thought = context.chat_history.messages[-1].content if context.chat_history else ""
        transcript.call(thought, context.function.name, context.arguments)
        await next(context)
        execution = execution_of(context.function_result)
        transcript.result(str(context.function_result or ""), execution.images if execution else ())

    response = await agent.get_response(question)
    return response.message.content


async def main() -> None:
    async with greenroom.aconnect() as pool, pool.session() as session:
        await session.aupload(DATA)
        transcript = Transcript("Semantic Kernel")
        transcript.answer(await ask(QUESTION, session, transcript))


if __name__ == "__main__":
    asyncio.run(main())
