"""Figures in a user's message, for models that accept images only from users."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from langchain import agents
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field

from greenroom import Execution, Output
from langchain_greenroom import GreenroomTool
from langchain_greenroom.figures import ShowFigures

if TYPE_CHECKING:
    from greenroom import SessionPool
    from greenroom.testing import ScriptedBackend

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n, and so on").decode()
SHOWN = [
    {"type": "text", "text": "These are the figures that the code drew."},
    {"type": "image", "base64": PNG, "mime_type": "image/png"},
]


class ScriptedModel(GenericFakeChatModel):
    """Plays a model's turns and keeps what it was sent."""

    disable_streaming: bool | Any = True
    read: list[list[BaseMessage]] = Field(default_factory=list[list[BaseMessage]])

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.read.append(list(messages))
        return super()._generate(messages, *args, **kwargs)


def calls(*codes: str) -> AIMessage:
    return AIMessage(
        "", tool_calls=[{"name": "run_python", "args": {"code": code}, "id": f"{n}"} for n, code in enumerate(codes)]
    )


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(messages=iter([calls("plot", "print"), calls("print"), "Done.", "Yes."]))


@pytest.fixture
def agent(model: ScriptedModel, pool: SessionPool, backend: ScriptedBackend) -> Any:
    backend.answers["plot"] = Execution("1", "succeeded", outputs=(Output({"image/png": PNG}),))
    untyped: Any = agents  # its annotations are incomplete
    tool = GreenroomTool(pool=pool)
    return untyped.create_agent(model, [tool], middleware=[ShowFigures()], checkpointer=InMemorySaver())


@pytest.mark.parametrize("method", ["invoke", "ainvoke"])
async def test_the_model_sees_figures_after_the_results_of_their_turn(
    agent: Any, model: ScriptedModel, method: str
) -> None:
    config = {"configurable": {"thread_id": "ann"}}

    async def ask(question: str) -> Any:
        state = getattr(agent, method)({"messages": [HumanMessage(question)]}, config)
        return await state if method == "ainvoke" else state

    await ask("Go.")
    state = await ask("Is that all?")  # its messages come from a checkpoint
    turn = ["human", "ai", "tool", "tool", "human"]
    assert [[message.type for message in messages] for messages in model.read] == [
        ["human"],
        turn,
        [*turn, "ai", "tool"],
        [*turn, "ai", "tool", "ai", "human"],
    ]
    assert [messages[4].content for messages in model.read[1:]] == [SHOWN] * 3
    assert PNG not in str([message.content for message in state["messages"]])
