"""A Microsoft Agent Framework agent that answers a question about a CSV file with pandas, in a sandbox."""

import asyncio
from collections.abc import Awaitable, Callable

from agent_framework import Agent, FunctionInvocationContext, function_middleware
from models.for_agent_framework import chat_model
from question import DATA, INSTRUCTIONS, QUESTION
from transcript import Transcript

import greenroom
from greenroom import Session
from greenroom_agent_framework import GreenroomTools, execution_of


async def ask(question: str, session: Session, transcript: Transcript) -> str:
    """Return the agent's answer; its turns go to the transcript as they happen."""
    said = ""

    @function_middleware
    async def watch(context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
        nonlocal said
        transcript.call(said, context.function.name, dict(context.arguments))
        said = ""
        await call_next()
        if (execution := execution_of(context.result)) is not None:
            transcript.result(execution.text_for_model(), execution.images)

    tools = GreenroomTools(session=session)
    agent = Agent(chat_model(), instructions=INSTRUCTIONS, tools=tools, middleware=[watch])
    async for update in agent.run(question, stream=True):
        said += update.text
    return said


async def main() -> None:
    async with greenroom.aconnect() as pool, pool.session() as session:
        await session.aupload(DATA)
        transcript = Transcript("Agent Framework")
        transcript.answer(await ask(QUESTION, session, transcript))


if __name__ == "__main__":
    asyncio.run(main())
