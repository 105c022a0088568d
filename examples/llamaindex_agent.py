"""A LlamaIndex ReAct agent that answers a question about a CSV file with pandas, in a sandbox."""

# pyright: reportDeprecated=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (to a type checker every form of run is deprecated, and the type of its result unknown)

import asyncio

from llama_index.core.agent.workflow import AgentOutput, ReActAgent, ToolCallResult
from models.for_llamaindex import chat_model
from question import DATA, INSTRUCTIONS, QUESTION
from transcript import Transcript

import greenroom
from greenroom import Session
from llama_index.tools.greenroom import GreenroomToolSpec, execution_of


async def ask(question: str, session: Session, transcript: Transcript) -> str:
    """Return the agent's answer; its turns go to the transcript as they happen."""
    tools = GreenroomToolSpec(session=session).to_tool_list()
    agent = ReActAgent(tools=tools, llm=chat_model(), system_prompt=INSTRUCTIONS)
    running = agent.run(user_msg=question)
    async for event in running.stream_events():
        if isinstance(event, AgentOutput):
            thought = (event.response.content or "").partition("\nAction:")[0].removeprefix("Thought:")
            for call in event.tool_calls:
                transcript.call(thought, call.tool_name, call.tool_kwargs)
        elif isinstance(event, ToolCallResult):
            execution = execution_of(event)
            transcript.result(event.tool_output.content, execution.images if execution else ())
    output: AgentOutput = await running
    return str(output)


async def main() -> None:
    async with greenroom.aconnect() as pool, pool.session() as session:
        await session.aupload(DATA)
        transcript = Transcript("LlamaIndex")
        transcript.answer(await ask(QUESTION, session, transcript))


if __name__ == "__main__":
    asyncio.run(main())
