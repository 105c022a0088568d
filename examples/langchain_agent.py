"""A LangChain agent that answers a question about a CSV file with pandas, in a sandbox."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# (the types of create_agent are partly unknown)

import asyncio

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from models.for_langchain import chat_model
from question import DATA, INSTRUCTIONS, QUESTION
from transcript import Transcript

import greenroom
from greenroom import Session
from langchain_greenroom import GreenroomTool, execution_of


async def ask(question: str, session: Session, transcript: Transcript) -> str:
    """Return the agent's answer; its turns go to the transcript as they happen."""
    # Not every model takes pictures from a tool; the application finds them in the execution.
    tool = GreenroomTool(session=session, images=False)
    agent = create_agent(chat_model(), tools=[tool], system_prompt=INSTRUCTIONS)
    answer = ""
    async for update in agent.astream({"messages": [HumanMessage(question)]}, stream_mode="updates"):
        for message in (message for node in update.values() for message in node["messages"]):
            if isinstance(message, AIMessage):
                answer = message.text
                for call in message.tool_calls:
                    transcript.call(message.text, call["name"], call["args"])
            elif isinstance(message, ToolMessage):
                execution = execution_of(message)
                transcript.result(message.text, execution.images if execution else ())
    return answer


async def main() -> None:
    async with greenroom.aconnect() as pool, pool.session() as session:
        await session.aupload(DATA)
        transcript = Transcript("LangChain")
        transcript.answer(await ask(QUESTION, session, transcript))


if __name__ == "__main__":
    asyncio.run(main())
